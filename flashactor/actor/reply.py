"""Replies and the handle that one waits for them with, in asyncio and in threads."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from flashactor.dispatch import DispatchKey
from flashactor.errors import AskTimeoutError, BlockingAskError, RequestError

log = logging.getLogger("flashactor.actor")


class Timings(NamedTuple):
    """Where the time of one request went, in seconds.

    Attributes:
        queued: from ``ask`` until the actor took the message.
        compiled: getting the kernel, from the cache or from the compiler.
        launched: planning and enqueueing it; on the host, computing.
        completed: from the end of the launch until the results were ready.
    """

    queued: float
    compiled: float
    launched: float
    completed: float

    @property
    def total(self) -> float:
        """From ``ask`` until the results were ready."""
        return self.queued + self.compiled + self.launched + self.completed


@dataclass(frozen=True, slots=True, eq=False)
class AttentionReply:
    """What an actor answers.

    Attributes:
        key: the cell of the dispatch table.
        kernel_name: the name in logs and traces.
        executor: name of the executor that computed it.
        timings: where the time went.
        out: attention output, like q (forward).
        lse: natural log of the sum of exp(score), float32 (forward).
        dq, dk, dv: gradients, like q, k, v (backward).
        dsink_logits, dalibi_slopes: gradients, float32, like sink_logits and alibi_slopes (backward of a
            request that has them).
    """

    key: DispatchKey
    kernel_name: str
    executor: str
    timings: Timings
    out: Any = field(default=None, repr=False)
    lse: Any = field(default=None, repr=False)
    dq: Any = field(default=None, repr=False)
    dk: Any = field(default=None, repr=False)
    dv: Any = field(default=None, repr=False)
    dsink_logits: Any = field(default=None, repr=False)
    dalibi_slopes: Any = field(default=None, repr=False)


T = TypeVar("T")


class PendingReply(Generic[T]):
    """A reply to come: ``await`` it in a coroutine, or call ``result(timeout)`` in a thread.

    Any number of coroutines and threads may wait for it. Cancelling a coroutine that waits cancels the
    waiting, not the request.
    """

    __slots__ = ("_callbacks", "_error", "_lock", "_reply", "_settled", "_threads", "_wakers")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled = False
        self._reply: T | None = None
        self._error: BaseException | None = None
        self._threads: list[threading.Lock] | None = None
        self._wakers: list[tuple[_LoopWaker, asyncio.Future[None]]] | None = None
        self._callbacks: list[Callable[[PendingReply[T]], None]] | None = None

    @property
    def done(self) -> bool:
        """Whether the reply, or the error in its place, is there."""
        return self._settled

    def settle(self, reply: T | None, error: BaseException | None = None) -> bool:
        """Deliver the reply or the error; only the first call counts, and returns True."""
        with self._lock:
            if self._settled:
                return False
            self._reply, self._error = reply, error
            self._settled = True
            threads, wakers, callbacks = self._threads, self._wakers, self._callbacks
            # A reply that is kept must not keep event loops and executors.
            self._threads = self._wakers = self._callbacks = None
        if wakers is not None:
            for waker, waiter in wakers:
                waker.wake(waiter)
        if threads is not None:
            for blocked in threads:
                blocked.release()
        if callbacks is not None:
            for callback in callbacks:
                self._call(callback)
        return True

    def add_done_callback(self, callback: Callable[[PendingReply[T]], None]) -> None:
        """Have a function called with this once it is settled: by the thread that settles, or here if it is.

        What the function raises is logged, and reaches nobody.
        """
        with self._lock:
            if not self._settled:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        self._call(callback)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._settled:
            waker = _running_loop_waker()
            waiter = waker.loop.create_future()
            if self._add_waiter(waker, waiter):
                yield from waiter
        return self._outcome()

    def result(self, timeout: float | None = None) -> T:
        """The reply, waiting for at most ``timeout`` seconds (None: for ever).

        Raises:
            RequestError: the limit is no number of seconds, or more than a thread can wait.
            AskTimeoutError: no reply in time; the request goes on.
            BlockingAskError: called on the thread of a running event loop, which this would stop.
            FlashAttnError: the request's own error.
        """
        # A lock takes -1 for "no limit", so a limit that is already over must not reach it.
        limit = -1.0 if timeout is None else max(_seconds(timeout), 0.0)
        if not self._settled:
            _refuse_on_event_loop()
            blocked = threading.Lock()
            blocked.acquire()
            if self._add_thread(blocked) and not blocked.acquire(timeout=limit):
                self._remove_thread(blocked)
                raise AskTimeoutError(
                    field="timeout",
                    got=f"no reply within {timeout} s",
                    expected="a reply in time",
                    remedy="wait longer; the request still runs and result() may be called again",
                )
        return self._outcome()

    def _add_waiter(self, waker: _LoopWaker, waiter: asyncio.Future[None]) -> bool:
        with self._lock:
            if self._settled:
                return False
            if self._wakers is None:
                self._wakers = []
            self._wakers.append((waker, waiter))
            return True

    def _add_thread(self, blocked: threading.Lock) -> bool:
        with self._lock:
            if self._settled:
                return False
            if self._threads is None:
                self._threads = []
            self._threads.append(blocked)
            return True

    def _remove_thread(self, blocked: threading.Lock) -> None:
        with self._lock:
            if self._threads is not None and not self._settled:
                self._threads.remove(blocked)

    def _call(self, callback: Callable[[PendingReply[T]], None]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("a callback of a reply failed")

    def _outcome(self) -> T:
        if self._error is not None:
            raise self._error
        assert self._reply is not None
        return self._reply


class _LoopWaker:
    """Wakes coroutines of one event loop from other threads, with one wake-up for a burst of replies.

    ``call_soon_threadsafe`` writes to the loop's self-pipe, a system call: for pipelined asks it would cost
    more than the dispatch itself.
    """

    __slots__ = ("_ready", "_scheduled", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    def wake(self, waiter: asyncio.Future[None]) -> None:
        self._ready.append(waiter)
        if self._scheduled:  # the drain has not begun yet, so it will find this waiter
            return
        self._scheduled = True
        deferred = getattr(_thread, "deferred", None)
        if deferred is None:
            self.schedule()
        else:
            deferred.append(self)

    def schedule(self) -> None:
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

    An actor flushes when it is about to wait for its next message. Waking a loop earlier makes the loop's
    thread wait for the interpreter lock that the actor still holds; measured on two cores, that turned a
    round trip of 25 us into one of 85 (``benchmarks/dispatch.py``).
    """

    __slots__ = ("_wakers",)

    def __init__(self) -> None:
        self._wakers: list[_LoopWaker] = []

    def install(self) -> None:
        """Hold back the wake-ups of the calling thread from now on."""
        _thread.deferred = self._wakers

    def flush(self) -> None:
        """Send what was held back; call it from the thread that installed this."""
        while self._wakers:
            self._wakers.pop().schedule()


def _running_loop_waker() -> _LoopWaker:
    loop = asyncio.get_running_loop()
    waker: _LoopWaker | None = getattr(_thread, "waker", None)
    if waker is None or waker.loop is not loop:
        waker = _thread.waker = _LoopWaker(loop)
    return waker


def _seconds(timeout: float) -> float:
    """A limit as a float that a lock takes."""
    try:
        seconds = math.nan if isinstance(timeout, str | bytes) else float(timeout)
    except (TypeError, ValueError):
        seconds = math.nan
    except OverflowError:  # of an integer, which may be too long to print
        seconds = math.inf
    if seconds <= threading.TIMEOUT_MAX:  # never true of NaN
        return seconds
    raise RequestError(
        field="timeout",
        got=seconds if math.isinf(seconds) else repr(timeout)[:80],
        expected=f"seconds, at most {threading.TIMEOUT_MAX:.0f}, or None",
        remedy="pass a smaller number, or None to wait for ever",
    )


def _refuse_on_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BlockingAskError(
        field="result()",
        got="a call on the thread of a running event loop",
        expected="await in coroutines",
        remedy="write `reply = await actor.ask(...)`, or call result() from another thread",
    )
