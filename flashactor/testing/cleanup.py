"""What a test leaves behind: unanswered asks, and actors that do not stop."""

from __future__ import annotations

from collections.abc import Callable

from flashactor.actor.messages import FlashAttnProps
from flashactor.errors import ActorStoppedError, AskTimeoutError
from flashactor.executors.base import Executor
from flashactor.service import FlashAttnActor

DRAIN_SECONDS = 5.0
"""How long what a test asked for may go on after its end; then it counts as left behind."""

ABORT_SECONDS = 5.0
"""How long an actor may take to stop when nothing more is to be computed."""


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
    if not actor.is_alive:  # the test stopped it, and that answered everybody
        return []
    answered_before = _stopped(actor)
    try:
        actor.stop(DRAIN_SECONDS)
    except AskTimeoutError:
        try:
            actor.stop(ABORT_SECONDS, drain=False)
        except AskTimeoutError:
            return [f"actor {actor.props.label!r}, which does not stop"]
    unanswered = _stopped(actor) - answered_before
    if unanswered:
        return [f"{unanswered} unanswered ask(s) of actor {actor.props.label!r}"]
    return []


def _stopped(actor: FlashAttnActor) -> int:
    """How many asks the actor's stop has answered, in place of its executor."""
    return actor.stats().errors.get(ActorStoppedError.__name__, 0)
