"""The sixteen barriers of a block: bar.sync, bar.arrive, bar.red, with counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.window import Mask, Window
from flashactor.errors import BarrierError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]
COUNT = 16


class BarrierUnit:
    """Counts arrivals and releases those who wait.

    Attributes:
        waiting_at: for each warp of each block, the barrier at which lanes of it wait, or -1.
    """

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        shape = (machine.blocks, COUNT)
        self._arrived = np.zeros(shape, np.int64)
        self._expected = np.zeros(shape, np.int64)
        self._implicit = np.zeros(shape, bool)
        self.waiting_at = np.full(machine.lane_count, -1, np.int64)
        self._reductions: dict[tuple[int, int], list[tuple[Array, Array, tuple[str, str, int]]]] = {}

    def arrive(
        self,
        w: Window,
        m: Mask,
        i: int,
        action: str,
        identifier: Any,
        count: Any,
        aligned: bool,
        reduction: Any,
    ) -> None:
        """bar and barrier, all forms but those of warps and clusters."""
        machine = self._m
        if aligned:
            machine.warps.whole(w, m, i)
        lanes = w.active(m, w.lanes)
        numbers = w.flat(m, identifier).astype(np.int64)
        blocks = w.active(m, w.block)
        if (numbers < 0).any() or (numbers >= COUNT).any():
            bad = int(np.argmax((numbers < 0) | (numbers >= COUNT)))
            self._fault(i, int(lanes[bad]), f"barrier {int(numbers[bad])}", f"0 to {COUNT - 1}")
        if machine.clocks is not None:
            machine.clocks.release_to_barriers(w, m, numbers)
        # A warp counts as all its threads, whichever of its lanes have left the kernel.
        if aligned:
            warps, first = np.unique(lanes // 32, return_index=True)
            weights, places = np.full(warps.size, 32), first
        else:
            weights, places = np.ones(lanes.size, np.int64), np.arange(lanes.size)
        np.add.at(self._arrived, (blocks[places], numbers[places]), weights)
        if count is None:
            self._implicit[blocks, numbers] = True
        else:
            expected = w.flat(m, count).astype(np.int64)
            if (expected % 32).any() or (expected <= 0).any():
                bad = int(np.argmax((expected % 32 != 0) | (expected <= 0)))
                self._fault(
                    i, int(lanes[bad]), f"a count of {int(expected[bad])}", "a positive multiple of 32"
                )
            counts = self._expected[blocks, numbers]
            self._expected[blocks, numbers] = expected
            counts = np.where(counts == 0, self._expected[blocks, numbers], counts)
            conflicting = counts != expected
            if conflicting.any():
                at = int(np.argmax(conflicting))
                self._fault(
                    i, int(lanes[at]), f"a count of {int(expected[at])} where others gave {int(counts[at])}",
                    "one count from all that meet at a barrier",
                )  # fmt: skip
        if action != "arrive":
            self.waiting_at[lanes] = numbers
            machine.block_lanes(lanes)
        if reduction is not None:
            operation, predicate, code, slot = reduction
            values = w.flat(m, predicate)
            for block in np.unique(blocks):
                mine = blocks == block
                key = (int(block), int(numbers[mine][0]))
                entry = (lanes[mine], values[mine], (operation, code, slot))
                self._reductions.setdefault(key, []).append(entry)
        self.release(i, np.unique(blocks))

    def release(self, i: int, blocks: Array) -> None:
        """Let go those whose barrier is complete."""
        machine = self._m
        arrived = self._arrived[blocks]
        if not arrived.any():
            return
        alive = machine.alive_threads()[blocks]
        expected = np.where(self._implicit[blocks], alive[:, None], self._expected[blocks])
        if ((arrived > expected) & (arrived > 0)).any():
            at, number = np.argwhere((arrived > expected) & (arrived > 0))[0]
            self._fault(
                i, int(machine.first_lane(int(blocks[at]))),
                f"{int(arrived[at, number])} threads at barrier {int(number)}",
                f"{int(expected[at, number])}: the barrier is used again before it was complete",
            )  # fmt: skip
        for at, number in np.argwhere((arrived == expected) & (arrived > 0)):
            block = int(blocks[at])
            self._arrived[block, number] = 0
            self._expected[block, number] = 0
            self._implicit[block, number] = False
            lanes = machine.lanes_of_block[block]
            released = lanes[self.waiting_at[lanes] == number]
            self.waiting_at[released] = -1
            machine.unblock_lanes(released)
            if machine.clocks is not None:
                machine.clocks.acquire_from_barrier(block, int(number), released)
            for each, _, (operation, code, slot) in self._reductions.get((block, int(number)), []):
                everything = np.concatenate([v for _, v, _ in self._reductions[block, int(number)]])
                result = {"popc": everything.sum(), "and": everything.all(), "or": everything.any()}[
                    operation
                ]
                width = 0 if code == "p" else 4
                flat = machine.slots[width][slot].reshape(-1)
                flat[each] = result
            self._reductions.pop((block, int(number)), None)

    def cluster(self, w: Window, m: Mask, i: int, action: str) -> None:
        """barrier.cluster of a cluster of one block: arrive does nothing, wait is the block's barrier."""
        if action == "wait":
            self.arrive(w, m, i, "sync", np.uint32(0), None, False, None)

    def describe(self, lane: int) -> str:
        """What a lane waits for, for messages."""
        block, number = int(self._m.block_of[lane]), int(self.waiting_at[lane])
        wanted = self._expected[block, number] or self._m.alive_threads()[block]
        return f"barrier {number} ({int(self._arrived[block, number])} of {int(wanted)} threads)"

    def _fault(self, i: int, lane: int, got: str, expected: str) -> NoReturn:
        self._m.fault(
            BarrierError, i, "barrier", got, expected, "count who arrives at the barrier, and who waits",
            lane=lane,
        )  # fmt: skip
