"""Waking coroutines from other threads, late and rarely enough to be cheap."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from flashactor.telemetry.bound_log import LastingLogger

log = LastingLogger("flashactor.actor")


class LoopWaker:
    """Wakes coroutines of one event loop from other threads, with one wake-up for a burst of replies.

    ``call_soon_threadsafe`` writes to the loop's self-pipe, a system call: for pipelined asks it would cost
    more than the dispatch itself.
    """

    __slots__ = ("_deferred", "_ready", "_scheduled", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: deque[asyncio.Future[None]] = deque()
        self._scheduled = False
        self._deferred: list[LoopWaker] | None = None  # by the thread whose list this is, the last that did

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Wake a coroutine of the loop; by any thread."""
        self._ready.append(waiter)
        if self._scheduled:  # the drain has not begun yet, so it will find this waiter
            return
        deferred = getattr(_thread, "deferred", None)
        if deferred is None:  # also where another thread has put the wake-up off, and may be stuck by now
            self.schedule()
        elif self._deferred is not deferred:
            self._deferred = deferred
            deferred.append(self)

    def schedule(self) -> None:
        """Have the loop wake all that are to be woken."""
        self._scheduled, self._deferred = True, None
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            log.debug("reply for an event loop that is closed")

    def _drain(self) -> None:
        self._scheduled = False
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.done():  # else its task was cancelled
                waiter.set_result(None)


_thread = threading.local()


class DeferredWakes:
    """Holds back the wake-ups that one thread owes to event loops until it says ``flush``.

    An actor flushes when it is about to look for its next message. Waking a loop earlier makes the loop's
    thread wait for the interpreter lock that the actor still holds.
    """

    __slots__ = ("_wakers",)

    def __init__(self) -> None:
        self._wakers: list[LoopWaker] = []

    def install(self) -> None:
        """Hold back the wake-ups of the calling thread from now on."""
        _thread.deferred = self._wakers

    def flush(self) -> None:
        """Send what was held back; call it from the thread that installed this."""
        while self._wakers:
            self._wakers.pop().schedule()


def running_loop_waker() -> LoopWaker:
    """The waker of the event loop that runs on the calling thread, one for all that waits there.

    Raises:
        RuntimeError: none runs there.
    """
    loop = asyncio.get_running_loop()
    waker: LoopWaker | None = getattr(_thread, "waker", None)
    if waker is None or waker.loop is not loop:
        waker = _thread.waker = LoopWaker(loop)
    return waker
