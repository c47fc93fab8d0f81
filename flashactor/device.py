"""A device of this process: the supervisor of its actors, behind an address that stays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Self

from flashactor.actor.closing import ActorGroup
from flashactor.actor.failures import forked_error, own_copy, retry
from flashactor.actor.handle import EXIT_SECONDS
from flashactor.actor.messages import DEFAULT_POLICY, FlashAttnProps
from flashactor.actor.restarts import RestartPolicy
from flashactor.actor.supervised_kernels import SupervisedKernels
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ActorStoppedError, ContextPoisonedError, RequestError
from flashactor.service import ExecutorChoice, FlashAttnActor, kernel_source
from flashactor.types import is_count


class DeviceActor(ActorGroup):
    """Owns the generation of a device's context, and the actors in it.

    A child whose thread or executor fails is started again, as its RestartPolicy says; its siblings go on. A
    sticky CUDA error ends the context for all of them: where a new one can be made, all go on in that; where
    not, because other libraries of the process use the same one, all are given up.

    May be used from any thread and from coroutines. Use it as a context manager, or call ``stop``.

    Attributes:
        device: the device, as CUDA_VISIBLE_DEVICES numbers it.
        label: name in logs, and first part of the labels of children without props.
    """

    def __init__(
        self,
        device: int = 0,
        *,
        label: str | None = None,
        restart: RestartPolicy = DEFAULT_POLICY,
        on_escalation: Callable[[ContextPoisonedError], None] | None = None,
    ) -> None:
        """As ``start``."""
        if not is_count(device, 0):
            raise _start_error("device", device, "the ordinal of a device")
        if label is not None and not (isinstance(label, str) and label.isprintable()):
            raise _start_error("label", label, "a text of printable characters, or nothing")
        if not isinstance(restart, RestartPolicy):
            raise _start_error("restart", restart, "a RestartPolicy")
        if on_escalation is not None and not callable(on_escalation):
            raise _start_error("on_escalation", on_escalation, "a function, or nothing")
        self.device = device
        self.label = f"device{device}" if label is None else label
        self._restart = restart
        self._supervisor = Supervisor(self.label, on_escalation)
        self._lock = threading.Lock()
        self._children: list[FlashAttnActor] = []
        self._spawned = 0
        self._starting: set[str] = set()
        self._stopping = False
        self._process = os.getpid()

    @classmethod
    def start(
        cls,
        device: int = 0,
        *,
        label: str | None = None,
        restart: RestartPolicy = DEFAULT_POLICY,
        on_escalation: Callable[[ContextPoisonedError], None] | None = None,
    ) -> Self:
        """Start without children; ``spawn`` starts those.

        Args:
            device: as CUDA_VISIBLE_DEVICES numbers it.
            label: name in logs; default: ``device0``, by its number.
            restart: of children whose props name no policy.
            on_escalation: called once, on the supervisor's thread, when nothing runs on the device any more
                in this process; with the error that every ask is answered with from then on.

        Raises:
            RequestError: an argument has a value that it cannot have.
        """
        return cls(device, label=label, restart=restart, on_escalation=on_escalation)

    def spawn(self, props: FlashAttnProps | None = None, executor: ExecutorChoice = None) -> FlashAttnActor:
        """Start an actor on the device.

        Args:
            props: its device is set to this one; default: a label of its own, such as ``device0-0``.
            executor: as of FlashAttnActor.start.

        Raises:
            ActorStoppedError: the device actor was stopped, or is the parent's, in a forked child.
            ContextPoisonedError: nothing runs on the device any more in this process.
            RequestError: the props are none, or a child has that label.
            FlashAttnError: whatever FlashAttnActor.start raises.
        """
        if props is not None and not isinstance(props, FlashAttnProps):
            raise _start_error("props", props, "a FlashAttnProps, or nothing")
        if self._process != os.getpid():
            raise forked_error()
        if self._stopping:
            raise _stopped_error()
        if self.failure is not None:
            raise own_copy(self.failure)
        label = self._reserve(None if props is None else props.label)
        try:  # without the lock: making an executor may take long, or spawn
            chosen = FlashAttnProps(label=label) if props is None else props
            restart = self._restart if chosen.restart is DEFAULT_POLICY else chosen.restart
            own = replace(chosen, device=self.device, restart=restart)
            child = FlashAttnActor.start(own, executor, supervisor=self._supervisor)
        finally:
            with self._lock:
                self._starting.remove(label)
        if self._stopping:  # perhaps before it was among those that were stopped
            child.stop(drain=False)
            raise _stopped_error()
        with self._lock:
            self._spawned += 1
            self._children = [*self._present(), child]
        return child

    def _reserve(self, label: str | None) -> str:
        """A label that nobody else starts with meanwhile: the one that is wanted, or the next of its own."""
        with self._lock:
            taken = {child.label for child in self._present()} | self._starting
            if label is None:
                own = (f"{self.label}-{number}" for number in count(self._spawned))
                label = next(name for name in own if name not in taken)
            elif label in taken:
                raise _start_error("props", label, "a label that no other child has")
            self._starting.add(label)
            return label

    def _present(self) -> list[FlashAttnActor]:
        """With the lock: the children that have not ended."""
        return [child for child in self._children if not child.has_ended]

    @property
    def children(self) -> tuple[FlashAttnActor, ...]:
        """The actors that were spawned and have not ended, oldest first."""
        with self._lock:
            return tuple(self._present())

    @property
    def generation(self) -> int:
        """Number of the device's context, from 1; each one that is lost adds one."""
        return self._supervisor.context

    @property
    def failure(self) -> ContextPoisonedError | None:
        """Why nothing runs on the device any more in this process; None as long as something can."""
        return self._supervisor.failure

    @property
    def kernels(self) -> SupervisedKernels:
        """Where the children get compiled kernels from: all devices of the process share it."""
        return kernel_source()

    @property
    def is_alive(self) -> bool:
        """Whether it takes children: not when it is stopped or inherited by a fork, or the device lost."""
        return not self._stopping and self.failure is None and self._process == os.getpid()

    def members(self) -> tuple[FlashAttnActor, ...]:
        """The children."""
        return self.children

    def begin_stop(self) -> None:
        """Take no more children and messages; the children end when they are done. It does not wait."""
        self._stopping = True
        super().begin_stop()

    def stop(self, timeout: float | None = EXIT_SECONDS, *, drain: bool = True) -> None:
        """Stop all children at the same time, and supervise nothing any more.

        The arguments and errors are those of FlashAttnActor.stop; the time is for all of them together.
        """
        super().stop(timeout, drain=drain)
        self._supervisor.stop()


def _stopped_error() -> ActorStoppedError:
    error = ActorStoppedError(
        field="spawn",
        got="a call on a stopped DeviceActor",
        expected="a running one",
        remedy="start another with DeviceActor.start()",
    )
    return retry(error, True)


def _start_error(field: str, got: object, expected: str) -> RequestError:
    return RequestError(
        field=field,
        got=repr(got),
        expected=expected,
        remedy="write device = DeviceActor.start(0), then device.spawn(FlashAttnProps(label=...))",
    )
