"""Who is there: the running actors of this process, and what those that stopped have done.

Metrics count for a process, so what an actor has counted must not go when it stops.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from flashactor.actor.messages import FlashAttnProps
from flashactor.actor.meter import ActorStats
from flashactor.actor.pool_stats import total_of


class Counted(Protocol):
    """An actor that one can ask what it did."""

    props: FlashAttnProps

    @property
    def executor_name(self) -> str:
        """Who computes."""

    @property
    def is_alive(self) -> bool:
        """Whether messages are still taken."""

    def stats(self) -> ActorStats:
        """The counts of this moment, also of one that has stopped."""


class Census:
    """The actors that have started and not stopped, and the sums of those that have; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[int, Counted] = {}
        self._gone: dict[str, ActorStats] = {}

    def enter(self, actor: Counted) -> None:
        """An actor has started."""
        with self._lock:
            self._live[id(actor)] = actor

    def leave(self, actor: Counted) -> None:
        """An actor has answered everything and stopped; twice is once."""
        last = actor.stats()  # before the lock: it may wait for a lock of the actor's
        with self._lock:
            if self._live.pop(id(actor), None) is not None:
                known = self._gone.get(actor.props.label)
                self._gone[actor.props.label] = last if known is None else total_of((known, last))

    def live(self) -> list[Counted]:
        """Those that have started and not stopped, oldest first."""
        with self._lock:
            return list(self._live.values())

    def take(self) -> tuple[list[Counted], Mapping[str, ActorStats]]:
        """The live ones and, by label, the sums of those that stopped: at one moment, so each actor once."""
        with self._lock:
            return list(self._live.values()), dict(self._gone)

    def forget(self) -> None:
        """In a forked child, which has none of the parent's threads: nobody is here."""
        self._lock = threading.Lock()  # nobody who exists here would release the old one
        self._live.clear()
        self._gone.clear()


ACTORS = Census()
"""Those of this process; ``flashactor.service`` enters them."""
