"""Registers that warpgroups hand to each other: setmaxnreg (PTX ISA, section 9.7.19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.window import Mask, Window
from flashactor.errors import BarrierError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]

REGISTERS = 65536
"""Of a multiprocessor."""
GRANULE = 8
LEAST, MOST = 24, 256


def registers_at_launch(threads: int) -> int:
    """Registers of each thread of a block that has a multiprocessor to itself, as ptxas allots them."""
    return min(MOST, REGISTERS // threads // GRANULE * GRANULE)


class RegisterPool:
    """Counts each thread's registers and those of the block that no thread has."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        self._owned = np.full((machine.warps_per_block, machine.blocks), registers_at_launch(machine.threads))
        self._free = np.zeros(machine.blocks, np.int64)  # in warps' registers: one for each of 32 threads

    def release(self, w: Window, m: Mask, i: int, count: int) -> None:
        """setmaxnreg.dec."""
        for lane in self._warpgroups(w, m, i, count):
            warps, block = self._place(lane)
            if (self._owned[warps, block] < count).any():
                self._wrong_way(
                    i, lane, f"a release from {self._owned[warps.start, block]} to {count}", "inc"
                )
            self._free[block] += int(self._owned[warps, block].sum()) - 4 * count
            self._owned[warps, block] = count
        self._m.wake_parked()

    def claim(self, w: Window, m: Mask, i: int, count: int) -> Array:
        """setmaxnreg.inc: the mask of the lanes that go on; the others wait until enough is released."""
        served: list[tuple[int, int]] = []
        for lane in self._warpgroups(w, m, i, count):
            warps, block = self._place(lane)
            if (self._owned[warps, block] > count).any():
                self._wrong_way(
                    i, lane, f"a claim of {count} by who has {self._owned[warps.start, block]}", "dec"
                )
            missing = 4 * count - int(self._owned[warps, block].sum())
            if missing > self._free[block]:
                continue
            self._free[block] -= missing
            self._owned[warps, block] = count
            served.append((block, warps.start // 4))
        lanes = w.active(m, w.lanes)
        groups = zip(self._m.block_of[lanes].tolist(), (self._m.warp_of[lanes] // 4).tolist(), strict=True)
        done = np.array([group in served for group in groups], bool)
        self._m.park_lanes(lanes[~done])
        return w.submask(m, done)

    def describe(self, lane: int) -> str:
        """What a lane that waits for registers lacks, for messages."""
        warps, block = self._place(lane)
        return f"{self._owned[warps.start, block]} registers a thread, {self._free[block] // 4} to be had"

    def _warpgroups(self, w: Window, m: Mask, i: int, count: int) -> list[int]:
        """The first lane of each active warpgroup."""
        if count % GRANULE or not LEAST <= count <= MOST:
            self._fault(
                i, int(w.lanes[0]), str(count), f"a multiple of {GRANULE} from {LEAST} to {MOST}", "round it"
            )
        groups = self._m.warpgroups.groups(w, m, i)
        return [int(lane) for lane in w.lanes.reshape(-1, 32)[groups[:, 0], 0]]

    def _place(self, lane: int) -> tuple[slice, int]:
        """The warps of a lane's warpgroup, and its block."""
        first = int(self._m.warp_of[lane]) // 4 * 4
        return slice(first, first + 4), int(self._m.block_of[lane])

    def _wrong_way(self, i: int, lane: int, got: str, other: str) -> NoReturn:
        self._fault(i, lane, got, f"setmaxnreg.{other}", "use dec to release registers and inc to claim them")

    def _fault(self, i: int, lane: int, got: str, expected: str, remedy: str) -> NoReturn:
        self._m.fault(BarrierError, i, "setmaxnreg", got, expected, remedy, lane=lane)
