"""The life of an actor: one incarnation after the other, until its end."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from time import perf_counter

from flashactor.actor.ask import Ask, Desk
from flashactor.actor.blocking import would_deadlock
from flashactor.actor.failures import (
    forked_error,
    given_up_error,
    own_copy,
    poisoned_answer,
    stopped_error,
)
from flashactor.actor.incarnation import Incarnation
from flashactor.actor.mailbox import Mailbox
from flashactor.actor.messages import FlashAttnProps
from flashactor.actor.restarts import RestartHistory
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ContextPoisonedError, FlashAttnError
from flashactor.executors.base import Executor, Work


class Life:
    """What is behind an address: the present incarnation, and what becomes of it.

    Attributes:
        executor: of the present incarnation, or of the last one.
        generation: number of the present incarnation, from 1.
        failure: why it was given up or lost; None if it was not.
        stopping: whether it takes no more messages, because somebody stopped it.
    """

    executor: Executor

    def __init__(
        self,
        props: FlashAttnProps,
        desk: Desk,
        mailbox: Mailbox,
        make_executor: Callable[[], Executor],
        supervisor: Supervisor,
        *,
        record: Callable[[Work], None] | None,
        on_end: Callable[[], None],
    ) -> None:
        """
        Args:
            props, desk, mailbox: the address's.
            make_executor: called for each incarnation.
            supervisor: decides what happens after failures.
            record: hears of all work.
            on_end: called when it has ended, perhaps more than once.
        """
        self.generation = 0
        self.failure: FlashAttnError | None = None
        self.stopping = False
        self._props, self._desk, self._mailbox = props, desk, mailbox
        self._ledger, self._log = desk.ledger, desk.log
        self._make_executor = make_executor
        self._supervisor = supervisor
        self._record = record
        self._say_end = on_end
        self._history = RestartHistory(props.restart)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._incarnation: Incarnation | None = None
        desk.on_poison = self._on_poison
        _lives.add(self)

    def start(self) -> None:
        """Start the first incarnation.

        Raises:
            BaseException: whatever the executor's maker raises.
        """
        self.begin(self._supervisor.context)
        self._supervisor.adopt(self)
        props = self._props
        self._log.info("actor.started", executor=self.executor.name, max_in_flight=props.max_in_flight)

    @property
    def label(self) -> str:
        """The name in logs."""
        return self._props.label

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self._ended.is_set()

    def refusal(self) -> BaseException:
        """The answer to a message that comes after the end."""
        return stopped_error() if self.failure is None else own_copy(self.failure)

    def begin_stop(self) -> None:
        """Take no more messages, and end when the others are done; it does not wait."""
        with self._lock:
            first, self.stopping = not self.stopping, True
            incarnation = self._incarnation
        if not first:
            return
        self._ledger.close(draining=True)
        if incarnation is not None:
            incarnation.stop()

    def stop(self, seconds: float | None, *, drain: bool) -> None:
        """End, with everything answered; on a thread of the actor's own, without waiting for it."""
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

    def join(self) -> None:
        """Wait for the thread of the last incarnation to go; not for long if it is stuck."""
        incarnation = self._incarnation
        if incarnation is not None and not would_deadlock(self._desk):
            incarnation.join()

    # What the supervisor calls.

    def next_delay(self) -> float | None:
        """Count a failure: seconds until the restart, or None if the policy gives up."""
        return self._history.next_delay(perf_counter())

    def begin(self, context: int) -> bool:
        """Start the next incarnation in a context of the device, unless the actor has ended.

        Raises:
            BaseException: whatever the executor's maker raises.
        """
        if self._ended.is_set() or self.failure is not None:
            return False
        executor = self._make_executor()
        with self._lock:
            self.generation += 1
            incarnation = self._incarnation = Incarnation(
                self._desk,
                self._mailbox,
                executor,
                generation=self.generation,
                context=context,
                on_end=self._on_end,
                record=self._record,
                hang_seconds=self._props.hang_seconds,
            )
            incarnation.stopping = self.stopping
        self.executor = executor
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
        policy = self._props.restart
        self._end_with(given_up_error(cause, policy.max_restarts + 1, policy.within), cause)

    def lose(self, cause: ContextPoisonedError) -> None:
        """The device's context is lost for good: answer everything with that, now and in future."""
        self._end_with(cause, cause)

    def forget(self) -> None:
        """In a forked child: the threads are the parent's, so everything is answered here."""
        self._supervisor.forget()
        self._ledger.renew_lock()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.failure = forked_error()
        # The parent counts its messages, and tells its observers of them.
        self._desk.observers, self._desk.on_told_failure = (), _ignore
        self._ledger.close()
        self._ended.set()
        for ask in self._ledger.open_asks():
            ask.gate = None
            if ask.pending is not None:
                ask.pending.renew_lock()
            ask.fail(self.refusal())

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
        elif not self._ended.is_set() and self.failure is None:
            self._supervisor.failed(self, incarnation, incarnation.cause)

    def _end_with(self, failure: FlashAttnError, cause: BaseException) -> None:
        if self._ended.is_set():
            return
        self.failure = failure
        self._ledger.close()
        self.fail(cause)
        for ask in self._ledger.open_asks():
            ask.fail(self.refusal())
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
        self.stopping = True  # also where pykka's registry has stopped the thread
        self._ledger.close()
        # A thread that was about to enter its message when the ledger closed has left it there.
        for ask in self._ledger.open_asks():
            ask.stop()
        if not self._ended.is_set():
            self._log.info("actor.stopped")
        self._say_that_it_ended()

    def _say_that_it_ended(self) -> None:
        try:
            self._say_end()
        finally:
            self._ended.set()  # who waits in ``stop`` finds all of it done


_lives: weakref.WeakSet[Life] = weakref.WeakSet()


def _forget_lives() -> None:
    """In a forked child, which has none of the parent's threads."""
    for life in list(_lives):
        if not life.has_ended:
            life.forget()


os.register_at_fork(after_in_child=_forget_lives)


def _ignore(_ask: Ask, _error: BaseException) -> None:
    pass
