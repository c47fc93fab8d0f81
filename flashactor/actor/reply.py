"""Replies, and replies to come: what one waits for, in asyncio and in threads."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from flashactor.actor.blocking import Server, refuse_on_event_loop, serving, waiting_for
from flashactor.actor.failures import forked_error
from flashactor.actor.wakes import LoopWaker, running_loop_waker
from flashactor.dispatch import DispatchKey
from flashactor.errors import AskTimeoutError, RequestError
from flashactor.executors.base import Marker
from flashactor.telemetry.bound_log import LastingLogger

log = LastingLogger("flashactor.actor")


class Timings(NamedTuple):
    """Where the time of one request went, in seconds.

    Attributes:
        queued: from ``ask`` until its turn came, less the time that it waited for its kernel.
        compiled: waiting for the kernel, from the cache or from the compiler, and loading it.
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


@dataclass(slots=True, eq=False)  # not frozen: each field would cost a call at construction
class AttentionReply:
    """What an actor answers.

    Attributes:
        key: the cell of the dispatch table.
        kernel_name: the name in logs and traces.
        executor: name of the executor that computed it.
        timings: where the time went.
        request_id: the request's number in logs and traces.
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
    request_id: int = 0
    out: Any = field(default=None, repr=False)
    lse: Any = field(default=None, repr=False)
    dq: Any = field(default=None, repr=False)
    dk: Any = field(default=None, repr=False)
    dv: Any = field(default=None, repr=False)
    dsink_logits: Any = field(default=None, repr=False)
    dalibi_slopes: Any = field(default=None, repr=False)


T = TypeVar("T")


class Asked(Protocol):
    """The request behind a reply."""

    @property
    def server(self) -> Server:
        """The actor that answers."""

    def cancel(self) -> bool:
        """Drop it; False if it was answered before."""


class PendingReply(Generic[T]):
    """A reply to come: ``await`` it in a coroutine, or call ``result(timeout)`` in a thread.

    Any number of coroutines and threads may wait for it. When a coroutine that awaits it is cancelled, and
    nobody else waits or has left a callback, the request is cancelled too.
    """

    __slots__ = (
        "_asked",
        "_callbacks",
        "_error",
        "_launched",
        "_lock",
        "_reply",
        "_settled",
        "_threads",
        "_wakers",
    )

    def __init__(self, asked: Asked | None = None) -> None:
        self._lock = threading.Lock()
        self._asked = asked
        self._settled = False
        self._reply: T | None = None
        self._error: BaseException | None = None
        self._threads: list[threading.Lock] | None = None
        self._wakers: list[tuple[LoopWaker, asyncio.Future[None]]] | None = None
        self._callbacks: list[Callable[[PendingReply[T]], None]] | None = None
        self._launched: PendingReply[Marker | None] | None = None

    @property
    def done(self) -> bool:
        """Whether the reply, or the error in its place, is there."""
        return self._settled

    @property
    def error(self) -> BaseException | None:
        """The error in place of the reply; None if there is none, or nothing yet."""
        return self._error

    @property
    def launched(self) -> PendingReply[Marker | None]:
        """The launch to come: settled when the work is in the device's stream, earlier than its result.

        Its value is the end of the work in the stream; None where there is no stream. Work that fails before
        is an error here, too.
        """
        with self._lock:
            if self._launched is None:
                self._launched = PendingReply(None if self._asked is None else _LaunchAsked(self._asked))
                if self._settled:
                    self._launched.settle(None, self._error)
            return self._launched

    def cancel(self) -> bool:
        """Cancel the request: whoever waits gets AskCancelledError. False if it was answered before.

        One that is not launched is dropped; the kernel of one that is goes on, and keeps its arrays until it
        has ended.
        """
        asked = self._asked
        return asked is not None and asked.cancel()

    def settle(self, reply: T | None, error: BaseException | None = None) -> bool:
        """Deliver the reply or the error; only the first call counts, and returns True."""
        with self._lock:
            if self._settled:
                return False
            self._reply, self._error = reply, error
            self._settled = True
            threads, wakers, callbacks = self._threads, self._wakers, self._callbacks
            launched, asked = self._launched, self._asked
            # A reply that is kept must not keep event loops, executors and the request.
            self._asked = None
            if threads or wakers or callbacks:
                self._threads = self._wakers = self._callbacks = None
        if launched is not None:
            launched.settle(None, error)
        if wakers is not None:
            for waker, waiter in wakers:
                waker.wake(waiter)
        if threads is not None:
            for blocked in threads:
                blocked.release()
        if callbacks is not None:
            with serving(None if asked is None else asked.server):
                for callback in callbacks:
                    self._call(callback)
        return True

    def settle_launch(self, marker: Marker | None) -> None:
        """Say that the work is launched."""
        if self._settled and marker is None:
            return  # so is ``launched``, or will be when somebody asks for it
        with self._lock:
            if self._launched is None:
                self._launched = _LAUNCHED if marker is None else PendingReply()
            launched = self._launched
        launched.settle(marker)

    def add_done_callback(self, callback: Callable[[PendingReply[T]], None]) -> None:
        """Have a function called with this once it is settled: by the thread that settles, or here if it is.

        It must be quick: other replies, and deadlines of other actors, may wait for that thread. What it
        raises is logged, and reaches nobody.
        """
        with self._lock:
            if not self._settled:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        self._call(callback)

    def __await__(self) -> Generator[Any, None, T]:
        if _is_child:
            self._answer_if_inherited()
        if not self._settled:
            waker = running_loop_waker()
            waiter = waker.loop.create_future()
            if self._add_waiter(waker, waiter):
                try:
                    yield from waiter
                except BaseException:  # its task was cancelled, or the coroutine closed
                    self._withdraw(waiter)
                    raise
        try:
            return self._outcome()
        finally:
            del self  # an error has this frame from now on, and would be in a circle with the reply

    def result(self, timeout: float | None = None) -> T:
        """The reply, waiting for at most ``timeout`` seconds (None: for ever).

        Raises:
            RequestError: the limit is no number of seconds, or more than a thread can wait.
            AskTimeoutError: no reply in time; the request goes on.
            BlockingAskError: called on the thread of a running event loop, which this would stop, or on a
                thread that the actor needs for the answer.
            FlashAttnError: the request's own error.
        """
        self.wait(timeout)
        try:
            return self._outcome()
        finally:
            del self  # as in ``__await__``

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is settled; raises as ``result``, but for the request's own error."""
        # A lock takes -1 for "no limit", so a limit that is already over must not reach it.
        limit = -1.0 if timeout is None else max(to_seconds("timeout", timeout), 0.0)
        if _is_child:
            self._answer_if_inherited()
        if not self._settled:
            refuse_on_event_loop(
                "result()", "write `reply = await actor.ask(...)`, or call result() from another thread"
            )
            asked = self._asked
            with waiting_for(None if asked is None else asked.server):
                self._wait(limit, timeout)

    def _wait(self, limit: float, timeout: float | None) -> None:
        blocked = threading.Lock()
        blocked.acquire()
        if not self._add_thread(blocked):
            return
        in_time = False
        try:
            in_time = blocked.acquire(timeout=limit)
        finally:  # KeyboardInterrupt, too
            if not in_time:
                self._remove_thread(blocked)
        if not in_time:
            raise AskTimeoutError(
                field="timeout",
                got=f"no reply within {timeout} s",
                expected="a reply in time",
                remedy="wait longer; the request still runs and result() may be called again",
            )

    def _add_waiter(self, waker: LoopWaker, waiter: asyncio.Future[None]) -> bool:
        with self._lock:
            if self._settled:
                return False
            if self._wakers is None:
                self._wakers = []
            self._wakers.append((waker, waiter))
            return True

    def _withdraw(self, waiter: asyncio.Future[None]) -> None:
        """A coroutine waits no more; if it was the last one, nobody wants the reply."""
        with self._lock:
            if self._wakers is None:
                return
            self._wakers = [entry for entry in self._wakers if entry[1] is not waiter]
            wanted = self._wakers or self._threads or self._callbacks
        if not wanted:
            self.cancel()

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

    def renew_lock(self) -> None:
        """In a forked child: whoever holds the lock or waits is the parent's, and so are the callbacks."""
        self._lock = threading.Lock()
        self._wakers = self._threads = self._callbacks = None
        if self._launched is not None:
            self._launched.renew_lock()

    def _answer_if_inherited(self) -> None:
        """Settle what a thread of the parent was about to settle when this process was forked."""
        asked = self._asked
        if not self._settled and asked is not None and asked.server.inherited:
            self.renew_lock()
            self.settle(None, forked_error())

    def _call(self, callback: Callable[[PendingReply[T]], None]) -> None:
        try:
            callback(self)
        except Exception:
            log.exception("a callback of a reply failed")

    def _outcome(self) -> T:
        error = self._error
        if error is not None:
            try:
                raise error
            finally:
                del self, error
        return cast(T, self._reply)


_is_child = False


def _note_fork() -> None:
    global _is_child
    _is_child = True


os.register_at_fork(after_in_child=_note_fork)


class _LaunchAsked:
    """The request behind ``launched``: who waits no more for the launch may still want the result."""

    def __init__(self, asked: Asked) -> None:
        self.server = asked.server

    def cancel(self) -> bool:
        return False


_LAUNCHED: PendingReply[Marker | None] = PendingReply()
"""What all work that was launched without a device has in common."""
_LAUNCHED.settle(None)


def to_seconds(field: str, timeout: float) -> float:
    """A limit as a float that a lock takes.

    Raises:
        RequestError: it is none.
    """
    try:
        seconds = math.nan if isinstance(timeout, str | bytes) else float(timeout)
    except (TypeError, ValueError):
        seconds = math.nan
    except OverflowError:  # of an integer, which may be too long to print
        seconds = math.inf
    if seconds <= threading.TIMEOUT_MAX:  # never true of NaN
        return seconds
    raise RequestError(
        field=field,
        got=seconds if math.isinf(seconds) else repr(timeout)[:80],
        expected=f"seconds, at most {threading.TIMEOUT_MAX:.0f}, or None",
        remedy="pass a smaller number, or None to wait for ever",
    )
