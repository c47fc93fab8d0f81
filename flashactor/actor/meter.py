"""What an actor counts and times, cheaply enough to be always on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# From 10 us, less than a round trip between two threads, to a minute, more than any compile.
BOUNDS = (
    *(digits * 10.0**exponent for exponent in range(-5, 1) for digits in (1.0, 2.5, 5.0)),
    *(10.0, 25.0, 60.0),
)

PHASES = ("queue", "compile", "launch", "complete", "total")
"""Waiting for its turn, for its kernel, being launched, running on the device, and all of them."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of durations.

    Attributes:
        bounds: upper bound of each bucket but the last, which has none; seconds.
        counts: of each bucket.
        sum: of all durations, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """Number of durations."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """An estimate of a quantile, in seconds: linear within its bucket; NaN without durations.

        What lies beyond the last bound counts as the last bound.
        """
        rank, below = q * self.count, 0
        if not self.count:
            return float("nan")
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                if index == len(self.bounds):
                    break
                low = self.bounds[index - 1] if index else 0.0
                return low + (self.bounds[index] - low) * max(rank - below, 0.0) / count
            below += count
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class ActorStats:
    """What an actor did and has to do.

    Attributes:
        received: messages that were asked or told.
        completed: requests answered with a result.
        failed: requests answered with an error.
        pending: requests not answered yet.
        queued: of them, those that are not launched.
        waiting: of these, those outside of the mailbox, which is full.
        in_flight: requests that are launched and not done, answered (timed out, cancelled) or not.
        restarts: times that the actor's thread and executor were replaced.
        generation: number of the present thread and executor, from 1.
        errors: number of failed requests by type of error.
        phases: durations of completed requests by phase (``PHASES``).
    """

    received: int = 0
    completed: int = 0
    failed: int = 0
    pending: int = 0
    queued: int = 0
    waiting: int = 0
    in_flight: int = 0
    restarts: int = 0
    generation: int = 1
    errors: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    phases: Mapping[str, Histogram] = field(default_factory=lambda: MappingProxyType({}))


FOLD_AT = 256
"""Durations that are kept as they come: sorting some and cutting them at the bounds costs less than finding
the bucket of each, and of so few it keeps nobody waiting."""


class Meter:
    """Counts and times of completed and failed requests. Its owner sees to it that one thread calls it."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self.completed = self.failed = 0
        self._recent: list[tuple[float, ...]] = []
        self._sums = [0.0] * len(PHASES)
        self._counts = [[0] * (len(BOUNDS) + 1) for _ in PHASES]

    def complete(self, durations: tuple[float, ...]) -> None:
        """Count a completed request with the seconds of each phase."""
        self.completed += 1
        recent = self._recent
        recent.append(durations)
        if len(recent) >= FOLD_AT:
            self._fold()

    def fail(self, error: BaseException) -> None:
        """Count a failed request."""
        self.failed += 1
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1

    def phases(self) -> dict[str, Histogram]:
        """The durations until now."""
        self._fold()
        return {
            name: Histogram(BOUNDS, tuple(self._counts[index]), self._sums[index])
            for index, name in enumerate(PHASES)
        }

    def _fold(self) -> None:
        for index, column in enumerate(zip(*self._recent, strict=True)):
            seconds, counts, below = sorted(column), self._counts[index], 0
            for bucket, bound in enumerate(BOUNDS):
                within = bisect_right(seconds, bound)
                counts[bucket] += within - below
                below = within
            counts[-1] += len(seconds) - below
            self._sums[index] += sum(seconds)
        self._recent.clear()
