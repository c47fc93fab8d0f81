"""One life of an actor: a thread and an executor, from their start to their failure or the actor's end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import pykka

from flashactor.actor.ask import Ask, Desk
from flashactor.actor.blocking import serve
from flashactor.actor.deadlines import deadlines
from flashactor.actor.failures import actor_failed, hung_error, in_flight_error, not_reached_error
from flashactor.actor.mailbox import Mailbox
from flashactor.actor.wakes import DeferredWakes
from flashactor.errors import ContextPoisonedError, FlashAttnError
from flashactor.executors.base import Executor, Work

STUCK_SECONDS = 1.0
"""How long the thread of a failed incarnation may take to notice before it counts as stuck, and is left."""


class Incarnation:
    """A thread that takes messages from the mailbox as they may be launched, and an executor that gets them.

    Attributes:
        executor: computes.
        generation: number of this life of the actor, from 1.
        context: number of the device's context that it was started in.
        cause: why it failed; None as long as it has not.
    """

    def __init__(
        self,
        desk: Desk,
        mailbox: Mailbox,
        executor: Executor,
        *,
        generation: int,
        context: int,
        on_end: Callable[[Incarnation], None],
        record: Callable[[Work], None] | None,
        hang_seconds: float | None,
    ) -> None:
        """
        Args:
            desk, mailbox: the actor's, which outlive this.
            on_end: called once, after everything in flight was answered if ``cause`` is set.
            record: hears of all work that is admitted.
            hang_seconds: a launched request that takes longer is a failure.
        """
        self.desk, self.mailbox, self.executor = desk, mailbox, executor
        self.generation, self.context = generation, context
        self.record, self.hang_seconds = record, hang_seconds
        self.cause: BaseException | None = None
        self.stopping = False
        self.settled = False  # as something that a deadline ends
        self.thread: threading.Thread | None = None
        self._on_end = on_end
        self._ending = threading.Lock()

    def start(self) -> None:
        """Start the thread."""
        DispatchActor.start(self)

    def stop(self) -> None:
        """End when the ledger is idle; by any thread."""
        self.stopping = True
        self.mailbox.wake()

    def fail(self, cause: BaseException) -> None:
        """End at once; by any thread. Only the first cause counts."""
        if self.cause is None:
            self.cause = cause
            self.mailbox.halt()
            self.mailbox.wake()
            with suppress(RuntimeError):  # the interpreter exits, and starts no thread any more
                deadlines.add(perf_counter() + STUCK_SECONDS, self)

    def take_back(self, ask: Ask, work: Work) -> None:
        """Put a message into the mailbox again whose work the executor refused."""
        with self._ending:  # of one that has ended, ``end`` answers it; and the mailbox has another reader
            if not self.settled and ask.come_back(work):
                self.mailbox.put_back(ask)

    def give_back(self, ask: Ask) -> None:
        """Answer a message that has a place, and that an executor which is abandoned must not get."""
        if self.cause is not None and self.desk.ledger.land(ask):
            ask.fail(not_reached_error(self.cause))

    def join(self) -> None:
        """Wait for the thread to go; not for long if it is stuck, and not on the thread itself."""
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STUCK_SECONDS)

    def expire(self) -> None:
        """The thread is stuck: go on without it."""
        self.end()

    def end(self) -> None:
        """Let the executor go, answer what it had in flight if it failed, and say so. Once."""
        with self._ending:
            if self.settled:
                return
            self.settled = True
        cause = self.cause
        if cause is not None:
            for ask in self.desk.ledger.clear_places():
                ask.fail(in_flight_error(cause, renewable=self.executor.renewable))
        self._on_end(self)


class Inbox:
    """The mailbox as pykka sees it, for one incarnation."""

    def __init__(self) -> None:
        self.incarnation: Incarnation
        self.wakes = DeferredWakes()
        self._control: deque[Any] = deque()

    def put(self, message: Any) -> None:
        """Take a message of pykka's: it, or who called its registry, wants the thread to end."""
        self._control.append(message)
        self.incarnation.mailbox.wake()

    def empty(self) -> bool:
        """Whether there are no messages of pykka's own: all others stay for the next incarnation."""
        return not self._control

    def get(self) -> Any:
        """The next message to launch, when there is one; at the end, a message that says so."""
        incarnation, wakes = self.incarnation, self.wakes
        mailbox, ledger = incarnation.mailbox, incarnation.desk.ledger
        try:
            while not self._control:
                if incarnation.cause is not None:
                    return END
                wakes.flush()
                ask = mailbox.next()
                if ask is not None:
                    return ask
                if incarnation.stopping and ledger.is_idle:
                    return END
                wakes.flush()  # of those that ``next`` has answered
                ask = mailbox.wait()
                if ask is not None:
                    return ask
        except _LeftError:
            return END
        except BaseException as error:
            incarnation.desk.log.exception("mailbox.failed")
            incarnation.fail(error)
            return END
        return self._control.popleft()


class _End:
    """The last message of an incarnation, and its envelope."""

    reply_to = None

    @property
    def message(self) -> _End:
        return self


END = _End()


class _LeftError(Exception):
    """An incarnation failed while its thread read the mailbox: another one will, or does by now."""


class DispatchActor(pykka.ThreadingActor):
    """The receive loop of an incarnation. ``FlashAttnActor`` is what one starts and talks to."""

    actor_inbox: Inbox

    # An interpreter that exits with an actor still running must not hang on its thread.
    use_daemon_thread = True

    def __init__(self, incarnation: Incarnation) -> None:
        super().__init__()
        self._incarnation = self.actor_inbox.incarnation = incarnation
        self._executor = incarnation.executor
        self._observers = incarnation.desk.observers

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Inbox()

    def on_start(self) -> None:
        """Take over the mailbox."""
        incarnation = self._incarnation
        incarnation.thread = threading.current_thread()
        serve(incarnation.desk)
        # Let replies leave when this thread is about to wait.
        self.actor_inbox.wakes.install()
        try:
            incarnation.mailbox.serve(self._executor, self._admit, self._refuse)
        except _LeftError:
            return
        except BaseException as error:
            incarnation.desk.log.exception("mailbox.failed")
            incarnation.fail(error)

    def on_receive(self, message: Any) -> None:
        """Submit the work of a message, or end."""
        if message is END:
            self.stop()
            return
        try:
            self._launch(message)
        except BaseException as error:
            # Not the request's fault, as far as anybody knows: executors answer through ``done``.
            self._incarnation.desk.log.exception("executor.failed")
            self._incarnation.fail(error)

    def on_stop(self) -> None:
        """End the incarnation, and let the last replies go."""
        try:
            self._incarnation.end()
        finally:
            self.actor_inbox.wakes.flush()

    def on_failure(self, *_exception: Any) -> None:
        """As ``on_stop``, after an error that pykka caught."""
        self.on_stop()

    def _admit(self, ask: Ask) -> bool:
        incarnation = self._incarnation
        self.actor_inbox.wakes.flush()  # before what may take long
        refusal: FlashAttnError | None
        try:
            work = ask.admit(self._executor, incarnation.generation)
            if work is not None and incarnation.record is not None:
                incarnation.record(work)
            admitted, refusal = work is not None, None
        except ContextPoisonedError as error:
            incarnation.fail(error.with_traceback(None))
            admitted, refusal = True, None  # the next incarnation prepares it
        except FlashAttnError as error:
            admitted, refusal = False, error.with_traceback(None)  # its frames would keep the arrays alive
        except BaseException as error:
            incarnation.desk.log.exception("executor.prepare_failed")
            admitted, refusal = False, actor_failed(error)
        if incarnation.cause is not None:  # it is over; and if this took long, another thread reads by now
            raise _LeftError
        if refusal is not None:
            self._refuse(ask, refusal)
            refusal = None  # its cause may have this frame
        return admitted

    def _refuse(self, ask: Ask, error: FlashAttnError) -> None:
        ask.fail(error)
        if self._incarnation.cause is not None:  # a callback may have taken long
            raise _LeftError

    def _launch(self, ask: Ask) -> None:
        work = ask.depart()
        if work is None:
            return
        incarnation = self._incarnation
        if incarnation.settled:  # this thread was left, as stuck, before the message had its place
            incarnation.give_back(ask)
            return
        if self._observers:
            ask.tell("launching")
        if incarnation.hang_seconds is not None:
            deadlines.add(ask.launched_at + incarnation.hang_seconds, _Watch(ask, incarnation))
        pending = ask.pending
        marker = self._executor.submit(work, ask.finish)
        if ask.bounced:
            incarnation.take_back(ask, work)
            return
        if pending is not None:
            pending.settle_launch(marker)
        if self._observers:
            ask.tell("launched")


class _Watch:
    """Looks whether a launched message is done in time."""

    def __init__(self, ask: Ask, incarnation: Incarnation) -> None:
        self._ask, self._incarnation = ask, incarnation

    @property
    def settled(self) -> bool:
        return self._ask not in self._ask.desk.ledger.in_flight

    def expire(self) -> None:
        incarnation = self._incarnation
        if not self.settled and incarnation.hang_seconds is not None:
            incarnation.fail(hung_error(incarnation.hang_seconds))
