"""Which blocks of a grid have seen what others wrote: through fences and atomics; nothing else orders them.

A block releases by a fence and then an atomic (or a volatile or ordered store); whoever reads that place
with an atomic (or such a load) afterwards has seen what was written before the fence, and what its writer had
seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NEVER = -1


class BlockOrder:
    """A vector clock for each block, kept sparsely: most blocks never hear of each other.

    Attributes:
        time: of each block; it advances at fences, and writes are stamped with it.
    """

    def __init__(self, blocks: int) -> None:
        self.time = np.zeros(blocks, np.int32)
        self._fenced = np.full(blocks, NEVER, np.int32)
        self._seen: dict[int, dict[int, int]] = {}
        self._published: dict[int, dict[int, int]] = {}

    def fence(self, blocks: Array) -> None:
        """Blocks fence: what they wrote so far may be published."""
        each = np.unique(blocks)
        self._fenced[each] = self.time[each]
        self.time[each] += 1

    def synchronize(self, grain: Array, blocks: Array, *, acquires: bool, releases: bool) -> None:
        """Atomics, and ordered loads and stores, at places: take over what was published there; publish."""
        if not (self._fenced != NEVER).any():
            return
        for place, block in np.unique(np.stack([grain, blocks], 1), axis=0).tolist():
            if acquires and place in self._published:
                _merge(self._seen.setdefault(block, {}), self._published[place])
            if releases:
                released = dict(self._seen.get(block, {}))
                if self._fenced[block] != NEVER:
                    released[block] = int(self._fenced[block])
                if released:
                    _merge(self._published.setdefault(place, {}), released)

    def unseen(self, viewer: Array, owner: Array, stamp: Array) -> Array:
        """Which accesses, by ``owner`` at time ``stamp``, the viewing block has not seen."""
        result = np.ones(viewer.size, bool)
        for by, of in np.unique(np.stack([viewer, owner], 1), axis=0).tolist():
            limit = self._seen.get(by, {}).get(of, NEVER)
            if limit != NEVER:
                result[(viewer == by) & (owner == of) & (stamp <= limit)] = False
        return result


def _merge(into: dict[int, int], other: dict[int, int]) -> None:
    for block, time in other.items():
        into[block] = max(time, into.get(block, NEVER))
