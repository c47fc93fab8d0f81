"""The account of an actor's messages: what is not answered, what is launched, and how much of either."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from flashactor.actor.meter import ActorStats, Meter

if TYPE_CHECKING:
    from flashactor.actor.ask import Ask


class Entry(Enum):
    """What an actor says to a message that comes."""

    TAKEN = "taken"
    FULL = "full"
    CLOSED = "closed"


TAKEN = Entry.TAKEN


class Ledger:
    """Every message enters once and leaves once, whatever happens to the actor; thread-safe.

    A message can be launched only before it leaves, so whoever takes it out knows whether a kernel may run.
    One that is launched occupies a place until the executor has done with it, answered or not.
    """

    def __init__(self, places: int, size: int) -> None:
        """
        Args:
            places: most messages that are launched and not done.
            size: most messages that wait to be launched.
        """
        self.places = places
        self.size = size
        # Called without the lock whenever something may be launched, or the drained actor may end.
        self.on_change: Callable[[], None] = _nothing
        # Whether ``on_change`` is called also for a result that frees a place where places were free.
        self.tells_all = False
        # A signal handler, or a finalizer of the garbage collector, may cancel while its thread has this.
        self._lock = threading.RLock()
        self._open: set[Ask] = set()
        # Those that are launched and not done; anybody may look how many there are.
        self.in_flight: set[Ask] = set()
        self._meter = Meter()
        self._received = self._queued = 0
        self._closed = self._draining = False

    def enter(self, ask: Ask) -> Entry:
        """Count a message in, and say whether there is room. It is open until it is answered, in any case."""
        with self._lock:
            self._received += 1
            self._queued += 1
            self._open.add(ask)  # last: after a KeyboardInterrupt here it can leave
            if self._queued <= self.size and not self._closed:
                return TAKEN
            return Entry.CLOSED if self._closed else Entry.FULL

    def launch(self, ask: Ask) -> bool:
        """Give a message a place in flight; False if it has one, or was answered meanwhile."""
        with self._lock:
            if ask.settled or ask.launched:
                return False
            self._queued -= 1
            self.in_flight.add(ask)
            ask.launched = True
            return True

    def bounce(self, ask: Ask) -> bool:
        """Take a launch back that did not happen; False if the message was answered meanwhile."""
        with self._lock:
            self.in_flight.discard(ask)
            ask.launched = False
            if ask.settled:
                return False
            self._queued += 1
            return True

    def complete(self, ask: Ask, durations: tuple[float, ...]) -> bool:
        """The executor has done with a message, and has a result: True if it is still to be answered."""
        in_flight = self.in_flight
        with self._lock:
            if ask not in in_flight:
                return False
            changed = len(in_flight) >= self.places or self.tells_all or self._draining
            in_flight.remove(ask)
            answered, ask.settled = ask.settled, True
            if not answered:
                self._open.remove(ask)
                self._meter.complete(durations)
        if changed:
            self.on_change()
        return not answered

    def land(self, ask: Ask) -> bool:
        """The executor has done with a message: its place is free. False if it was already."""
        with self._lock:
            landed = ask in self.in_flight
            self.in_flight.discard(ask)
        if landed:
            self.on_change()
        return landed

    def leave(self, ask: Ask, error: BaseException) -> bool:
        """A message is answered with an error; False if it was answered before."""
        with self._lock:
            if ask.settled or ask not in self._open:
                return False
            ask.settled = True
            self._open.remove(ask)
            self._meter.fail(error)
            if not ask.launched:
                self._queued -= 1
            draining = self._draining
        if draining:
            self.on_change()
        return True

    @property
    def unanswered(self) -> int:
        """Number of messages that are not answered."""
        return len(self._open)

    @property
    def is_idle(self) -> bool:
        """Whether everything is answered and nothing runs."""
        return not self._open and not self.in_flight

    def close(self, *, draining: bool = False) -> None:
        """Take nothing in any more; ``draining``: say when the last message has left."""
        with self._lock:
            self._closed = True
            self._draining = draining
        self.on_change()

    def open_asks(self) -> list[Ask]:
        """The messages that are not answered."""
        with self._lock:
            return list(self._open)

    def clear_places(self) -> list[Ask]:
        """Free all places: their executor will not be heard any more. The messages that had one."""
        with self._lock:
            found = list(self.in_flight)
            self.in_flight.clear()
        self.on_change()
        return found

    def stats(self, waiting: int, generation: int, restarts: int) -> ActorStats:
        """The account of this moment; ``waiting`` may count messages that are answered by now."""
        with self._lock:
            meter = self._meter
            return ActorStats(
                received=self._received,
                completed=meter.completed,
                failed=meter.failed,
                pending=len(self._open),
                queued=self._queued,
                waiting=min(waiting, self._queued),
                in_flight=len(self.in_flight),
                restarts=restarts,
                generation=generation,
                errors=dict(meter.errors),
                phases=meter.phases(),
            )

    def renew_lock(self) -> None:
        """In a forked child: whoever held the lock does not exist here."""
        self._lock = threading.RLock()


def _nothing() -> None:
    pass
