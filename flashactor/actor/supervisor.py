"""The supervisor of the actors of one device: it starts again what fails, and says when that is of no use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import pykka

from flashactor.actor.blocking import serve_all
from flashactor.actor.deadlines import deadlines
from flashactor.actor.incarnation import Incarnation
from flashactor.errors import ContextPoisonedError
from flashactor.telemetry.bound_log import bound_log

RETRY_SECONDS = 1.0
"""How long a supervisor waits where it has no thread, before it tries to start one again."""


class Restartable(Protocol):
    """What can be started again."""

    @property
    def label(self) -> str:
        """Its name in logs."""

    def next_delay(self) -> float | None:
        """Count a failure: seconds until the restart, or None if its policy gives it up."""

    def begin(self, context: int) -> bool:
        """Start it again in a context of the device; False if it has ended meanwhile.

        Raises:
            BaseException: it cannot be started.
        """

    def give_up(self, cause: BaseException) -> None:
        """Its policy has given it up because of the cause: answer everything, now and in future."""


class Child(Restartable, Protocol):
    """What lives in the device's context: an actor with an address of its own."""

    def fail(self, cause: BaseException) -> None:
        """Have the present incarnation fail."""

    def lose(self, cause: ContextPoisonedError) -> None:
        """Nothing runs on the device any more in this process: answer everything, now and in future."""


@dataclass(frozen=True, slots=True)
class _Failed:
    child: Child
    incarnation: Incarnation
    cause: BaseException


@dataclass(frozen=True, slots=True)
class _Died:
    child: Restartable
    cause: BaseException


@dataclass(frozen=True, slots=True)
class _Restart:
    child: Restartable


class Supervisor:
    """Decides one for one about its children; a lost context concerns them all.

    Its thread starts with the first failure.

    Attributes:
        context: number of the device's context, from 1.
        failure: why nothing runs on the device any more in this process; None as long as something does.
    """

    def __init__(
        self, name: str, on_escalation: Callable[[ContextPoisonedError], None] | None = None
    ) -> None:
        """
        Args:
            name: of the device, in logs.
            on_escalation: called with the error when the context is lost for good.
        """
        self.context = 1
        self.failure: ContextPoisonedError | None = None
        self._on_escalation = on_escalation
        self._log = bound_log("supervisor", device=name)
        self._lock = threading.Lock()
        self._children: dict[Child, None] = {}
        self._ref: pykka.ActorRef[_SupervisorActor] | None = None
        self._stopping = self._ended = False

    def children(self) -> list[Child]:
        """Those that are supervised, oldest first."""
        with self._lock:
            return list(self._children)

    def adopt(self, child: Child) -> None:
        """Supervise a child from now on."""
        with self._lock:
            failure = self.failure
            if failure is None:
                self._children[child] = None
        if failure is not None:
            child.lose(failure)

    def release(self, child: Child) -> None:
        """Supervise a child no more: it has stopped."""
        with self._lock:
            self._children.pop(child, None)
            over = self._stopping and not self._children
        if over:
            self._end()

    def failed(self, child: Child, incarnation: Incarnation, cause: BaseException) -> None:
        """An incarnation has ended with a cause; by any thread."""
        self._tell(_Failed(child, incarnation, cause))

    def died(self, child: Restartable, cause: BaseException) -> None:
        """Something has ended that does not live in the device's context; by any thread."""
        self._tell(_Died(child, cause))

    def stop(self) -> None:
        """Supervise nothing any more once the last child has left. Does not wait."""
        with self._lock:
            self._stopping = True
            over = not self._children
        if over:
            self._end()

    def forget(self) -> None:
        """In a forked child: there are no threads to supervise."""
        self._lock = threading.Lock()
        self._ended = True

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            ref, self._ref = self._ref, None
        if ref is not None:
            ref.stop(block=False)

    def _tell(self, message: _Failed | _Died | _Restart) -> None:
        with self._lock:
            if self._ended:
                return
            try:
                if self._ref is None or not self._ref.is_alive():
                    self._ref = _SupervisorActor.start(self)
                self._ref.tell(message)
                return
            except (RuntimeError, pykka.ActorDeadError):  # there are no more threads; or pykka's registry
                self._ref = None  # has stopped it this moment
        self._tell_later(message, RETRY_SECONDS)

    def _tell_later(self, message: _Failed | _Died | _Restart, seconds: float) -> None:
        try:
            deadlines.add(perf_counter() + seconds, _Due(self, message))
        except RuntimeError as error:  # there are no more threads, nor was there one for this
            message.child.give_up(error)

    def _on_died(self, message: _Died) -> None:
        self._log.warning("actor.failed", actor=message.child.label, error=repr(message.cause))
        self._schedule(message.child, message.cause)

    def _on_failed(self, message: _Failed) -> None:
        child, incarnation, cause = message.child, message.incarnation, message.cause
        self._log.warning("actor.failed", actor=child.label, error=repr(cause))
        if isinstance(cause, ContextPoisonedError):
            if not incarnation.executor.renewable:
                self._escalate(child, cause)
                return
            if incarnation.context < self.context:
                # Its context was lost by another child, whose policy counts that.
                self._on_restart(_Restart(child))
                return
            self.context += 1
            self._log.warning("context.lost", context=self.context)
            for other in self.children():
                if other is not child:
                    other.fail(cause)
        self._schedule(child, cause)

    def _schedule(self, child: Restartable, cause: BaseException) -> None:
        delay = child.next_delay()
        if delay is None:
            self._log.error("actor.given_up", actor=child.label, error=repr(cause))
            child.give_up(cause)
            return
        self._tell_later(_Restart(child), delay)

    def _on_restart(self, message: _Restart) -> None:
        child = message.child
        try:
            began = child.begin(self.context)
        except BaseException as error:  # whatever comes out of the maker of executors ends that child only
            self._log.warning("actor.cannot_start", actor=child.label, error=repr(error))
            self._schedule(child, error)
        else:
            if began:
                self._log.warning("actor.restarted", actor=child.label, context=self.context)

    def _escalate(self, child: Child, cause: ContextPoisonedError) -> None:
        with self._lock:
            first = self.failure is None
            failure = self.failure = self.failure or cause
        if not first:  # it was adopted just then, or noticed it as well
            child.lose(failure)
            return
        self._log.critical("context.lost_for_good", error=str(cause))
        for each in self.children():
            each.lose(cause)
        if self._on_escalation is not None:
            try:
                self._on_escalation(cause)
            except Exception:
                self._log.exception("escalation.failed")


class _Due:
    """A message whose time is to come."""

    def __init__(self, supervisor: Supervisor, message: _Failed | _Died | _Restart) -> None:
        self._supervisor, self._message = supervisor, message

    @property
    def settled(self) -> bool:
        """Whether nobody is there any more to hear it."""
        return self._supervisor._ended

    def expire(self) -> None:
        """Tell it; whoever handles it has a thread of its own."""
        self._supervisor._tell(self._message)


class _SupervisorActor(pykka.ThreadingActor):
    """One failure after the other."""

    use_daemon_thread = True

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__()
        self._log = supervisor._log
        self._handlers: dict[type, Callable[[Any], None]] = {
            _Failed: supervisor._on_failed,
            _Died: supervisor._on_died,
            _Restart: supervisor._on_restart,
        }

    def on_start(self) -> None:
        """Callbacks of replies may run here, and what they wait for may need a restart."""
        serve_all()

    def on_receive(self, message: Any) -> None:
        """Handle one message. Others wait, so nothing that a child raises may end this thread."""
        try:
            self._handlers[type(message)](message)
        except BaseException:
            self._log.exception("supervision.failed")
