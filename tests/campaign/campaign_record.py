"""What happened in a run, in the order that it happened; written by many threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from flashactor.telemetry.events import Observer


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        at: its place in the order; ``seconds``: of ``perf_counter``.
        what: its kind; ``about``: the number of a message, or of an executor.
    """

    at: int
    seconds: float
    what: str
    about: int
    detail: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.detail[name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        detail = " ".join(f"{name}={value}" for name, value in self.detail.items())
        return f"{self.at:4d} {self.seconds:11.4f} {self.what} {self.about} {detail}"


class Record:
    """The events of a run. One lock gives them their order."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._grown = threading.Condition()

    def add(self, what: str, about: int, **detail: Any) -> Event:
        """Write something down."""
        with self._grown:
            event = Event(len(self._events), perf_counter(), what, about, detail)
            self._events.append(event)
            self._grown.notify_all()
            return event

    def __iter__(self) -> Iterator[Event]:
        with self._grown:
            return iter(list(self._events))

    def of(self, what: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self if event.what == what]

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds that can only change with an event."""
        with self._grown:
            return self._grown.wait_for(holds, seconds)

    def unanswered(self, *, timed: bool = False) -> set[int]:
        """The messages that the actors have heard of and not answered; ``timed``: with a deadline."""
        with self._grown:
            found: set[int] = set()
            for event in self._events:
                if event.what == "asked" and (event.timed or not timed):
                    found.add(event.about)
                elif event.what == "settled":
                    found.discard(event.about)
            return found


class Witness(Observer):
    """Writes down when an actor answers which message, and with what.

    Whoever asks says before which messages come next from the thread.
    """

    def __init__(self, record: Record, actor: int) -> None:
        self._record, self._actor = record, actor
        self._numbers: dict[int, int] = {}

    def asked(self, event: Any) -> None:
        number = _coming.numbers.pop(0)
        self._numbers[event.request_id] = number
        self._record.add("asked", number, actor=self._actor, timed=_coming.timed)

    def settled(self, event: Any) -> None:
        number = self._numbers[event.request_id]
        self._record.add("settled", number, error=event.error, actor=self._actor)


@contextmanager
def announced(numbers: tuple[int, ...], *, timed: bool) -> Iterator[None]:
    """Say which messages the calling thread asks for; a callback may ask for others in between."""
    before = getattr(_coming, "numbers", []), getattr(_coming, "timed", False)
    _coming.numbers, _coming.timed = list(numbers), timed
    try:
        yield
    finally:
        _coming.numbers, _coming.timed = before


_coming = threading.local()
