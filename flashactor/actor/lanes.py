"""The order of what waits: by priority, callers in turn, and each caller's own first come, first served."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Caller:
    """An object of the application's as a key that does not fail on the actor's thread: hashed once, and
    unequal to what it cannot be compared with.
    """

    __slots__ = ("_hash", "value")

    def __init__(self, value: Hashable) -> None:
        """Raises what ``hash`` raises, on the thread that asks."""
        self.value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        try:
            return bool(self.value == (other.value if isinstance(other, Caller) else other))
        except Exception:
            return False


class Queueable(Protocol):
    """What can wait in lanes."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    @property
    def caller(self) -> Hashable:
        """Whose it is."""


T = TypeVar("T", bound=Queueable)


class Lanes(Generic[T]):
    """Items of many callers. A lane has those of one caller and one priority, in the order that they came.

    The turn goes round among the lanes of a priority (Nagle, "On packet switches with infinite storage",
    RFC 970, section 4: one queue for each source, served in turn), so that nobody waits longer for having
    asked less. Not thread-safe.

    Attributes:
        length: number of items, as ``len`` without its price.
    """

    def __init__(self) -> None:
        # An ordered dictionary as a queue: what is cancelled leaves the middle of it at no cost.
        self._levels: dict[int, OrderedDict[Hashable, OrderedDict[T, None]]] = {}
        self._descending: list[int] = []
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        for priority in self._descending:
            for lane in self._levels[priority].values():
                yield from lane

    def push(self, item: T, *, front: bool = False) -> None:
        """Put an item at the end of its lane, or at its front."""
        level = self._levels.get(item.priority)
        if level is None:
            level = self._levels[item.priority] = OrderedDict()
            insort(self._descending, item.priority, key=_negated)
        lane = level.get(item.caller)
        if lane is None:
            lane = level[item.caller] = OrderedDict()
        lane[item] = None
        if front:
            lane.move_to_end(item, last=False)
        self.length += 1

    def pop(self, may_leave: Callable[[T], bool]) -> T | None:
        """Take out the item whose turn it is: the first of a lane, if it may leave; else another lane's."""
        for priority in self._descending:
            level = self._levels[priority]
            for caller, lane in level.items():
                item = next(iter(lane))
                if may_leave(item):
                    self._remove(item, level, lane)
                    if lane:
                        level.move_to_end(caller)
                    return item
        return None

    def discard(self, item: T) -> bool:
        """Take out an item wherever it is; False if it is not here."""
        level = self._levels.get(item.priority)
        lane = None if level is None else level.get(item.caller)
        if level is None or lane is None or item not in lane:
            return False
        self._remove(item, level, lane)
        return True

    def _remove(
        self, item: T, level: OrderedDict[Hashable, OrderedDict[T, None]], lane: OrderedDict[T, None]
    ) -> None:
        del lane[item]
        self.length -= 1
        if lane:
            return
        del level[item.caller]
        if not level:
            del self._levels[item.priority]
            self._descending.remove(item.priority)


def _negated(priority: int) -> int:
    return -priority
