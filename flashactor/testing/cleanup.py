"""What a test leaves behind: unanswered asks, and actors that do not stop."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from flashactor.actor.messages import FlashAttnProps
from flashactor.actor.meter import ActorStats
from flashactor.errors import ActorStoppedError
from flashactor.executors.base import Executor
from flashactor.service import FlashAttnActor

DRAIN_SECONDS = 5.0
"""How long what a test asked for may go on after its end; then it counts as left behind."""


class ActorsOfATest:
    """The actors that one test started."""

    def __init__(self) -> None:
        self._actors: list[FlashAttnActor] = []

    def start(
        self, props: FlashAttnProps | None, executor: Executor | Callable[[], Executor]
    ) -> FlashAttnActor:
        """Start an actor that ``stop`` will stop."""
        actor = FlashAttnActor.start(props, executor)
        self._actors.append(actor)
        return actor

    def stop(self) -> list[str]:
        """Stop them all, the last one first: what they were left with, a line for each."""
        left: list[str] = []
        while self._actors:
            left.extend(_stop(self._actors.pop()))
        return left


def _stop(actor: FlashAttnActor) -> list[str]:
    before = actor.stats()
    # A kernel that hangs is nothing to wait for, and nothing wrong: a test of deadlines makes it.
    drain = before.pending > 0 or before.in_flight == 0
    began = monotonic()
    actor.stop(DRAIN_SECONDS, drain=drain)
    unanswered = _stopped(actor.stats()) - _stopped(before)
    if unanswered:
        return [f"{unanswered} unanswered of {before.received} asks of actor {actor.props.label!r}"]
    if monotonic() - began >= DRAIN_SECONDS:
        return [f"actor {actor.props.label!r}, which did not stop within {DRAIN_SECONDS:g} s"]
    return []


def _stopped(stats: ActorStats) -> int:
    """How many asks the actor's stop has answered, in place of its executor."""
    return stats.errors.get(ActorStoppedError.__name__, 0)
