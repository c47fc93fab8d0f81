"""The address of an actor with the life behind it: what a program holds."""

from __future__ import annotations

from collections.abc import Callable

from flashactor.actor.address import Address
from flashactor.actor.blocking import refuse_on_event_loop
from flashactor.actor.life import Life
from flashactor.actor.messages import FlashAttnProps
from flashactor.actor.meter import ActorStats
from flashactor.actor.reply import to_seconds
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import FlashAttnError
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
        self._life = Life(
            props, self._desk, self._mailbox, make_executor, supervisor, record=record, on_end=self._on_end
        )
        self._life.start()

    @property
    def label(self) -> str:
        """The name in logs and metrics."""
        return self.props.label

    @property
    def executor_name(self) -> str:
        """The name of the executor that ``auto`` or the caller picked."""
        return self._life.executor.name

    @property
    def is_alive(self) -> bool:
        """Whether messages are taken: it is not stopped, nor given up by its supervisor."""
        return not self._life.stopping and self._life.failure is None

    @property
    def unanswered(self) -> int:
        """Number of messages that are not answered; cheaper than ``stats``."""
        return self._ledger.unanswered

    @property
    def is_idle(self) -> bool:
        """Whether ``stop`` has nothing to wait for: everything is answered and nothing runs."""
        return self._ledger.is_idle or self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether it has stopped, or was given up: everything is answered, and nothing more will be done."""
        return self._life.has_ended

    @property
    def failure(self) -> FlashAttnError | None:
        """Why the supervisor gave it up; None if it did not."""
        return self._life.failure

    def stats(self) -> ActorStats:
        """Counts and durations since the start."""
        generation = self._life.generation
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
        self.stop_with_others(timeout, drain=drain)
        self._life.join()

    def stop_with_others(self, timeout: float | None, *, drain: bool) -> None:
        """``stop`` of one of several: afterwards, ``stop`` waits for its thread alone."""
        seconds = None if timeout is None else max(to_seconds("timeout", timeout), 0.0)
        if drain and not self.is_idle:
            refuse_on_event_loop("stop()", "write `await actor.aclose()`, or stop(drain=False)")
        self._life.stop(seconds, drain=drain)

    def begin_stop(self) -> None:
        """Take no more messages, and end when the others are done; it does not wait. ``stop`` does."""
        self._life.begin_stop()

    def _on_end(self) -> None:
        """The actor has ended; perhaps not for the first time."""

    def _refusal(self) -> BaseException:
        return self._life.refusal()
