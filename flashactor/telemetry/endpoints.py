"""What listens for those who look at this process: started once if the settings ask for it, never forked."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from flashactor.errors import RequestError
from flashactor.telemetry.bound_log import bound_log


class Endpoint(Protocol):
    """A thread of this process that answers others."""

    def close(self) -> None:
        """Stop answering."""

    def forget(self) -> None:
        """In a forked child, which has no such thread: leave what was inherited to the parent."""


_open: weakref.WeakSet[Endpoint] = weakref.WeakSet()
_started: dict[str, Endpoint | None] = {}
_lock = threading.Lock()


def opened(endpoint: Endpoint) -> None:
    """Remember an endpoint, so that a forked child gives it up."""
    _open.add(endpoint)


def start_once(name: str, start: Callable[[], Endpoint]) -> None:
    """Start an endpoint that the settings ask for, unless this process has tried to before.

    Several processes may have the same settings, and one of them alone the port: a refusal is logged as a
    warning, ``endpoint.refused``, and nothing fails.
    """
    with _lock:
        if name in _started:
            return
        _started[name] = None
        try:
            _started[name] = start()
        except RequestError as error:
            bound_log("telemetry").warning("endpoint.refused", endpoint=name, error=str(error))


def stop_started() -> None:
    """Close what ``start_once`` started; it may be started again."""
    with _lock:
        for endpoint in _started.values():
            if endpoint is not None:
                endpoint.close()
        _started.clear()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    for endpoint in list(_open):
        endpoint.forget()
    _open.clear()
    _started.clear()


os.register_at_fork(after_in_child=_forget)
