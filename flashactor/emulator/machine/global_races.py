"""Races in global memory: who touched each place last, within a block and among the blocks of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.block_order import BlockOrder

Array = NDArray[Any]


class GlobalRaces:
    """Who touched each grain of global memory, over all blocks of a launch.

    Kinds of access are plain, or synchronising (atomics, and loads and stores that are volatile or have a
    memory order): two synchronising accesses never race. Of readers, the last one is remembered, and whether
    several blocks read.
    """

    SEVERAL = -2

    def __init__(self, size: int, grain: int, blocks: int) -> None:
        self.grain = grain
        self.order = BlockOrder(blocks)
        grains = size // grain
        self._writer = np.full(grains, -1, np.int32)
        self._written = np.zeros(grains, np.int32)
        self._writer_warp = np.zeros(grains, np.int16)
        self._writer_lane = np.zeros(grains, np.uint8)
        self._writer_is_plain = np.zeros(grains, bool)
        self._writer_time = np.zeros(grains, np.int32)  # of the block
        self._reader = np.full(grains, -1, np.int32)
        self._read = np.zeros(grains, np.int32)
        self._reader_warp = np.zeros(grains, np.int16)
        self._reader_lane = np.zeros(grains, np.uint8)
        self._reader_is_plain = np.zeros(grains, bool)
        self._reader_time = np.zeros(grains, np.int32)

    def access(
        self, grain: Array, identity: Array, warp: Array, lane: Array, now: Array, seen: Array, block: Array,
        what: str, is_synchronizing: bool,
    ) -> tuple[int, str] | None:  # fmt: skip
        """Record accesses; (position, message) of one that races, or None."""
        if is_synchronizing:
            self.order.synchronize(grain, identity, acquires=what != "write", releases=what != "read")
        writer = self._writer[grain]
        other = (writer >= 0) & (writer != identity)
        if is_synchronizing:
            other &= self._writer_is_plain[grain]
        if other.any():
            other[other] = self.order.unseen(identity[other], writer[other], self._writer_time[grain[other]])
        if other.any():
            at = int(np.argmax(other))
            return at, f"a {what} of what block {int(writer[at])} of the grid wrote"
        mine = writer == identity
        if mine.any():
            owner, owner_lane = self._writer_warp[grain], self._writer_lane[grain]
            unseen = mine & (self._written[grain] > seen[block, warp, owner, owner_lane])
            unseen &= ~((owner == warp) & (owner_lane == lane))
            if is_synchronizing:
                unseen &= self._writer_is_plain[grain]
            if unseen.any():
                at = int(np.argmax(unseen))
                return at, f"a {what} not ordered after the write by warp {int(owner[at])} of the block"
        if what == "read":
            reader = self._reader[grain]
            self._reader[grain] = np.where((reader == -1) | (reader == identity), identity, self.SEVERAL)
            self._reader[grain[self._reader[grain] != identity]] = self.SEVERAL
            self._read[grain], self._reader_warp[grain], self._reader_lane[grain] = now, warp, lane
            self._reader_is_plain[grain] |= not is_synchronizing
            self._reader_time[grain] = self.order.time[identity]
            return None
        reader = self._reader[grain]
        foreign = (reader == self.SEVERAL) | ((reader >= 0) & (reader != identity))
        if is_synchronizing:
            foreign &= self._reader_is_plain[grain]
        if foreign.any():
            one = foreign & (reader >= 0)
            foreign[one] = self.order.unseen(identity[one], reader[one], self._reader_time[grain[one]])
        if foreign.any():
            at = int(np.argmax(foreign))
            return at, f"a {what} of what another block of the grid reads"
        mine = reader == identity
        if mine.any():
            owner, owner_lane = self._reader_warp[grain], self._reader_lane[grain]
            unseen = mine & (self._read[grain] > seen[block, warp, owner, owner_lane])
            unseen &= ~((owner == warp) & (owner_lane == lane))
            if is_synchronizing:
                unseen &= self._reader_is_plain[grain]
            if unseen.any():
                at = int(np.argmax(unseen))
                return at, f"a {what} not ordered after the read by warp {int(owner[at])} of the block"
        self._writer[grain] = identity
        self._written[grain] = now
        self._writer_warp[grain] = warp
        self._writer_lane[grain] = lane
        self._writer_is_plain[grain] = not is_synchronizing
        self._writer_time[grain] = self.order.time[identity]
        clash = (self._writer[grain] != identity) | (self._writer_warp[grain] != warp)
        if clash.any() and not is_synchronizing:
            return int(np.argmax(clash)), "a write while another warp writes the same place"
        return None
