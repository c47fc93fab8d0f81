"""mbarriers: arrivals and transactions counted in shared memory (PTX ISA, section 9.7.13.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.shadows import UNWRITTEN
from flashactor.emulator.machine.window import Mask, Window
from flashactor.errors import AsyncHazardError, BarrierError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]
LIMIT = 64
"""Most mbarriers that a block may have under race checking."""


class MbarrierUnit:
    """The state of every mbarrier, by its place in shared memory in units of 8 bytes."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        places = len(machine.shared) // 8 if machine.uses_mbarriers else 0
        self.is_live = np.zeros(places, bool)
        self._count = np.zeros(places, np.int64)
        self._pending = np.zeros(places, np.int64)
        self._transactions = np.zeros(places, np.int64)
        self.phase = np.zeros(places, np.int64)
        self.ordinal = np.full(places, -1, np.int64)  # of the block's mbarriers, in order of their first init
        # The lane whose init no fence has made visible to the asynchronous proxy yet, or -1.
        self._unfenced = np.full(places, -1, np.int64)
        self._created = np.zeros(machine.blocks, np.int64)
        # What arrivals of the current phase publish, and what those of completed phases did.
        self._publishing: dict[int, Array] = {}
        self._published: dict[int, Array] = {}
        self._publishing_fenced: dict[int, Array] = {}
        self._published_fenced: dict[int, Array] = {}

    # ---- instructions
    def initialize(self, w: Window, m: Mask, i: int, base: Any, offset: int, count: Any) -> None:
        """mbarrier.init."""
        at, index = self._places(w, m, i, base, offset, must_live=False)
        counts = w.flat(m, count).astype(np.int64)
        if (counts < 1).any() or (counts >= 1 << 20).any():
            bad = int(np.argmax((counts < 1) | (counts >= 1 << 20)))
            self._fault(w, m, i, bad, f"a count of {int(counts[bad])}", "1 to 1048575")
        if self._m.clocks is not None:
            self._m.clocks.write_shared(w, m, i, index, 8)
        for place in np.unique(at[self.ordinal[at] < 0]):
            block = int(place * 8 // self._m.shared_stride)
            self.ordinal[place] = self._created[block]
            self._created[block] += 1
            if self._m.clocks is not None and self._created[block] > LIMIT:
                self._fault(
                    w, m, i, 0, f"{LIMIT + 1} mbarriers in a block", f"at most {LIMIT} in the emulator"
                )
        self.is_live[at] = True
        self._count[at] = self._pending[at] = counts
        self._transactions[at] = 0
        self.phase[at] = 0
        self._unfenced[at] = w.active(m, w.lanes)
        # An ordinary load of an mbarrier means nothing.
        self._m.memory.mark_shared(at, 8, UNWRITTEN)

    def invalidate(self, w: Window, m: Mask, i: int, base: Any, offset: int) -> None:
        """mbarrier.inval."""
        at, index = self._places(w, m, i, base, offset)
        if self._m.clocks is not None:
            self._m.clocks.write_shared(w, m, i, index, 8)
        self.is_live[at] = False

    def transact(
        self, w: Window, m: Mask, i: int, base: Any, offset: int, count: Any, is_expected: bool
    ) -> None:
        """mbarrier.expect_tx and complete_tx."""
        at, _ = self._places(w, m, i, base, offset)
        amount = self._bytes(w, m, i, count)
        np.add.at(self._transactions, at, amount if is_expected else -amount)
        self._complete(i, np.unique(at))

    def arrive(
        self, w: Window, m: Mask, i: int, base: Any, offset: int, count: Any, expected: Any,
        state: Array | None, drop: bool, relaxed: bool,
    ) -> None:  # fmt: skip
        """mbarrier.arrive, also with expect_tx, and arrive_drop."""
        at, _ = self._places(w, m, i, base, offset)
        amount = w.flat(m, count).astype(np.int64)
        if state is not None:
            w.put(m, state, self.phase[at].astype(np.uint64))
        if expected is not None:
            np.add.at(self._transactions, at, self._bytes(w, m, i, expected))
        if drop:
            np.subtract.at(self._count, at, amount)
        self._publish(at, w.active(m, w.lanes), relaxed)
        np.subtract.at(self._pending, at, amount)
        self._complete(i, np.unique(at))

    def arrive_after_copies(self, w: Window, m: Mask, i: int, base: Any, offset: int, noinc: bool) -> None:
        """The arrival of cp.async.mbarrier.arrive; without noinc it expects itself first."""
        at, _ = self._places(w, m, i, base, offset)
        self._publish(at, w.active(m, w.lanes), False)
        if noinc:
            np.subtract.at(self._pending, at, 1)
        self._complete(i, np.unique(at))

    def wait(
        self, w: Window, m: Mask, i: int, base: Any, offset: int, phase: Any, is_parity: bool,
        is_blocking: bool, target: Array,
    ) -> Any:  # fmt: skip
        """try_wait and test_wait: the mask of the lanes that go on; the others stay until something happens.

        A try_wait may give up after a time that the hardware chooses. Here it waits until its phase is
        complete, so a kernel whose barrier never completes is found, as a deadlock.
        """
        at, _ = self._places(w, m, i, base, offset)
        asked = w.flat(m, phase).astype(np.int64)
        current = self.phase[at]
        done = (current & 1) != (asked & 1) if is_parity else current > asked
        lanes = w.active(m, w.lanes)
        if done.any() and self._m.clocks is not None:
            self._acquire(at[done], lanes[done])
        if not is_blocking:
            w.put(m, target, done)
            if not done.all():
                self._m.yield_lanes(lanes[~done])
            return m
        finished = w.submask(m, done)
        np.copyto(target, True, where=finished)
        self._m.park_lanes(lanes[~done])
        return finished

    def fence_init(self, w: Window, m: Mask, i: int) -> None:
        """fence.mbarrier_init: bulk copies may use what these lanes have initialised."""
        self._unfenced[np.isin(self._unfenced, w.active(m, w.lanes))] = -1

    def fence_proxy(self, w: Window, m: Mask, i: int) -> None:
        """fence.proxy.async."""
        self.fence_init(w, m, i)
        if self._m.clocks is not None:
            self._m.clocks.fence_proxy(w, m)

    # ---- what bulk copies do
    def complete_transactions(self, i: int, place: int, count: int) -> None:
        """A bulk copy has written some bytes."""
        if not self.is_live[place]:
            self._m.fault(
                BarrierError, i, "mbarrier", "a bulk copy that completes on an mbarrier which is gone",
                "an mbarrier that outlives its copies", "wait for the copy before mbarrier.inval",
            )  # fmt: skip
        self._transactions[place] -= count
        self._complete(i, np.array([place]))

    def place_of(self, w: Window, m: Mask, i: int, base: Any, offset: int) -> Array:
        """The checked mbarriers on which bulk copies of active lanes are to complete."""
        at = self._places(w, m, i, base, offset)[0]
        hidden = self._unfenced[at] >= 0
        if hidden.any():
            self._m.fault(
                AsyncHazardError, i, "mbarrier", "a bulk copy on an mbarrier whose init it may not see",
                "fence.mbarrier_init or fence.proxy.async after mbarrier.init",
                "let the thread that initialises execute the fence, before the barrier",
                lane=int(w.active(m, w.lanes)[np.argmax(hidden)]),
            )  # fmt: skip
        return at

    # ---- details
    def _bytes(self, w: Window, m: Mask, i: int, count: Any) -> Array:
        """A checked number of bytes, one for each active lane."""
        amount = w.flat(m, count).astype(np.int64)
        over = amount >= 1 << 20
        if over.any():
            at = int(np.argmax(over))
            self._fault(w, m, i, at, f"a transaction of {int(amount[at])} bytes", "at most 1048575")
        return np.asarray(amount)

    def _places(
        self, w: Window, m: Mask, i: int, base: Any, offset: int, *, must_live: bool = True
    ) -> tuple[Array, Array]:
        address = w.flat(m, base).astype(np.int64) + offset
        index = self._m.memory.shared_index(w, m, i, address, 8, "mbarrier")
        at = index >> 3
        if must_live:
            if not self.is_live[at].all():
                first = int(np.argmin(self.is_live[at]))
                self._fault(
                    w, m, i, first, "an mbarrier that is not initialised", "mbarrier.init before its use"
                )
            if self._m.clocks is not None:
                self._m.clocks.read_shared(w, m, i, index, 8)
        return at, index

    def _complete(self, i: int, places: Array) -> None:
        over = self._pending[places] < 0
        if over.any():
            self._m.fault(
                BarrierError, i, "mbarrier", "more arrivals in a phase than its count",
                "as many arrivals as mbarrier.init says", "count who arrives",
                lane=int(self._m.first_lane(int(places[np.argmax(over)] * 8 // self._m.shared_stride))),
            )  # fmt: skip
        done = places[(self._pending[places] == 0) & (self._transactions[places] == 0)]
        for place in done:
            self.phase[place] += 1
            self._pending[place] = self._count[place]
            if self._m.clocks is not None:
                self._publish_phase(int(place))
        if done.size:
            self._m.wake_parked()

    def _publish(self, at: Array, lanes: Array, relaxed: bool) -> None:
        clocks = self._m.clocks
        if clocks is None or relaxed:
            return
        warps = lanes // 32
        for warp in np.unique(warps):
            mine = warps == warp
            block, number = int(self._m.block_of[lanes[mine][0]]), int(self._m.warp_of[lanes[mine][0]])
            active = np.zeros((1, 32), bool)
            active[0, self._m.lane_of[lanes[mine]]] = True
            who = np.array([block]), np.array([number]), active
            clock = clocks.released(*who, clocks.seen)[0]
            for place in np.unique(at[mine]):
                _merge(self._publishing, int(place), clock)
                if clocks.fenced is not None:
                    fenced = clocks.released(*who, clocks.fenced)[0]
                    _merge(self._publishing_fenced, int(place), fenced)
            clocks.time[block, number] += 1

    def _publish_phase(self, place: int) -> None:
        clocks = self._m.clocks
        assert clocks is not None
        clock = self._publishing.pop(place, None)
        if clock is None:
            clock = np.zeros(clocks.seen.shape[2:], np.int32)
        # What bulk copies wrote in this phase.
        clock[self._m.warps_per_block + self.ordinal[place]] = self.phase[place]
        _merge(self._published, place, clock)
        fenced = self._publishing_fenced.pop(place, None)
        if fenced is not None:
            _merge(self._published_fenced, place, fenced)

    def _acquire(self, at: Array, lanes: Array) -> None:
        clocks = self._m.clocks
        assert clocks is not None
        pairs = np.unique(np.stack([at, lanes // 32], 1), axis=0)
        for place, warp_number in pairs:
            lane = int(warp_number) * 32
            block, warp = int(self._m.block_of[lane]), int(self._m.warp_of[lane])
            if int(place) in self._published:
                np.maximum(
                    clocks.seen[block, warp], self._published[int(place)], out=clocks.seen[block, warp]
                )
            if clocks.fenced is not None and int(place) in self._published_fenced:
                fenced = self._published_fenced[int(place)]
                np.maximum(clocks.fenced[block, warp], fenced, out=clocks.fenced[block, warp])

    def describe(self, lane: int) -> str:
        """What a parked lane may wait for, for messages: the block's mbarriers that are not complete."""
        block = int(self._m.block_of[lane])
        stride = self._m.shared_stride // 8
        places = np.flatnonzero(self.is_live[block * stride : (block + 1) * stride]) + block * stride
        parts = [
            f"{int(place * 8 % self._m.shared_stride):#x}: phase {int(self.phase[place])}, "
            f"{int(self._pending[place])} arrivals and {int(self._transactions[place])} bytes missing"
            for place in places[:8]
        ]
        return "mbarriers of its block: " + "; ".join(parts)

    def _fault(self, w: Window, m: Mask, i: int, at: int, got: str, expected: str) -> NoReturn:
        self._m.fault(
            BarrierError, i, "mbarrier", got, expected, "see the PTX ISA, mbarrier",
            lane=int(w.active(m, w.lanes)[at]),
        )  # fmt: skip


def _merge(clocks: dict[int, Array], place: int, clock: Array) -> None:
    if place in clocks:
        np.maximum(clocks[place], clock, out=clocks[place])
    else:
        clocks[place] = clock.copy()
