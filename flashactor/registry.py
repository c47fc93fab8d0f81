"""Registry of attention implementations: executors and kernel families, and which one is preferred.

The semantics are those of PyTorch's registry of flash attention implementations, free of torch: registering
stores a function and calls nothing; activating is explicit and idempotent; restoring undoes an activation
through the handle that it returned. At most one implementation is active at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from flashactor.errors import UnknownImplementationError


class Handle(Protocol):
    """What keeps an activation alive."""

    def remove(self) -> None:
        """Undo the activation."""


RegisterFn = Callable[[], Handle | None]

_lock = threading.RLock()
_register_fns: dict[str, RegisterFn] = {}
_active: str | None = None
_active_handle: Handle | None = None


def register(name: str, *, register_fn: RegisterFn) -> None:
    """Store the function that activates an implementation; registering a name again replaces it.

    Args:
        name: what users activate it by.
        register_fn: called by ``activate``; returns a handle that undoes it, or None.
    """
    with _lock:
        _register_fns[name] = register_fn


def activate(name: str) -> None:
    """Make an implementation the preferred one; nothing happens if it is active already.

    The implementation that was active before is restored first. If the new one's function raises, none is
    active.

    Raises:
        UnknownImplementationError: no such name; the active implementation stays active.
    """
    global _active, _active_handle
    with _lock:
        if name not in _register_fns:
            raise UnknownImplementationError(
                field="implementation",
                got=repr(name),
                expected="one of " + ", ".join(list()),
                remedy="register it first, or activate one of these",
            )
        if name == _active:
            return
        restore()
        _active_handle = _register_fns[name]()
        _active = name


def restore() -> None:
    """Undo the active implementation's activation; nothing happens if none is active."""
    global _active, _active_handle
    with _lock:
        handle, _active, _active_handle = _active_handle, None, None
        if handle is not None:
            handle.remove()


def current() -> str | None:
    """The active implementation's name, or None."""
    return _active


@contextmanager
def activated(name: str) -> Iterator[None]:
    """Activate an implementation for a block of code, and bring back the one that was active before.

    Raises:
        UnknownImplementationError: no such name.
    """
    before = current()
    activate(name)
    try:
        yield
    finally:
        if before is None:
            restore()
        else:
            activate(before)


class PreferenceStack:
    """Names that activations prefer, the latest last; what most register functions come down to."""

    def __init__(self) -> None:
        self._names: deque[str] = deque()

    def register(self, name: str) -> None:
        """Register a name whose activation puts it on this stack until it is restored."""
        register(name, register_fn=lambda: self._push(name))

    @property
    def preferred(self) -> str | None:
        """The name that is activated, None if no name of this stack is."""
        return self._names[-1] if self._names else None

    def _push(self, name: str) -> Handle:
        self._names.append(name)
        return _Removal(lambda: self._names.remove(name))


@dataclass(frozen=True, slots=True)
class _Removal:
    remove: Callable[[], None]


# Last, because it hides the builtin for the annotations after it.
def list() -> Sequence[str]:
    """The registered names, sorted."""
    with _lock:
        return sorted(_register_fns)
