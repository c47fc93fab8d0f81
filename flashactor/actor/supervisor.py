"""The supervisor of the actors of one device: it starts again what fails, and says when that is of no use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pykka

from flashactor.actor.incarnation import Incarnation
from flashactor.errors import ContextPoisonedError, FlashAttnError
from flashactor.telemetry.bound_log import bound_log


class Child(Protocol):
    """What is supervised: an actor with an address of its own."""

    @property
    def label(self) -> str:
        """Its name in logs."""

    def next_delay(self) -> float | None:
        """Count a failure: seconds until the restart, or None if its policy gives it up."""

    def begin(self, context: int) -> None:
        """Start the next incarnation in a context of the device.

        Raises:
            Exception: it cannot be started.
        """

    def fail(self, cause: BaseException) -> None:
        """Have the present incarnation fail."""

    def give_up(self, cause: BaseException) -> None:
        """Answer everything with the cause, now and in future."""


@dataclass(frozen=True, slots=True)
class _Failed:
    child: Child
    incarnation: Incarnation | None
    cause: BaseException


@dataclass(frozen=True, slots=True)
class _Restart:
    child: Child


class Supervisor:
    """Decides one for one about its children; a lost context concerns them all.

    Its thread starts with the first failure.

    Attributes:
        context: number of the device's context, from 1.
        failure: why nothing runs on the device any more in this process; None as long as something does.
    """

    def __init__(self, name: str, on_escalation: Callable[[FlashAttnError], None] | None = None) -> None:
        """
        Args:
            name: of the device, in logs.
            on_escalation: called with the error when the context is lost for good.
        """
        self.context = 1
        self.failure: FlashAttnError | None = None
        self._on_escalation = on_escalation
        self._log = bound_log("supervisor", device=name)
        self._lock = threading.Lock()
        self._children: dict[Child, None] = {}
        self._ref: pykka.ActorRef[_SupervisorActor] | None = None
        self._timers: set[threading.Timer] = set()
        self._stopped = False

    def children(self) -> list[Child]:
        """Those that are supervised, oldest first."""
        with self._lock:
            return list(self._children)

    def adopt(self, child: Child) -> None:
        """Supervise a child from now on."""
        with self._lock:
            self._children[child] = None

    def release(self, child: Child) -> None:
        """Supervise a child no more: it has stopped."""
        with self._lock:
            self._children.pop(child, None)

    def failed(self, child: Child, incarnation: Incarnation | None, cause: BaseException) -> None:
        """An incarnation has ended with a cause (None: could not even start); by any thread."""
        with self._lock:
            if self._stopped:
                return
            if self._ref is None:
                self._ref = _SupervisorActor.start(self)
            self._ref.tell(_Failed(child, incarnation, cause))

    def stop(self) -> None:
        """Restart nothing any more. Does not wait."""
        with self._lock:
            self._stopped = True
            timers, self._timers = self._timers, set()
            ref, self._ref = self._ref, None
        for timer in timers:
            timer.cancel()
        if ref is not None:
            ref.stop(block=False)

    def _on_failed(self, message: _Failed) -> None:
        child, cause = message.child, message.cause
        self._log.warning("actor.failed", actor=child.label, error=repr(cause))
        if isinstance(cause, ContextPoisonedError) and message.incarnation is not None:
            if not message.incarnation.executor.renewable:
                self._escalate(cause)
                return
            if message.incarnation.context == self.context:
                self.context += 1
                self._log.warning("context.lost", context=self.context)
                for other in self.children():
                    if other is not child:
                        other.fail(cause)
        self._schedule(child, cause)

    def _schedule(self, child: Child, cause: BaseException) -> None:
        delay = child.next_delay()
        if delay is None:
            self._log.error("actor.given_up", actor=child.label, error=repr(cause))
            child.give_up(cause)
            return
        timer = threading.Timer(delay, self._tell_restart, [child])
        timer.daemon = True
        with self._lock:
            if self._stopped:
                return
            self._timers.add(timer)
        timer.start()

    def _tell_restart(self, child: Child) -> None:
        with self._lock:
            self._timers = {timer for timer in self._timers if timer.is_alive()}
            if self._ref is not None and not self._stopped:
                self._ref.tell(_Restart(child))

    def _on_restart(self, message: _Restart) -> None:
        child = message.child
        try:
            child.begin(self.context)
        except Exception as error:
            self._log.warning("actor.cannot_start", actor=child.label, error=repr(error))
            self._schedule(child, error)
        else:
            self._log.warning("actor.restarted", actor=child.label, context=self.context)

    def _escalate(self, cause: ContextPoisonedError) -> None:
        if self.failure is not None:
            return
        self.failure = cause
        self._log.critical("context.lost_for_good", error=str(cause))
        for child in self.children():
            child.give_up(cause)
        if self._on_escalation is not None:
            try:
                self._on_escalation(cause)
            except Exception:
                self._log.exception("escalation.failed")


class _SupervisorActor(pykka.ThreadingActor):
    """One failure after the other."""

    use_daemon_thread = True

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__()
        self._handlers: dict[type, Callable[[Any], None]] = {
            _Failed: supervisor._on_failed,
            _Restart: supervisor._on_restart,
        }

    def on_receive(self, message: Any) -> None:
        """Handle one message."""
        self._handlers[type(message)](message)


def forget(supervisors: Iterable[Supervisor]) -> None:
    """In a forked child: there are no threads to supervise."""
    for supervisor in supervisors:
        supervisor._lock = threading.Lock()
        supervisor._stopped = True
