"""The address of an actor: it stays when the thread and the executor behind it are replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from time import perf_counter
from typing import Any

from flashactor.actor.ask import Ask, Desk
from flashactor.actor.batch import PendingReplies
from flashactor.actor.blocking import on_event_loop, refuse_on_event_loop, waiting_for, would_deadlock
from flashactor.actor.deadlines import deadlines
from flashactor.actor.failures import (
    forked_error,
    full_error,
    given_up_error,
    own_copy,
    poisoned_answer,
    stopped_error,
    timeout_error,
)
from flashactor.actor.incarnation import Incarnation
from flashactor.actor.ledger import TAKEN, Entry, Ledger
from flashactor.actor.mailbox import Mailbox
from flashactor.actor.messages import FlashAttnMsg, FlashAttnProps, Overflow
from flashactor.actor.meter import ActorStats
from flashactor.actor.reply import AttentionReply, PendingReply, to_seconds
from flashactor.actor.restarts import RestartHistory
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import BlockingAskError, ContextPoisonedError, FlashAttnError, RequestError
from flashactor.executors.base import Executor, Work
from flashactor.requests import AttentionRequest
from flashactor.streams import stream_address
from flashactor.telemetry.events import notify
from flashactor.types import is_count

After = PendingReply[Any] | Iterable[PendingReply[Any]] | None

EXIT_SECONDS = 30.0
"""How long ``stop`` waits for what was asked before."""


class ActorHandle:
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
        self.props = props
        self._make_executor = make_executor
        self._supervisor = supervisor
        self._record = record
        self._ledger = Ledger(props.max_in_flight, props.mailbox_size)
        self._mailbox = Mailbox(self._ledger)
        self._desk = Desk(props.label, self._ledger, props.observers, self._on_told_failure)
        self._desk.settled_early = self._mailbox.put
        self._desk.on_poison = self._on_poison
        self._log = self._desk.log
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

    def ask(
        self,
        msg: FlashAttnMsg,
        *,
        timeout: float | None = None,
        priority: int = 0,
        caller: Hashable = None,
        after: After = None,
        stream: object = None,
    ) -> PendingReply[AttentionReply]:
        """Send a message. ``await`` the result in a coroutine, or call ``.result(timeout)`` in a thread.

        Whatever goes wrong is raised there, never here. With a full mailbox, and ``overflow="wait"``, a
        thread waits here until there is room.

        Args:
            msg: the request.
            timeout: seconds from now; then it is answered with AskTimeoutError, and dropped if it is not
                launched.
            priority: higher goes first.
            caller: whose it is, anything hashable. Messages of one caller and priority are launched in the
                order of the asks; callers take turns.
            after: replies, also of other actors, whose work has to come first in time: this is launched
                behind it, where both are on devices without the host waiting in between.
            stream: the caller's, as an address or an object with ``__cuda_stream__`` (torch's and cupy's
                streams, too): the work waits for what is enqueued there, and what is enqueued there after
                the launch (``reply.launched``) waits for the work.
        """
        ask = Ask(self._desk, None)
        pending: PendingReply[AttentionReply] = PendingReply(ask)
        ask.pending = pending
        self._send(ask, msg, timeout, priority, caller, after, stream)
        return pending

    def tell(
        self,
        msg: FlashAttnMsg,
        *,
        timeout: float | None = None,
        priority: int = 0,
        caller: Hashable = None,
        after: After = None,
        stream: object = None,
    ) -> None:
        """Send a message and forget it; a failure is logged and counted in ``stats().failed``."""
        self._send(Ask(self._desk, None), msg, timeout, priority, caller, after, stream)

    def ask_many(
        self,
        msgs: Iterable[FlashAttnMsg],
        *,
        timeout: float | None = None,
        priority: int = 0,
        caller: Hashable = None,
        after: After = None,
        stream: object = None,
        return_errors: bool = False,
    ) -> PendingReplies:
        """Send several messages; ``await`` gives the list of their replies, in order.

        Args:
            timeout, priority, caller, after, stream: as in ``ask``, for each of them.
            return_errors: put errors into the list, rather than raise the first one.

        Raises:
            RequestError: these are no messages. What their iterator raises comes out too; what was sent
                before is cancelled then.
        """
        try:
            messages = iter(msgs)
        except TypeError:
            raise _option_error("msgs", type(msgs).__name__, "messages, such as a list of them") from None
        if not isinstance(after, PendingReply) and isinstance(after, Iterable):
            after = tuple(after)  # it may be an iterator, and each message needs all of it
        replies: list[PendingReply[AttentionReply]] = []
        try:
            for msg in messages:
                replies.append(
                    self.ask(
                        msg, timeout=timeout, priority=priority, caller=caller, after=after, stream=stream
                    )
                )
        except BaseException:  # of the messages' source, or KeyboardInterrupt: nobody will have the replies
            PendingReplies(replies).cancel()
            raise
        return PendingReplies(replies, return_errors=return_errors)

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
        self._ledger.close(draining=True)
        if first and incarnation is not None:
            incarnation.stop()

    async def aclose(self, timeout: float | None = EXIT_SECONDS, *, drain: bool = True) -> None:
        """``stop``, for coroutines."""
        import asyncio

        seconds = None if timeout is None else to_seconds("timeout", timeout)
        self.begin_stop()
        await asyncio.to_thread(self.stop, seconds, drain=drain)

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

    def _send(
        self,
        ask: Ask,
        msg: FlashAttnMsg,
        timeout: float | None,
        priority: int,
        caller: Hashable,
        after: After,
        stream: object,
    ) -> None:
        refusal: FlashAttnError | None = None
        try:
            if not isinstance(msg, FlashAttnMsg):
                raise _option_error("msg", type(msg).__name__, "a FlashAttnMsg")
            ask.request = msg.request
            if not isinstance(ask.request, AttentionRequest):
                raise _option_error("msg.request", type(ask.request).__name__, "an attention request")
            if timeout is not None:
                ask.timeout = to_seconds("timeout", timeout)
            if priority != 0 or type(priority) is not int:
                ask.priority = _priority(priority)
                self._mailbox.in_lanes = True
            if caller is not None:
                ask.caller = _caller(caller)
                self._mailbox.in_lanes = True
            if after is not None:
                ask.after = _after(after)
            if stream is not None:
                ask.stream = stream_address(stream)
        except FlashAttnError as error:
            refusal = error
        except Exception as error:  # of the caller's own objects
            refusal = _option_error("ask", f"{type(error).__name__}: {error}", "options that can be read")
            refusal.__cause__ = error
        desk = self._desk
        if desk.observers:
            notify(desk.observers, "asked", ask)
        entry = self._ledger.enter(ask)
        if refusal is not None:
            ask.fail(refusal)
        elif entry is Entry.CLOSED:
            ask.fail(self._refusal())
        elif entry is Entry.FULL and self.props.overflow is Overflow.FAIL:
            ask.fail(full_error(self._ledger.size))
        elif timeout is not None and ask.timeout <= 0.0:
            ask.fail(timeout_error(ask.timeout, launched=False))
        else:
            try:
                if timeout is not None:
                    deadlines.add(ask.asked_at + ask.timeout, ask)
                if after is not None:
                    for other in ask.after:
                        other.launched.add_done_callback(self._on_dependency)
                        other.add_done_callback(self._on_dependency)
                if entry is TAKEN or on_event_loop():
                    self._mailbox.put(ask)
                else:
                    self._wait_for_room(ask)
            except BaseException:  # KeyboardInterrupt: the caller will never have the reply
                ask.cancel()
                raise

    def _wait_for_room(self, ask: Ask) -> None:
        """Block until a message is in the mailbox, or answered."""
        if would_deadlock(self._desk):
            ask.fail(full_error(self._ledger.size, ", on a thread that would make room"))
            return
        gate = ask.gate = threading.Event()
        self._mailbox.put(ask)
        try:
            with waiting_for(self._desk):
                if not ask.settled:  # else perhaps before there was a gate to open
                    gate.wait()
        except BlockingAskError as error:
            ask.fail(error)

    def _on_dependency(self, _reply: PendingReply[Any]) -> None:
        self._mailbox.wake()

    def _refusal(self) -> BaseException:
        return stopped_error() if self._failure is None else own_copy(self._failure)

    def _on_poison(self, ask: Ask, error: ContextPoisonedError) -> BaseException:
        incarnation = self._incarnation
        if incarnation is None:
            return error
        if ask.generation == incarnation.generation:
            incarnation.fail(error)
        return poisoned_answer(error, renewable=incarnation.executor.renewable)

    def _on_told_failure(self, ask: Ask, error: BaseException) -> None:
        self._log.error(
            "tell.failed",
            error=str(error),
            error_type=type(error).__name__,
            request_id=ask.request_id,
            kernel_name=ask.kernel_name,
        )

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


def _priority(priority: Any) -> int:
    if not is_count(priority, -(2**31)):
        raise _option_error("priority", repr(priority), "an integer of at least -2**31")
    return int(priority)


def _caller(caller: Hashable) -> Hashable:
    try:
        hash(caller)
    except TypeError:
        raise _option_error("caller", repr(caller), "anything hashable") from None
    return caller


def _after(after: Any) -> tuple[PendingReply[Any], ...]:
    found = (after,) if isinstance(after, PendingReply) else after
    try:
        replies = tuple(found)
    except TypeError:
        replies = (found,)
    for reply in replies:
        if not isinstance(reply, PendingReply):
            raise _option_error("after", repr(reply), "replies that ask() returned")
    return replies


def _option_error(field: str, got: str, expected: str) -> RequestError:
    return RequestError(
        field=field,
        got=got,
        expected=expected,
        remedy="write actor.ask(FlashAttnMsg.forward(request), ...)",
    )
