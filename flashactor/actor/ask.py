"""One message on its way through an actor, from the caller's ``ask`` to its answer."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from flashactor.actor.blocking import Server
from flashactor.actor.failures import cancelled_error, malformed_outcome, stopped_error, timeout_error
from flashactor.actor.lanes import Caller
from flashactor.actor.ledger import Ledger
from flashactor.actor.reply import AttentionReply, PendingReply, Timings
from flashactor.dispatch import DispatchKey
from flashactor.errors import ContextPoisonedError
from flashactor.executors.base import Executor, Outcome, Outputs, Work
from flashactor.requests import AttentionRequest
from flashactor.telemetry.bound_log import bound_log
from flashactor.telemetry.events import Observer, RequestEvent, notify

_numbers = itertools.count(1)
_NOTHING = Outcome()
_new_tuple = tuple.__new__  # what ``Timings(...)`` does in the end, without the function around it


class Desk(Server):
    """What the messages of one actor share.

    Attributes:
        label: the actor's name.
        log: its events.
        ledger: its account.
        observers: who hears of each message.
        settled_early: called with a message that was answered before it was launched, by any thread.
        on_poison: called with the message and the error of a context that is lost; what to answer with.
        on_told_failure: called with a message that nobody waits for, and its error.
    """

    def __init__(
        self,
        label: str,
        ledger: Ledger,
        observers: tuple[Observer, ...],
        on_told_failure: Callable[[Ask, BaseException], None],
    ) -> None:
        super().__init__()
        self.label = label
        self.log = bound_log("actor", actor=label)
        self.ledger = ledger
        self.observers = observers
        self.on_told_failure = on_told_failure
        self.settled_early: Callable[[Ask], None] = _ignore
        self.on_poison: Callable[[Ask, ContextPoisonedError], BaseException] = _as_it_is


class Wishes(NamedTuple):
    """What else a caller says: most say nothing, and share one.

    Attributes:
        priority: higher goes first.
        caller: whose message it is; a ``Caller`` around what is no plain text or number.
        stream: address of the caller's stream.
        timeout: seconds from the ask to its deadline; None for none.
        stream_owner: what the stream's address is of, and who may destroy the stream when nobody has it.
    """

    priority: int = 0
    caller: Hashable = None
    stream: int | None = None
    timeout: float | None = None
    stream_owner: object = None


NO_WISHES = Wishes()


class Ask:
    """A message and the reply that it owes (None for ``tell``).

    It lets go of the request when it is launched, or answered: pykka's loop holds on to the last message
    until the next one comes, and that must not keep arrays alive.
    """

    __slots__ = (
        "after",
        "asked_at",
        "bounced",
        "desk",
        "event",
        "executor_name",
        "gate",
        "generation",
        "kernel_name",
        "key",
        "launched",
        "launched_at",
        "pending",
        "request",
        "request_id",
        "settled",
        "taken_at",
        "waited_for_kernel",
        "wishes",
        "work",
    )

    reply_to = None  # of pykka's envelopes, as which the inbox delivers messages

    def __init__(self, desk: Desk, pending: PendingReply[AttentionReply] | None) -> None:
        self.desk = desk
        self.pending = pending
        self.request_id = next(_numbers)
        self.request: AttentionRequest | None = None
        self.work: Work | None = None
        self.wishes = NO_WISHES
        self.after: tuple[PendingReply[Any], ...] = ()
        self.key: DispatchKey | None = None
        self.kernel_name = self.executor_name = ""
        self.taken_at = self.launched_at = self.waited_for_kernel = 0.0
        self.generation = 0
        # Of the ledger: whether it was launched, and whether it was answered.
        self.launched = self.settled = self.bounced = False
        self.gate: threading.Event | None = None
        self.event: RequestEvent | None = None  # where there are observers
        self.asked_at = perf_counter()

    @property
    def message(self) -> Ask:
        """Itself: a message is its own envelope."""
        return self

    @property
    def server(self) -> Server:
        """The actor, as something to wait for."""
        return self.desk

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return self.wishes.priority

    @property
    def caller(self) -> Hashable:
        """Whose it is."""
        return self.wishes.caller

    def tell(self, step: str) -> None:
        """Tell the observers of a step, if there are any: the name of a method of theirs."""
        observers = self.desk.observers
        if not observers:
            return
        event = self.event
        if event is None:
            wishes = self.wishes
            event = self.event = RequestEvent(
                self.desk.label,
                self.request_id,
                wishes.caller.value if isinstance(wishes.caller, Caller) else wishes.caller,
                wishes.priority,
                self.asked_at,
            )
        event.key, event.kernel_name, event.executor_name = self.key, self.kernel_name, self.executor_name
        event.taken_at, event.launched_at = self.taken_at, self.launched_at
        notify(observers, step, event)

    def admit(self, executor: Executor, generation: int) -> Work | None:
        """Resolve the request on an executor, and let it prepare the work; None if it is answered by now.

        Raises:
            DispatchError, RequestError, or what else ``prepare`` raises: the request is impossible there.
        """
        request = self.request
        if request is None:
            return None
        if not self.taken_at:
            self.taken_at = perf_counter()
        self.executor_name, self.generation = executor.name, generation
        self.key, self.kernel_name = request.resolve(executor.arch)
        work = executor.prepare(Work(request, self.key, self.kernel_name, self.wishes.stream))
        if self.generation != generation:  # it took so long that another thread has prepared it
            return None
        if not work.ready:
            work.when_ready(self._kernel_is_there)
        self.work = work
        return work

    def depart(self) -> Work | None:
        """The work, to be submitted now; None if the message was answered meanwhile."""
        work = self.work
        self.work = None
        if work is None or not self.desk.ledger.launch(self):
            return None
        self.request = None
        self.launched_at = perf_counter()
        return work

    def come_back(self, work: Work) -> bool:
        """Undo ``depart`` of work that was not launched; False if the message was answered meanwhile."""
        self.bounced = False
        self.request = work.request
        return self.desk.ledger.bounce(self)

    def finish(self, outcome: Outcome) -> None:
        """Answer with what the executor made of the work. Only the first call is heard."""
        try:
            outputs, error, compiling, launched, _ = outcome
            now = perf_counter()
            total = now - self.asked_at
            compiled = self.waited_for_kernel + compiling
            queued = self.launched_at - self.asked_at - self.waited_for_kernel
            completed = total - queued - compiled - launched
        except Exception:  # whoever calls is an executor's thread: nothing may be lost with it
            self._finish_badly(_NOTHING, malformed_outcome(self.executor_name, outcome))
            return
        key = self.key
        if error is not None or not isinstance(outputs, Outputs) or key is None:
            if not isinstance(error, BaseException):
                error = malformed_outcome(self.executor_name, outcome)
            self._finish_badly(outcome, error)
            return
        desk = self.desk
        if completed < 0.0:  # the executor has another clock
            completed = 0.0
        durations = (queued, compiled, launched, completed, total)
        if not desk.ledger.complete(self, durations):
            return
        pending, self.pending = self.pending, None
        self.after = ()  # deadlines keep messages, and those the replies before them
        try:
            if self.event is not None:
                self.event.compile_seconds, self.event.launch_seconds = compiled, launched
                self._tell_end(now)
        finally:
            if pending is not None:
                pending.settle(
                    AttentionReply(
                        key,
                        self.kernel_name,
                        self.executor_name,
                        _new_tuple(Timings, durations[:4]),
                        self.request_id,
                        outputs.out,
                        outputs.lse,
                        outputs.dq,
                        outputs.dk,
                        outputs.dv,
                        outputs.dsink_logits,
                        outputs.dalibi_slopes,
                    )
                )

    def fail(
        self,
        error: BaseException,
        remake: Callable[..., BaseException] | None = None,
        *,
        mailed: bool = True,
    ) -> bool:
        """Answer with an error, unless it is answered: then this does nothing and returns False.

        Args:
            error: the answer.
            remake: makes the error again; for one that says of a message that it was not launched.
            mailed: whether it may be in the mailbox.
        """
        desk = self.desk
        early = not self.launched
        if not desk.ledger.leave(self, error):
            return False
        if remake is not None and self.launched:  # after all, just now
            error = remake(launched=True)
        pending, self.pending = self.pending, None
        self.request = self.work = None
        self.after = ()
        if early and mailed:
            desk.settled_early(self)
        self.open_gate()
        try:
            if self.event is not None:
                self.event.error = error
                self._tell_end(perf_counter())
        finally:
            if pending is not None:
                pending.settle(None, error)
            else:
                desk.on_told_failure(self, error)
        return True

    def cancel(self) -> bool:
        """Drop it if it is not launched; answer with AskCancelledError."""
        return self._give_up(cancelled_error)

    def expire(self) -> None:
        """Its deadline has come."""
        self._give_up(partial(timeout_error, self.wishes.timeout or 0.0))

    def stop(self) -> None:
        """Its actor will not answer it any more."""
        self._give_up(stopped_error)

    def open_gate(self) -> None:
        """Let the thread go on that waits in ``ask`` for room in the mailbox."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.set()

    def _give_up(self, make: Callable[..., BaseException]) -> bool:
        launched = self.launched
        return self.fail(make(launched=launched), None if launched else make)

    def _finish_badly(self, outcome: Outcome, error: BaseException) -> None:
        event = self.event
        if event is not None:
            event.compile_seconds = self.waited_for_kernel + outcome.compile_seconds
            event.launch_seconds = outcome.launch_seconds
        if isinstance(error, ContextPoisonedError):
            error = self.desk.on_poison(self, error)
            if outcome.refused:  # the work did not begin here, and may in another context
                self.bounced = True
                return
        if self.desk.ledger.land(self):
            self.fail(error)

    def _tell_end(self, now: float) -> None:
        if self.event is not None:
            self.event.settled_at = now
        self.tell("settled")

    def _kernel_is_there(self) -> None:
        self.waited_for_kernel = perf_counter() - self.taken_at
        self.desk.ledger.on_change()


def _ignore(_ask: Ask) -> None:
    pass


def _as_it_is(_ask: Ask, error: ContextPoisonedError) -> BaseException:
    return error
