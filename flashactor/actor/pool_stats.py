"""What the actors of a pool or of a device did, each and together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add

from flashactor.actor.meter import ActorStats, Histogram


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What the actors of a pool, or of a device, did and have to do.

    Attributes:
        actors: of each, by label.
        total: their sum; its ``generation`` is the highest of them.
    """

    actors: Mapping[str, ActorStats]
    total: ActorStats


def pool_stats(actors: Mapping[str, ActorStats]) -> PoolStats:
    """The statistics of actors, by label, with their sum."""
    return PoolStats(actors, total_of(actors.values()))


def total_of(stats_of_actors: Iterable[ActorStats]) -> ActorStats:
    """The sum of statistics; its ``generation`` is the highest of them."""
    every = list(stats_of_actors)
    names = dict.fromkeys(name for stats in every for name in stats.phases)
    return ActorStats(
        received=sum(stats.received for stats in every),
        completed=sum(stats.completed for stats in every),
        failed=sum(stats.failed for stats in every),
        pending=sum(stats.pending for stats in every),
        queued=sum(stats.queued for stats in every),
        waiting=sum(stats.waiting for stats in every),
        in_flight=sum(stats.in_flight for stats in every),
        restarts=sum(stats.restarts for stats in every),
        generation=max((stats.generation for stats in every), default=1),
        errors=_errors(every),
        phases={
            name: _sum_of([stats.phases[name] for stats in every if name in stats.phases]) for name in names
        },
    )


def _errors(every: Iterable[ActorStats]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for stats in every:
        counted.update(stats.errors)
    return dict(counted)


def _sum_of(histograms: Sequence[Histogram]) -> Histogram:
    """One histogram of all durations; every actor has the same bounds."""
    counts = histograms[0].counts
    for other in histograms[1:]:
        counts = tuple(map(add, counts, other.counts))
    return Histogram(histograms[0].bounds, counts, sum(one.sum for one in histograms))
