"""The life of an actor: its address stays when the thread and the executor behind it are replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

from flashactor.actor.address import Address
from flashactor.actor.ask import Ask
from flashactor.actor.blocking import refuse_on_event_loop, would_deadlock
from flashactor.actor.failures import (
    forked_error,
    given_up_error,
    own_copy,
    poisoned_answer,
    stopped_error,
)
from flashactor.actor.incarnation import Incarnation
from flashactor.actor.messages import FlashAttnProps
from flashactor.actor.meter import ActorStats
from flashactor.actor.reply import to_seconds
from flashactor.actor.restarts import RestartHistory
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ContextPoisonedError, FlashAttnError
from flashactor.executors.base import Executor, Work

EXIT_SECONDS = 30.0
"""How long ``stop`` waits for what was asked before."""


class ActorHandle(Address):
    """A running attention service: messages in, replies out, in order, on one executor after the other.

    May be used from any thread and from coroutines.

    Attributes:
        props: what it was started with.
    """

    def __init__(
        self,
        props: FlashAttnProps,
        make_executor: Callable[[], Executor],
        supervisor: Supervisor,
        record: Callable[[Work], None] | None = None,
    ) -> None:
        """Start an actor.

        Args:
            make_executor: called for each incarnation.
            supervisor: decides what happens after failures.
            record: hears of all work.

        Raises:
            FlashAttnError: the first executor cannot be made.
        """
        super().__init__(props)
        self._make_executor = make_executor
        self._supervisor = supervisor
        self._record = record
        self._desk.on_poison = self._on_poison
        self._history = RestartHistory(props.restart)
        self._lock = threading.Lock()
        self._generation = 0
        self._incarnation: Incarnation | None = None
        self._stopping = False
        self._failure: FlashAttnError | None = None
        self._ended = threading.Event()
        self.begin(supervisor.context)
        supervisor.adopt(self)
        self._log.info("actor.started", executor=self.executor_name, max_in_flight=props.max_in_flight)

    @property
    def label(self) -> str:
        """The name in logs and metrics."""
        return self.props.label

    @property
    def executor_name(self) -> str:
        """The name of the executor that ``auto`` or the caller picked."""
        return self._executor.name

    @property
    def is_alive(self) -> bool:
        """Whether messages are taken: it is not stopped, nor given up by its supervisor."""
        return not self._stopping and self._failure is None

    @property
    def unanswered(self) -> int:
        """Number of messages that are not answered; cheaper than ``stats``."""
        return self._ledger.unanswered

    @property
    def is_idle(self) -> bool:
        """Whether ``stop`` has nothing to wait for: everything is answered and nothing runs."""
        return self._ledger.is_idle or self._ended.is_set()

    @property
    def failure(self) -> FlashAttnError | None:
        """Why the supervisor gave it up; None if it did not."""
        return self._failure

    def stats(self) -> ActorStats:
        """Counts and durations since the start."""
        generation = self._generation
        return self._ledger.stats(self._mailbox.waiting, generation, generation - 1)

    def stop(self, timeout: float | None = EXIT_SECONDS, *, drain: bool = True) -> None:
        """Stop; everything that was asked is answered when this returns.

        Later messages are answered with ActorStoppedError, and so is what is not done in time. On one of the
        actor's own threads, in a callback of a reply, it does not wait.

        Args:
            timeout: seconds for what was asked before; None: as long as it takes.
            drain: whether to do what was asked before; False answers it with ActorStoppedError at once.

        Raises:
            BlockingAskError: called on the thread of a running event loop, with work to wait for.
            RequestError: the limit is no number of seconds.
        """
        seconds = None if timeout is None else max(to_seconds("timeout", timeout), 0.0)
        if drain and not self.is_idle:
            refuse_on_event_loop("stop()", "write `await actor.aclose()`, or stop(drain=False)")
        self.begin_stop()
        if would_deadlock(self._desk):
            if not drain:
                self._abort()
            return
        if drain and not self._ended.wait(seconds):
            self._log.warning("actor.stop_timed_out", unanswered=self._ledger.unanswered)
            drain = False
        if not drain:
            self._abort()
        incarnation = self._incarnation
        if incarnation is not None:
            incarnation.join()

    def begin_stop(self) -> None:
        """Take no more messages, and end when the others are done; it does not wait. ``stop`` does."""
        with self._lock:
            first, self._stopping = not self._stopping, True
            incarnation = self._incarnation
        if not first:
            return
        self._ledger.close(draining=True)
        if incarnation is not None:
            incarnation.stop()

    # What the supervisor calls.

    def next_delay(self) -> float | None:
        """Count a failure: seconds until the restart, or None if the policy gives up."""
        return self._history.next_delay(perf_counter())

    def begin(self, context: int) -> bool:
        """Start the next incarnation in a context of the device, unless the actor has ended.

        Raises:
            BaseException: whatever the executor's maker raises.
        """
        if self._ended.is_set() or self._failure is not None:
            return False
        executor = self._make_executor()
        with self._lock:
            self._generation += 1
            incarnation = self._incarnation = Incarnation(
                self._desk,
                self._mailbox,
                executor,
                generation=self._generation,
                context=context,
                on_end=self._on_end,
                record=self._record,
                hang_seconds=self.props.hang_seconds,
            )
            incarnation.stopping = self._stopping
        self._executor = executor
        try:
            incarnation.start()
        except BaseException:  # the system has no more threads
            executor.abandon()
            raise
        return True

    def fail(self, cause: BaseException) -> None:
        """Have the present incarnation fail."""
        incarnation = self._incarnation
        if incarnation is not None:
            incarnation.fail(cause)

    def give_up(self, cause: BaseException) -> None:
        """Its policy has given it up: answer everything with ActorFailedError, now and in future."""
        policy = self.props.restart
        self._end_with(given_up_error(cause, policy.max_restarts + 1, policy.within), cause)

    def lose(self, cause: ContextPoisonedError) -> None:
        """The device's context is lost for good: answer everything with that, now and in future."""
        self._end_with(cause, cause)

    def on_end(self) -> None:
        """The actor has ended; perhaps not for the first time."""

    def forget(self) -> None:
        """In a forked child: the threads are the parent's, so everything is answered here."""
        self._ledger.renew_lock()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._failure = forked_error()
        # The parent counts its messages, and tells its observers of them.
        self._desk.observers, self._desk.on_told_failure = (), _ignore
        self._ledger.close()
        self._ended.set()
        for ask in self._ledger.open_asks():
            ask.gate = None
            if ask.pending is not None:
                ask.pending.renew_lock()
            ask.fail(self._refusal())

    def _refusal(self) -> BaseException:
        return stopped_error() if self._failure is None else own_copy(self._failure)

    def _on_poison(self, ask: Ask, error: ContextPoisonedError) -> BaseException:
        incarnation = self._incarnation
        if incarnation is None:
            return error
        if ask.generation == incarnation.generation:
            incarnation.fail(error)
        return poisoned_answer(error, renewable=incarnation.executor.renewable)

    def _on_end(self, incarnation: Incarnation) -> None:
        """An incarnation has ended; on its thread, or on that of the deadlines."""
        try:
            if incarnation.cause is None:
                incarnation.executor.close()
            else:
                incarnation.executor.abandon()
        except BaseException:
            self._log.exception("executor.end_failed")
        if incarnation.cause is None:
            self._end()
        elif not self._ended.is_set() and self._failure is None:
            self._supervisor.failed(self, incarnation, incarnation.cause)

    def _end_with(self, failure: FlashAttnError, cause: BaseException) -> None:
        if self._ended.is_set():
            return
        self._failure = failure
        self._ledger.close()
        self.fail(cause)
        for ask in self._ledger.open_asks():
            ask.fail(self._refusal())
        self._supervisor.release(self)
        self._say_that_it_ended()

    def _abort(self) -> None:
        """Answer everything now, and leave what runs to itself."""
        for ask in self._ledger.open_asks():
            ask.stop()
        incarnation, running = self._incarnation, not self._ended.is_set()
        self._end()
        # Before the places are free: an idle actor that is to stop closes its executor, which waits for
        # what runs; one that failed abandons it.
        if incarnation is not None and running:
            incarnation.fail(stopped_error())
        self._ledger.clear_places()

    def _end(self) -> None:
        self._supervisor.release(self)
        self._stopping = True  # also where pykka's registry has stopped the thread
        self._ledger.close()
        # A thread that was about to enter its message when the ledger closed has left it there.
        for ask in self._ledger.open_asks():
            ask.stop()
        if not self._ended.is_set():
            self._log.info("actor.stopped")
        self._say_that_it_ended()

    def _say_that_it_ended(self) -> None:
        try:
            self.on_end()
        finally:
            self._ended.set()  # who waits in ``stop`` finds all of it done


def _ignore(_ask: Ask, _error: BaseException) -> None:
    pass
