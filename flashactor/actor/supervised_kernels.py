"""A source of kernels that outlives the compile actors behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from flashactor.actor.failures import given_up_error, own_copy
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.actor.reply import PendingReply
from flashactor.actor.restarts import RestartHistory, RestartPolicy
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ActorStoppedError, FlashAttnError

if TYPE_CHECKING:
    from flashactor.cache.record import CachedKernel
    from flashactor.kernels.spec import KernelSpec


class _Asked(NamedTuple):
    spec: KernelSpec
    pending: PendingReply[CachedKernel]


class SupervisedKernels:
    """Compiled kernels. A compile actor that dies is replaced, and asked again for what it had not answered.

    One that is stopped on purpose is not: it answers what it was asked, and the next ask starts another.

    Attributes:
        label: name in logs.
    """

    def __init__(
        self,
        make: Callable[[], NvrtcActor],
        supervisor: Supervisor,
        *,
        label: str = "nvrtc",
        restart: RestartPolicy | None = None,
    ) -> None:
        """Start the first compile actor.

        Args:
            make: called for each compile actor.
            supervisor: starts the next one after a death.
            restart: how often, and how soon; default: ``RestartPolicy()``.

        Raises:
            FlashAttnError: whatever ``make`` raises.
        """
        self.label = label
        self._make = make
        self._supervisor = supervisor
        self._policy = restart or RestartPolicy()
        self._history = RestartHistory(self._policy)
        self._lock = threading.Lock()
        self._failure: FlashAttnError | None = None
        # While there is none, its successor is under way.
        self._actor: NvrtcActor | None = make()
        self._waiting: list[_Asked] = []

    @property
    def actor(self) -> NvrtcActor | None:
        """The compile actor of this moment; None if it has died and the next one is not there yet.

        Raises:
            FlashAttnError: another was stopped on purpose, and a new one cannot be made.
        """
        with self._lock:
            return self._live()

    @property
    def failure(self) -> FlashAttnError | None:
        """Why no further compile actor is started; None as long as they are."""
        return self._failure

    def ask(self, spec: KernelSpec) -> PendingReply[CachedKernel]:
        """Ask for a kernel, as ``NvrtcActor.ask`` does.

        Whatever goes wrong is raised by the reply: also ActorFailedError, if compile actors die too often.
        """
        asked = _Asked(spec, PendingReply())
        self._send(asked)
        return asked.pending

    # What the supervisor calls.

    def next_delay(self) -> float | None:
        """Count a death: seconds until the restart, or None if the policy gives up."""
        return self._history.next_delay(perf_counter())

    def begin(self, _context: int) -> bool:
        """Start the next compile actor; kernels are compiled without any context.

        Raises:
            BaseException: whatever its maker raises.
        """
        actor = self._make()
        with self._lock:
            self._actor = actor
            waiting, self._waiting = self._waiting, []
        for asked in waiting:
            self._send(asked)
        return True

    def give_up(self, cause: BaseException) -> None:
        """Answer everything with ActorFailedError, now and in future."""
        failure = given_up_error(cause, self._policy.max_restarts + 1, self._policy.within)
        with self._lock:
            self._failure = failure
            waiting, self._waiting = self._waiting, []
        for asked in waiting:
            asked.pending.settle(None, own_copy(failure))

    def _live(self) -> NvrtcActor | None:
        actor = self._actor
        if actor is not None and not actor.is_alive and actor.failure is None:
            actor = self._actor = self._make()
        return actor

    def _send(self, asked: _Asked) -> None:
        error: BaseException | None = None
        with self._lock:
            actor: NvrtcActor | None = None
            if self._failure is not None:
                error = own_copy(self._failure)
            else:
                try:
                    actor = self._live()
                except FlashAttnError as failure:
                    error = failure
                else:
                    if actor is None:
                        self._waiting.append(asked)
        if error is not None:
            asked.pending.settle(None, error)
        elif actor is not None:
            actor.ask(asked.spec).add_done_callback(partial(self._on_answer, actor, asked))

    def _on_answer(self, actor: NvrtcActor, asked: _Asked, answer: PendingReply[CachedKernel]) -> None:
        error = answer.error
        if error is None:
            asked.pending.settle(answer.result())
            return
        cause = actor.failure
        if cause is None or not isinstance(error, ActorStoppedError):
            asked.pending.settle(None, error)
            return
        self._on_death(actor, cause)
        self._send(asked)

    def _on_death(self, actor: NvrtcActor, cause: BaseException) -> None:
        with self._lock:
            first = self._actor is actor
            if first:
                self._actor = None
        if first:
            self._supervisor.died(self, cause)
