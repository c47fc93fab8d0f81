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
        waits_for: the actors that threads of this one wait for now, each as often as there are threads.
    """

    def __init__(self) -> None:
        self.waits_for: list[Server] = []
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


def serve(server: Server) -> None:
    """The calling thread does the work of an actor from now on."""
    _thread.servers = (server,)


@contextmanager
def serving(server: Server | None) -> Iterator[None]:
    """The calling thread runs code of others on behalf of one more actor, such as the callback of a reply."""
    before = _servers()
    if server is not None and server not in before:
        _thread.servers = (*before, server)
    try:
        yield
    finally:
        _thread.servers = before


def serve_all() -> None:
    """The calling thread does work for many actors from now on: it must wait for none of them."""
    _thread.serves_all = True


def would_deadlock(server: Server | None) -> bool:
    """Whether the calling thread must not wait for an actor: it is one of those that this thread serves, or
    it waits for one of those, or for one that does."""
    if getattr(_thread, "serves_all", False):
        return True
    mine = _servers()
    if not mine or server is None:
        return False
    seen: set[Server] = set()
    left = [server]
    while left:
        server = left.pop()
        if server in mine:
            return True
        if server not in seen:
            seen.add(server)
            left.extend(server.waits_for)
    return False


@contextmanager
def waiting_for(server: Server | None) -> Iterator[None]:
    """The calling thread waits for an actor.

    Raises:
        BlockingAskError: that would never end.
    """
    if server is None:
        yield
        return
    mine = _servers()
    for one in mine:  # first: of two threads that begin to wait for each other, one at least notices
        one.waits_for.append(server)
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
        for one in mine:
            one.waits_for.remove(server)


def _servers() -> tuple[Server, ...]:
    found: tuple[Server, ...] = getattr(_thread, "servers", ())
    return found


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
