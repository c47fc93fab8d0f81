"""A run, put together by messages, executors and callers, so that rules can be short."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from math import inf
from typing import Any

from campaign_record import Event
from campaign_schedule import ActorPlan, Ask, Prepare, Schedule, Submit


class Message:
    """A message, and what became of it."""

    def __init__(self, number: int, events: list[Event]) -> None:
        self.number = number
        self._events = events
        self.begun = self._of("ask")[0]
        self.step: Ask = self.begun.step
        self.after: tuple[int, ...] = self.begun.after
        self.in_callback: bool = self.begun.in_callback
        self.begun_at = self.begun.at
        self.returned_at = next((event.at for event in self._of("ask returned")), inf)
        self.settled, self.answered = self._of("settled"), self._of("answered")
        self.cancels = self._of("cancel")
        self.prepares, self.submits = self._of("prepared"), self._of("submitted")
        self.dones = self._of("done")

    def __str__(self) -> str:
        end = repr(self.error) if self.error else "a result" if self.settled else "no answer"
        return f"message {self.number} of actor {self.step.actor} ({end})"

    def _of(self, what: str) -> list[Event]:
        return [event for event in self._events if event.what == what]

    @property
    def error(self) -> Any:
        """The error that it was answered with; None: none, or no answer."""
        return self.settled[0].error if self.settled else None

    @property
    def settled_at(self) -> float:
        """When it was answered, in the order of events."""
        return self.settled[0].at if self.settled else inf

    @property
    def may_end_at(self) -> float:
        """From when on it may be answered without a launch: the record has the answer a little later."""
        if self.step.timeout_ms is not None:
            return self.begun_at
        return min([self.settled_at, *(cancel.at for cancel in self.cancels)])

    @property
    def starts(self) -> list[Event]:
        """The launches that the executor did not refuse."""
        return [event for event in self.submits if not event.refused]

    @property
    def priority(self) -> int:
        return self.step.priority

    @property
    def lane(self) -> tuple[int, int, str | None]:
        """What it shares with those that it has to keep its order with."""
        return self.step.actor, self.step.priority, self.step.caller


class Queue:
    """What waits to be launched by one executor."""

    def __init__(self, history: "History", events: Iterable[Event]) -> None:
        self._history = history
        self._lanes: dict[tuple, list[Message]] = defaultdict(list)
        self._prepared: dict[int, int] = {}
        self._launched: dict[int, int] = {}
        self._ready: dict[int, float] = {}
        for event in events:
            message = history.message(event.about)
            if event.what == "prepared" and event.how not in (Prepare.ERROR, Prepare.CRASH):
                self._lanes[message.lane].append(message)
                self._prepared[event.about] = event.at
                self._ready[event.about] = event.at if event.ready else history.ready_at(event)
            elif event.what == "submitted":
                self._launched.setdefault(event.about, event.at)

    def surely_next(self, since: float, until: float) -> Iterator[Message]:
        """The first of each lane, if nothing kept it from being launched from one event until another."""
        for lane in self._lanes.values():
            waiting = [m for m in lane if self._launched.get(m.number, inf) > until and m.settled_at > since]
            if not waiting:
                continue
            first = waiting[0]
            there = max(self._prepared[first.number], self._ready[first.number]) < since
            if there and not first.after and first.may_end_at > until and not self._stops_by(first, until):
                yield first

    def _stops_by(self, message: Message, at: int) -> bool:
        return any(stop.at < at for stop in self._history.of("stop", message.step.actor))


class History:
    """The events of a run in the order that rules ask for them."""

    def __init__(self, schedule: Schedule, events: Iterable[Event], limit: float) -> None:
        self.schedule, self.limit = schedule, limit
        self._kinds: dict[str, list[Event]] = defaultdict(list)
        of_messages: dict[int, list[Event]] = defaultdict(list)
        self.by_executor: dict[tuple[int, int], list[Event]] = defaultdict(list)
        self.ends: dict[tuple[int, int], list[Event]] = defaultdict(list)
        for event in events:
            self._kinds[event.what].append(event)
            if event.what in OF_MESSAGES:
                of_messages[event.about].append(event)
            if event.what in ("prepared", "submitted", "done"):
                self.by_executor[event.actor, event.generation].append(event)
            if event.what in ("closed", "abandoned"):
                self.ends[event.actor, event.about].append(event)
        self._messages = {number: Message(number, found) for number, found in of_messages.items()}

    @property
    def messages(self) -> Iterable[Message]:
        return self._messages.values()

    def message(self, number: int) -> Message:
        return self._messages[number]

    def of(self, what: str, about: int | None = None) -> list[Event]:
        """The events of one kind."""
        return [event for event in self._kinds[what] if about is None or event.about == about]

    def made(self, actor: int) -> list[Event]:
        """The executors of an actor."""
        return [event for event in self.of("made") if event.actor == actor]

    def end_of(self, submitted: Event) -> float:
        """When the executor of a launch was given up or closed."""
        return min((end.at for end in self.ends[submitted.actor, submitted.generation]), default=inf)

    def plan_of(self, message: Message) -> ActorPlan:
        return self.schedule.actors[message.step.actor]

    def steps(self) -> Iterator[object]:
        """What threads and the event loop did."""
        for lane in (*self.schedule.threads, self.schedule.loop):
            yield from lane

    def lanes(self) -> dict[tuple, list[Message]]:
        """The messages that have to keep their order."""
        found: dict[tuple, list[Message]] = defaultdict(list)
        for message in self.messages:
            found[message.lane].append(message)
        return found

    def queue_of(self, events: Iterable[Event]) -> Queue:
        """What waited for one executor."""
        return Queue(self, (event for event in events if event.what != "done"))

    def ready_at(self, prepared: Event) -> float:
        """When what was not ready at once became it."""
        later = (e.at for e in self.of("ready", prepared.about) if e.at > prepared.at)
        return next(later, inf)

    def lane_shrank(self, message: Message, until: float) -> bool:
        """Whether a message of the same lane went without a launch before an event: that may cost a turn."""
        return any(
            m.may_end_at < until and not m.submits for m in self.lanes()[message.lane] if m is not message
        )

    def on_device(self, actor: int, what: str) -> list[Event]:
        """The events of all actors that share a device with one."""
        return [e for e in self.of(what) if self.schedule.one_device or e.actor == actor]

    @cached_property
    def _given_up(self) -> set[int]:
        return {event.about for event in self.of("stats") if event.failure is not None}

    def given_up(self, actor: int) -> bool:
        """Whether the supervisor did not start an actor again."""
        return actor in self._given_up

    def failed_under(self, message: Message) -> bool:
        """Whether an executor crashed or hung while a message was launched on it, or about to be."""
        for submit in (*message.submits, *(message.prepares if message.error.retry_safe else ())):
            hang_ms = self.schedule.actors[submit.actor].hang_ms
            for event in self.by_executor[submit.actor, submit.generation]:
                if event.what == "submitted" and event.how is Submit.CRASH and not event.refused:
                    return True
                if event.what == "submitted" and hang_ms is not None:
                    # The launch is at some time between the ask and what the executor notes.
                    asked = self.message(event.about).begun
                    if message.settled[0].seconds - asked.seconds >= hang_ms / 1e3:
                        return True
        return False


OF_MESSAGES = {
    "ask",
    "ask returned",
    "asked",
    "settled",
    "answered",
    "cancel",
    "withdrawn",
    "prepared",
    "submitted",
    "done",
}
