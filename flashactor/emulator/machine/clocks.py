"""Which accesses are ordered before which: vector clocks.

Every warp has a time, which advances when lanes of it release something. ``seen[block][viewer][owner][lane]``
is the time up to which the viewer warp has seen what a lane of the owner warp did (column 32: what all of its
lanes did, for instructions that all of them execute together). Barriers and mbarriers carry such vectors from
those who arrive to those who wait. An access must have been seen by the one that conflicts with it; otherwise
it is a race, whatever order the scheduler happened to run them in. This is FastTrack (Flanagan and Freund
2009), with lanes told apart where the order within a warp matters.

Owners beyond the warps are mbarriers: what a bulk copy writes is seen by those who wait for its mbarrier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.arena import BASE
from flashactor.emulator.machine.global_races import GlobalRaces
from flashactor.emulator.machine.window import Mask, Window
from flashactor.errors import AsyncHazardError, DataRaceError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]

TOGETHER = 32
"""The lane of an access that a whole warp makes together."""

NOT_YET = np.iinfo(np.int32).max
"""The time of an asynchronous read that nobody has waited for: no barrier publishes it."""


class Clocks:
    """Vector clocks of the machine's warps, and who touched each grain of memory last.

    A grain is the smallest access of the kernel to that space: no two accesses share a part of a grain.
    """

    def __init__(
        self, machine: Machine, shared_grain: int, mbarriers: int, global_races: GlobalRaces
    ) -> None:
        self._m = machine
        blocks, warps = machine.blocks, machine.warps_per_block
        self._warps = warps
        self._shift = shared_grain.bit_length() - 1
        self._global = global_races
        self._global_shift = global_races.grain.bit_length() - 1
        self.time = np.ones((blocks, warps), np.int32)
        self.seen = np.zeros((blocks, warps, warps + mbarriers, 33), np.int32)
        self._barrier = np.zeros((blocks, 16, warps + mbarriers, 33), np.int32)
        # The same, for what has passed a fence.proxy.async since: a bulk copy or wgmma may read it.
        self.fenced = np.zeros_like(self.seen) if machine.uses_async_proxy else None
        self._barrier_fenced = np.zeros_like(self._barrier) if machine.uses_async_proxy else None
        grains = len(machine.shared) >> self._shift
        self._writer = np.full(grains, -1, np.int16)
        self._written = np.zeros(grains, np.int32)
        self._writer_lane = np.zeros(grains, np.uint8)
        self._read = np.zeros((grains, warps), np.int32)
        self._reader_lane = np.zeros((grains, warps), np.uint8)

    # ---- who is who
    def _warp_of(self, lanes: Array) -> tuple[Array, Array, Array]:
        return self._m.block_of[lanes], self._m.warp_of[lanes], self._m.lane_of[lanes]

    def _spread(self, index: Array, size: int, shift: int, *per_access: Array) -> tuple[Array, ...]:
        """Grains of each access, with what belongs to the access repeated for each of them."""
        count = max(1, size >> shift)
        first = index >> shift
        if count == 1:
            return (first, *per_access)
        grains = (first[:, None] + np.arange(count)).reshape(-1)
        return (grains, *(np.repeat(each, count) for each in per_access))

    # ---- shared memory
    def read_shared(self, w: Window, m: Mask, i: int, index: Array, size: int) -> None:
        """A read by each active lane."""
        lane = w.active(m, w.lane)
        self._read_shared(i, index, size, w.active(m, w.block), w.active(m, w.warp), lane)

    def read_shared_together(self, i: int, index: Array, size: int, lanes: Array) -> None:
        """A read by whole warps, given by a lane of each."""
        block, warp, _ = self._warp_of(lanes)
        lane = np.full(lanes.size, TOGETHER)
        grain, block, warp, lane = self._spread(index, size, self._shift, block, warp, lane)
        self._require_seen_write(i, grain, block, warp, lane, "read")
        place = grain * self._warps + warp
        self._read.reshape(-1)[place] = self.time[block, warp]
        self._reader_lane.reshape(-1)[place] = TOGETHER

    def _read_shared(self, i: int, index: Array, size: int, block: Array, warp: Array, lane: Array) -> None:
        grain, block, warp, lane = self._spread(index, size, self._shift, block, warp, lane)
        self._require_seen_write(i, grain, block, warp, lane, "read")
        now = self.time[block, warp]
        before, other = self._read[grain, warp], self._reader_lane[grain, warp]
        several = (before == now) & (other != lane)
        self._read[grain, warp] = now
        self._reader_lane[grain, warp] = np.where(several, TOGETHER, lane)
        clash = self._reader_lane[grain, warp] != lane
        if clash.any():
            self._reader_lane[grain[clash], warp[clash]] = TOGETHER

    def write_shared(self, w: Window, m: Mask, i: int, index: Array, size: int) -> None:
        """A write by each active lane."""
        self._write_shared(i, index, size, w.active(m, w.block), w.active(m, w.warp), w.active(m, w.lane))

    def write_shared_together(self, i: int, index: Array, size: int, lanes: Array) -> None:
        """A write by whole warps, given by a lane of each."""
        block, warp, _ = self._warp_of(lanes)
        self._write_shared(i, index, size, block, warp, np.full(lanes.size, TOGETHER))

    def arrive_shared(self, lanes: Array, i: int, index: Array, size: int) -> None:
        """The arrival of data that lanes copied: from now on the write is theirs."""
        self._write_shared(i, index, size, *self._warp_of(lanes))

    def atomic_shared(self, w: Window, m: Mask, i: int, index: Array, size: int) -> None:
        """An atomic is ordered with other atomics; it publishes and takes over what they wrote."""
        grain, block, warp, lane = self._spread(
            index, size, self._shift, w.active(m, w.block), w.active(m, w.warp), w.active(m, w.lane)
        )
        others = self._writer_lane[grain] != ATOMIC
        if others.any():
            self._require_seen_write(i, grain[others], block[others], warp[others], lane[others], "atomic")
        self._writer[grain], self._written[grain] = warp, self.time[block, warp]
        self._writer_lane[grain] = ATOMIC

    def _write_shared(self, i: int, index: Array, size: int, block: Array, warp: Array, lane: Array) -> None:
        grain, block, warp, lane = self._spread(index, size, self._shift, block, warp, lane)
        self._require_seen_write(i, grain, block, warp, lane, "write")
        self._require_seen_reads(i, grain, block, warp, lane)
        self._writer[grain] = warp
        self._written[grain] = self.time[block, warp]
        self._writer_lane[grain] = lane
        clash = self._writer[grain] != warp
        if clash.any():
            at = int(np.argmax(clash))
            self._race(
                i, grain[at], block[at], warp[at], lane[at],
                f"a write while warp {int(self._writer[grain[at]])} writes the same place",
            )  # fmt: skip
        clash = self._writer_lane[grain] != lane
        if clash.any():
            self._writer_lane[grain[clash]] = TOGETHER

    def _require_seen_write(
        self, i: int, grain: Array, block: Array, warp: Array, lane: Array, what: str
    ) -> None:
        writer, lane_ = self._writer.take(grain), self._writer_lane.take(grain)
        # seen[block, warp, writer, lane], with one index: this is where race checks spend their time.
        owners, lanes = self.seen.shape[2:]
        place = ((block * self._warps + warp) * owners + writer) * lanes + np.minimum(lane_, TOGETHER)
        unseen = self._written.take(grain) > self.seen.reshape(-1).take(place)
        if unseen.any():
            unseen &= ~((writer == warp) & ((lane_ == lane) & (lane != TOGETHER)))
            if unseen.any():
                at = int(np.argmax(unseen))
                self._race(
                    i, grain[at], block[at], warp[at], lane[at],
                    f"a {what} not ordered after the write by {self._who(int(writer[at]), int(lane_[at]))}",
                )  # fmt: skip

    def _require_seen_reads(self, i: int, grain: Array, block: Array, warp: Array, lane: Array) -> None:
        owners = np.arange(self._warps)
        lanes = np.minimum(self._reader_lane.take(grain, 0), TOGETHER)
        columns, width = self.seen.shape[2:]
        place = (((block * self._warps + warp) * columns)[:, None] + owners) * width + lanes
        unseen = self._read.take(grain, 0) > self.seen.reshape(-1).take(place)
        if unseen.any():
            own = (owners == warp[:, None]) & (lanes == lane[:, None]) & (lane[:, None] != TOGETHER)
            unseen &= ~(own & (self._read[grain] != NOT_YET))
            if unseen.any():
                at, owner = np.argwhere(unseen)[0]
                if self._read[grain[at], owner] == NOT_YET:
                    self._hazard(
                        i, grain[at], block[at], warp[at], "shared memory",
                        f"a write to what an asynchronous read by warp {owner} may still be reading",
                        "a wait for the read, and a barrier, before the write",
                        "wait (wgmma.wait_group, cp.async.bulk.wait_group) before the barrier that frees it",
                    )  # fmt: skip
                self._race(
                    i, grain[at], block[at], warp[at], lane[at],
                    f"a write not ordered after the read by {self._who(int(owner), int(lanes[at, owner]))}",
                )  # fmt: skip

    def _who(self, owner: int, lane: int) -> str:
        if owner >= self._warps:
            return "a bulk copy that was not waited for"
        return f"warp {owner}" + ("" if lane >= TOGETHER else f", lane {lane}")

    def _race(self, i: int, grain: int, block: int, warp: int, lane: int, got: str) -> None:
        first = int(self._m.numbers[warp, block, 0 if lane >= TOGETHER else lane])
        self._m.fault(
            DataRaceError, i, "shared memory", got, "a barrier between the two",
            "put a barrier (within a warp: __syncwarp) between the accesses",
            lane=first, address=(int(grain) << self._shift) % self._m.shared_stride,
        )  # fmt: skip

    # ---- global memory
    def read_global(
        self, w: Window, m: Mask, i: int, index: Array, size: int, is_synchronizing: bool
    ) -> None:
        """A read by each active lane."""
        self.access_global(i, index, size, w.active(m, w.lanes), "read", is_synchronizing)

    def write_global(
        self, w: Window, m: Mask, i: int, index: Array, size: int, is_synchronizing: bool
    ) -> None:
        """A write by each active lane."""
        self.access_global(i, index, size, w.active(m, w.lanes), "write", is_synchronizing)

    def atomic_global(self, w: Window, m: Mask, i: int, index: Array, size: int) -> None:
        """An atomic by each active lane."""
        self.access_global(i, index, size, w.active(m, w.lanes), "atomic", True)

    def access_global(
        self, i: int, index: Array, size: int, lanes: Array, what: str, is_synchronizing: bool
    ) -> None:
        """An access by lanes, given by their numbers."""
        grain, number = self._spread(index, size, self._global_shift, lanes)
        block, warp, lane = self._warp_of(number)
        clash = self._global.access(
            grain, self._m.block_numbers[block], warp, lane, self.time[block, warp], self.seen, block, what,
            is_synchronizing,
        )  # fmt: skip
        if clash is not None:
            at, got = clash
            self._m.fault(
                DataRaceError, i, "global memory", got, "accesses that a barrier or an atomic orders",
                "blocks of a grid run in no order: let one of them own each place",
                lane=int(number[at]), address=(int(grain[at]) << self._global_shift) + BASE,
            )  # fmt: skip

    def fence_global(self, w: Window, m: Mask) -> None:
        """A fence at the scope of the device."""
        self._global.order.fence(self._m.block_numbers[w.active(m, w.block)])

    # ---- order
    def synchronize_warps(self, w: Window, m: Mask) -> None:
        """bar.warp.sync of the active lanes."""
        active = w.active_by_warp(m)
        chosen = np.flatnonzero(active.any(1))
        block, warp = w.block[chosen * 32], w.warp[chosen * 32]
        lanes = active[chosen]
        own = self.seen[block, warp, warp]
        self.seen[block, warp, warp] = self._with_own_time(own, block, warp, lanes)
        self.time[block, warp] += 1

    def _with_own_time(self, own: Array, block: Array, warp: Array, lanes: Array) -> Array:
        """What warps have seen of themselves, ``own[n][33]``, once lanes ``[n][32]`` publish their time."""
        now = self.time[block, warp]
        own[:, :32] = np.where(lanes, now[:, None], own[:, :32])
        alive = self._m.alive[self._m.numbers[warp, block]]
        own[:, TOGETHER] = np.where((lanes | ~alive).all(1), now, own[:, TOGETHER])
        return own

    def released(self, block: Array, warp: Array, lanes: Array, matrix: Array) -> Array:
        """What lanes ``[n][32]`` of warps ``[n]`` publish, from ``seen`` or ``fenced``."""
        clock = matrix[block, warp].copy()
        rows = np.arange(block.size)
        if matrix is self.seen:
            clock[rows, warp] = self._with_own_time(clock[rows, warp], block, warp, lanes)
        return np.asarray(clock)

    def release_to_barriers(self, w: Window, m: Mask, numbers: Array) -> None:
        """Lanes arrive at barriers, one number for each active lane."""
        active = w.active_by_warp(m)
        chosen = np.flatnonzero(active.any(1))
        block, warp = w.block[chosen * 32], w.warp[chosen * 32]
        starts = np.concatenate(([0], np.cumsum(active.sum(1))[:-1]))[chosen]
        number = numbers[starts]
        clock = self.released(block, warp, active[chosen], self.seen)
        np.maximum.at(self._barrier, (block, number), clock)
        if self.fenced is not None and self._barrier_fenced is not None:
            fenced = self.released(block, warp, active[chosen], self.fenced)
            np.maximum.at(self._barrier_fenced, (block, number), fenced)
        self.time[block, warp] += 1

    def acquire_from_barrier(self, block: int, number: int, lanes: Array) -> None:
        """Lanes leave a barrier, which is empty afterwards."""
        warps = np.unique(self._m.warp_of[lanes])
        self.seen[block, warps] = np.maximum(self.seen[block, warps], self._barrier[block, number])
        self._barrier[block, number] = 0
        if self.fenced is not None and self._barrier_fenced is not None:
            fenced = np.maximum(self.fenced[block, warps], self._barrier_fenced[block, number])
            self.fenced[block, warps] = fenced
            self._barrier_fenced[block, number] = 0

    # ---- the asynchronous proxy
    def fence_proxy(self, w: Window, m: Mask) -> None:
        """fence.proxy.async: what the lanes have seen, and done, may be read by bulk copies and wgmma."""
        if self.fenced is None:
            return
        active = w.active_by_warp(m)
        chosen = np.flatnonzero(active.any(1))
        block, warp = w.block[chosen * 32], w.warp[chosen * 32]
        seen = self.released(block, warp, active[chosen], self.seen)
        self.fenced[block, warp] = np.maximum(self.fenced[block, warp], seen)
        self.time[block, warp] += 1

    def read_async(self, i: int, index: Array, size: int, lanes: Array, together: bool) -> None:
        """A read through the asynchronous proxy, by lanes or whole warps, begins: of seen and fenced data."""
        block, warp, lane = self._warp_of(lanes)
        lane = np.full(lanes.size, TOGETHER) if together else lane
        grain, block, warp, lane = self._spread(index, size, self._shift, block, warp, lane)
        self._require_seen_write(i, grain, block, warp, lane, "read")
        self._require_fenced(i, grain, block, warp, "read")
        self._read[grain, warp] = NOT_YET
        self._reader_lane[grain, warp] = TOGETHER if together else lane

    def finish_read_async(self, index: Array, size: int, lanes: Array) -> None:
        """Such a read was waited for: from now on it can be published."""
        block, warp, _ = self._warp_of(lanes)
        grain, block, warp = self._spread(index, size, self._shift, block, warp)
        self._read[grain, warp] = self.time[block, warp]

    def _require_fenced(self, i: int, grain: Array, block: Array, warp: Array, what: str) -> None:
        """Refuse an asynchronous access to what threads stored, unless a fence between makes it visible."""
        assert self.fenced is not None
        writer, lane = self._writer[grain], np.minimum(self._writer_lane[grain], TOGETHER)
        generic = (writer >= 0) & (writer < self._warps)
        unfenced = generic & (self._written[grain] > self.fenced[block, warp, writer, lane])
        if unfenced.any():
            at = int(np.argmax(unfenced))
            self._hazard(
                i, grain[at], block[at], warp[at], "fence.proxy.async",
                f"an asynchronous {what} of an unfenced store by {self._who(int(writer[at]), int(lane[at]))}",
                f"fence.proxy.async between the store and the {what}",
                "execute fence.proxy.async after the stores, before the barrier",
            )  # fmt: skip

    def _hazard(
        self, i: int, grain: int, block: int, warp: int, field: str, got: str, expected: str, remedy: str
    ) -> None:
        self._m.fault(
            AsyncHazardError, i, field, got, expected, remedy,
            lane=int(self._m.numbers[warp, block, 0]),
            address=(int(grain) << self._shift) % self._m.shared_stride,
        )  # fmt: skip

    def write_async(self, i: int, index: Array, size: int, lanes: Array, owner: Array, phase: Array) -> None:
        """A bulk copy into shared memory begins: after all that touched its destination, or it is a race."""
        block, warp, lane = self._warp_of(lanes)
        grain, block, warp, lane, owner, phase = self._spread(
            index, size, self._shift, block, warp, lane, owner, phase
        )
        self._require_seen_write(i, grain, block, warp, lane, "bulk copy")
        self._require_seen_reads(i, grain, block, warp, lane)
        self._require_fenced(i, grain, block, warp, "write")
        self._writer[grain] = self._warps + owner
        self._written[grain] = phase
        self._writer_lane[grain] = TOGETHER


ATOMIC = 33
