"""Which warps run next.

A kernel must be right under every order that the hardware may choose. Three policies cover different
mistakes: ``min`` runs the warps that are furthest behind, all of them together; ``max`` lets one warp of a
block run as far as it can before the next one starts; ``random`` picks a block of code and some of the warps
that are at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NOWHERE = np.iinfo(np.int32).max
"""The position of a warp that cannot run."""

FAIR_EVERY = 64
"""Every so many steps the warp that has waited longest runs, so that a spinning warp cannot starve others."""

Choice = tuple[int, Array]


class Policy:
    """Chooses among warps, given the position of each: ``[warp][block]``, NOWHERE if it cannot run."""

    def __init__(self, name: str, seed: int) -> None:
        self._choose: Callable[[Array], Choice] = {
            "min": self._min,
            "max": self._max,
            "random": self._random,
        }[name]
        self.name = name
        self._rng = np.random.default_rng(seed)
        self._step = 0
        self._ran: Array | None = None

    def choose(self, positions: Array) -> Choice:
        """The block of code to run, and the warps that run it."""
        self._step += 1
        if self._ran is None:
            self._ran = np.zeros(positions.shape, np.int64)
        if self._step % FAIR_EVERY:
            position, chosen = self._choose(positions)
        else:
            waiting = np.where(positions == NOWHERE, np.iinfo(np.int64).max, self._ran)
            position = int(positions.flat[int(waiting.argmin())])
            chosen = positions == position
        self._ran[chosen] = self._step
        return position, chosen

    def pick(self, count: int) -> int:
        """Which of some transfers in flight completes first: the oldest, the newest, any."""
        return {"min": 0, "max": count - 1}.get(self.name, int(self._rng.integers(count)))

    def delivers_early(self) -> bool:
        """Whether a transfer completes now although warps could run."""
        return self.name == "random" and self._rng.random() < 0.25

    @staticmethod
    def _min(positions: Array) -> Choice:
        position = int(positions.min())
        return position, positions == position

    @staticmethod
    def _max(positions: Array) -> Choice:
        warps = positions.shape[0]
        rank = np.where(
            positions == NOWHERE, -1, positions.astype(np.int64) * warps + np.arange(warps)[:, None]
        )
        first = rank.argmax(0)
        columns = np.arange(positions.shape[1])
        best = np.where(rank[first, columns] < 0, -1, positions[first, columns])
        position = int(best.max())
        chosen = np.zeros(positions.shape, bool)
        chosen[first, columns] = best == position
        return position, chosen

    def _random(self, positions: Array) -> Choice:
        present = np.unique(positions)
        position = int(self._rng.choice(present[present != NOWHERE]))
        at: Array = np.asarray(np.equal(positions, position))
        # The same warps of every block, so that they are a slice of the machine where they can be.
        rows = self._rng.random(positions.shape[0]) < 0.5
        chosen: Array = at & np.expand_dims(rows, 1)
        return position, chosen if chosen.any() else at
