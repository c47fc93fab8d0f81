"""Which threads must not wait for which actor: those that it needs in order to answer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flashactor.errors import BlockingAskError


class Server:
    """An actor as something to wait for.

    Attributes:
        waits_for: the actor that a thread of this one waits for; None while it waits for none.
    """

    def __init__(self) -> None:
        self.waits_for: Server | None = None
        self._process = _process

    @property
    def inherited(self) -> bool:
        """Whether it is of a parent process that forked: its threads, and their answers, are there."""
        return self._process is not _process


_thread = threading.local()
_process = object()


def _renew() -> None:
    """In a forked child: its only thread serves nobody, whatever it did in the parent."""
    global _process, _thread
    _process, _thread = object(), threading.local()


os.register_at_fork(after_in_child=_renew)


def serve(server: Server | None) -> None:
    """The calling thread does the work of an actor from now on; None: of none."""
    _thread.server = server


@contextmanager
def serving(server: Server | None) -> Iterator[None]:
    """The calling thread runs code of others on behalf of an actor, such as the callback of a reply."""
    before = getattr(_thread, "server", None)
    if server is not None:
        _thread.server = server
    try:
        yield
    finally:
        _thread.server = before


def serve_all() -> None:
    """The calling thread does work for many actors from now on: it must wait for none of them."""
    _thread.serves_all = True


def would_deadlock(server: Server | None) -> bool:
    """Whether the calling thread must not wait for an actor: it is the actor's own, or the actor, or one that
    that one waits for, waits for the actor that this thread serves."""
    if getattr(_thread, "serves_all", False):
        return True
    mine = getattr(_thread, "server", None)
    if mine is None:
        return False
    seen: set[Server] = set()
    while server is not None and server not in seen:
        if server is mine:
            return True
        seen.add(server)
        server = server.waits_for
    return False


@contextmanager
def waiting_for(server: Server | None) -> Iterator[None]:
    """The calling thread waits for an actor.

    Raises:
        BlockingAskError: that would never end.
    """
    mine = getattr(_thread, "server", None)
    if mine is None or server is None:
        yield
        return
    before, mine.waits_for = mine.waits_for, server
    try:
        if would_deadlock(server):
            raise BlockingAskError(
                field="result()",
                got="a call on a thread of the very actor that has to answer, or of one that it waits for",
                expected="another thread",
                remedy="use add_done_callback, or wait in a thread of your own",
            )
        yield
    finally:
        mine.waits_for = before


def on_event_loop() -> bool:
    """Whether the calling thread runs an event loop right now, which waiting here would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_on_event_loop(field: str, remedy: str) -> None:
    """
    Raises:
        BlockingAskError: called on the thread of a running event loop.
    """
    if on_event_loop():
        raise BlockingAskError(
            field=field,
            got="a call on the thread of a running event loop",
            expected="await in coroutines",
            remedy=remedy,
        )
