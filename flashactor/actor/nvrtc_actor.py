"""The actor that compiles: each kernel once in a process however many ask, on threads of its own.

Whoever asks goes on at once; dispatching never waits for NVRTC. Across processes the cache sees to it that a
kernel is compiled once (``flashactor.cache.claim``).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import pykka

from flashactor.actor.failures import actor_failed, busy_error, own_copy, stopped_error
from flashactor.actor.reply import PendingReply, to_seconds
from flashactor.errors import ActorStoppedError, FlashAttnError, RequestError
from flashactor.telemetry.bound_log import LastingLogger
from flashactor.types import is_count

if TYPE_CHECKING:
    from flashactor.cache.record import CachedKernel
    from flashactor.kernels.spec import KernelSpec

log = LastingLogger("flashactor.actor")

MAX_WORKERS = 8
"""Threads of an actor that was told no number: a burst of new kernels should leave the host some cores."""


@dataclass(frozen=True, slots=True)
class NvrtcStats:
    """Counts since the actor started.

    Attributes:
        asked: asks for a kernel.
        joined: of them, those that another ask's work answered.
        delivered: kernels that were found or compiled.
        failed: kernels that were not.
        pending: kernels that are asked for and not there yet.
    """

    asked: int = 0
    joined: int = 0
    delivered: int = 0
    failed: int = 0
    pending: int = 0


class KernelCache(Protocol):
    """What compiles and keeps kernels, blocking the thread that calls."""

    def key(self, spec: KernelSpec) -> str:
        """What tells its kernel from all others."""

    def get_or_compile(self, spec: KernelSpec) -> CachedKernel:
        """The kernel, from wherever it is fastest."""


class NvrtcActor:
    """A running compile service: specifications in, cubins out.

    ``ask`` may be called from any thread and from coroutines. Use it as a context manager, or call ``stop``.

    Attributes:
        cache: where kernels come from.
    """

    def __init__(self, cache: KernelCache, workers: int | None = None) -> None:
        """Start an actor.

        Args:
            cache: finds kernels, and compiles those that it lacks; a ``CubinCache``.
            workers: most compiles at once (default: one for each processor, at most 8).

        Raises:
            RequestError: workers is not positive.
        """
        if workers is not None and not is_count(workers, 1):
            raise RequestError("workers", workers, "an integer of at least 1", "leave it out")
        self._process = os.getpid()
        self.cache = cache
        self._board = _Board()
        self._ref: pykka.ActorRef[_CompileActor] = _CompileActor.start(
            cache, workers or min(os.cpu_count() or 1, MAX_WORKERS), self._board
        )

    @property
    def is_alive(self) -> bool:
        """Whether asks are still taken; a forked child has none of its parent's threads."""
        return self._ref.is_alive() and self._process == os.getpid()

    @property
    def failure(self) -> BaseException | None:
        """Why its thread ended by itself; None if it runs, or was stopped on purpose."""
        return self._board.failure

    def ask(self, spec: KernelSpec) -> PendingReply[CachedKernel]:
        """Ask for a kernel. ``await`` the result in a coroutine, or call ``.result(timeout)`` in a thread.

        Whatever goes wrong is raised there: CompileError to all that asked for the kernel meanwhile, and not
        remembered; CacheMissError; ActorStoppedError.
        """
        pending: PendingReply[CachedKernel] = PendingReply()
        self._tell(_Ask(spec, pending))
        # A message that was put into the mailbox of an actor that had just died: nobody will read it. If it
        # was read after all, it is answered by now or will be, and the first answer counts.
        if not self.is_alive:
            pending.settle(None, _stopped())
        return pending

    def stats(self) -> NvrtcStats:
        """Counts since the start."""
        return self._board.stats

    def stop(self, timeout: float | None = None, *, drop: bool = False) -> None:
        """Compile what was asked so far, then stop; later asks are answered with ActorStoppedError.

        On the actor's own thread, in a callback of a reply, it does not wait.

        Args:
            timeout: seconds to wait for the end; None waits for ever.
            drop: answer with ActorStoppedError whatever has not begun, too.

        Raises:
            AskTimeoutError: the actor is still busy; it stops when it is done.
            RequestError: the limit is no number of seconds; nothing is stopped.
        """
        seconds = None if timeout is None else to_seconds("timeout", timeout)
        if self._process != os.getpid():
            return
        self._tell(_Stop(drop))
        if self._board.thread == threading.get_ident():
            return
        if not self._ref.actor_stopped.wait(seconds):
            raise busy_error(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(drop=error is not None)

    def _tell(self, message: object) -> None:
        try:
            self._ref.tell(message)
        except pykka.ActorDeadError:
            log.debug("message for a stopped actor")


@dataclass(frozen=True, slots=True)
class _Ask:
    spec: KernelSpec
    pending: PendingReply[CachedKernel]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a worker tells: the kernel, or the error in its place."""

    key: str
    kernel: CachedKernel | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Stop:
    drop: bool


@dataclass(slots=True)
class _Board:
    """Where the actor's thread writes its counts, and any thread reads them."""

    stats: NvrtcStats = field(default_factory=NvrtcStats)
    thread: int | None = None
    failure: BaseException | None = None

    def count(self, **numbers: int) -> None:
        """Add to counts."""
        self.stats = replace(
            self.stats, **{name: getattr(self.stats, name) + n for name, n in numbers.items()}
        )


@dataclass(slots=True)
class _Job:
    """A kernel that is asked for, and all that wait for it."""

    spec: KernelSpec
    waiters: list[PendingReply[CachedKernel]] = field(default_factory=list)


class _CompileActor(pykka.ThreadingActor):
    """The receive loop: it alone touches the jobs. No more than ``workers`` of them are with the pool, so an
    interpreter that exits waits for those and not for a whole queue."""

    use_daemon_thread = True

    def __init__(self, cache: KernelCache, workers: int, board: _Board) -> None:
        super().__init__()
        self._cache = cache
        self._board = board
        self._pool = ThreadPoolExecutor(workers, "flashactor-nvrtc")
        self._free = workers
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[str] = deque()
        self._stopping = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            _Ask: self._on_ask,
            _Made: self._on_made,
            _Stop: self._on_stop_asked,
        }

    def on_start(self) -> None:
        """Say which thread must not wait for this one."""
        self._board.thread = threading.get_ident()

    def on_receive(self, message: Any) -> None:
        """Handle one message.

        What fails here (there are no more threads) ends this actor; pykka would stop all for a SystemExit.
        """
        try:
            self._handlers[type(message)](message)
        except BaseException as error:
            log.exception("compiler.failed")
            self._board.failure = error
            if isinstance(message, _Ask):
                message.pending.settle(None, _stopped())
            self.stop()

    def on_stop(self) -> None:
        """Answer whoever is left, also in the mailbox."""
        for key in list(self._jobs):
            self._answer(key, None, _stopped())
        while not self.actor_inbox.empty():
            message = self.actor_inbox.get().message
            if isinstance(message, _Ask):
                message.pending.settle(None, _stopped())
        self._pool.shutdown(wait=False)

    def on_failure(self, *_exception: Any) -> None:
        """As ``on_stop``, after an error that pykka caught."""
        self.on_stop()

    def _on_ask(self, ask: _Ask) -> None:
        self._board.count(asked=1)
        if self._stopping:
            ask.pending.settle(None, _stopped())
            return
        try:
            key = self._cache.key(ask.spec)
        except Exception as error:
            self._board.count(failed=1)
            ask.pending.settle(None, _answerable(error))
            return
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(ask.spec)
            self._board.count(pending=1)
            self._queue.append(key)
        else:
            self._board.count(joined=1)
        job.waiters.append(ask.pending)
        self._start_jobs()

    def _on_made(self, made: _Made) -> None:
        self._free += 1
        self._answer(made.key, made.kernel, made.error)
        self._start_jobs()
        self._stop_if_done()

    def _on_stop_asked(self, stop: _Stop) -> None:
        self._stopping = True
        if stop.drop:
            while self._queue:
                self._answer(self._queue.popleft(), None, _stopped())
        self._stop_if_done()

    def _answer(self, key: str, kernel: CachedKernel | None, error: BaseException | None) -> None:
        self._board.count(pending=-1, delivered=int(error is None), failed=int(error is not None))
        for pending in self._jobs.pop(key).waiters:
            pending.settle(kernel, None if error is None else own_copy(error))

    def _start_jobs(self) -> None:
        while self._queue and self._free:
            key = self._queue.popleft()
            self._free -= 1
            try:
                self._pool.submit(self._make, key, self._jobs[key].spec)
            except RuntimeError as error:
                if "shutdown" not in str(error):
                    raise
                self.stop()  # the interpreter exits: nobody will compile anything any more
                return

    def _stop_if_done(self) -> None:
        if self._stopping and not self._jobs:
            self.stop()

    def _make(self, key: str, spec: KernelSpec) -> None:
        """On a worker's thread: get the kernel, and tell the actor."""
        try:
            made = _Made(key, self._cache.get_or_compile(spec), None)
        except BaseException as error:
            made = _Made(key, None, _answerable(error))
        with suppress(pykka.ActorDeadError):  # then on_stop has answered
            self.actor_ref.tell(made)


def _answerable(error: BaseException) -> BaseException:
    if isinstance(error, FlashAttnError):
        return error
    log.error("the cache failed", exc_info=error)
    return actor_failed(error)


def _stopped() -> ActorStoppedError:
    return stopped_error("start another NvrtcActor and ask it")
