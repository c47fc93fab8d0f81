"""cp.async: copies from global to shared memory that arrive when their group is waited for, not before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine import arena
from flashactor.emulator.machine.shadows import IN_FLIGHT, READY, have_bits, shift_of
from flashactor.emulator.machine.window import Mask, Window

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]


@dataclass(slots=True)
class _Copy:
    """Copies that one instruction began: item by item the lane, its group, the destination and the data."""

    lanes: Array
    groups: Array
    index: Array
    data: Array
    size: int
    instruction: int

    def part(self, chosen: Array) -> _Copy:
        """Some of its items."""
        return _Copy(
            self.lanes[chosen],
            self.groups[chosen],
            self.index[chosen],
            self.data[chosen],
            self.size,
            self.instruction,
        )


class CopyUnit:
    """Executes cp.async and its groups."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        self._group = np.zeros(machine.lane_count, np.int64)
        self._pending: list[_Copy] = []

    @property
    def pending(self) -> int:
        """Copies that have not arrived."""
        return len(self._pending)

    def copy(
        self, w: Window, m: Mask, i: int, to: Any, to_offset: int, source: Any, source_offset: int,
        size: int, taken: Any,
    ) -> None:  # fmt: skip
        """cp.async of 4, 8 or 16 bytes, of which all from ``taken`` on become zeros.

        The data is read now, and written when the lane waits: the latest moment that the rules allow.
        """
        memory = self._m.memory
        destination = w.flat(m, to).astype(np.int64) + to_offset
        index = memory.shared_index(w, m, i, destination, size, "shared")
        address = w.flat(m, source).astype(np.int64) + source_offset
        lanes = w.active(m, w.lanes)
        data = np.zeros((address.size, size), np.uint8)
        if taken is None:
            self._read(w, m, i, address, size, data, slice(None))
        else:
            count = w.flat(m, taken)
            reading = count > 0
            if reading.all() and (count >= size).all():
                self._read(w, m, i, address, size, data, slice(None))
            elif reading.any():
                part = w.submask(m, np.flatnonzero(reading))
                chosen = np.flatnonzero(reading)
                short = count[chosen] < size
                if short.any():
                    self._read_bytes(w, part, i, address[chosen], count[chosen], data, chosen)
                else:
                    self._read(w, part, i, address[chosen], size, data, chosen)
        self._m.report.shared(w, m, i, destination, size)
        at = index >> shift_of(size)
        memory.require_settled(w, m, i, index, at, size)
        if self._m.clocks is not None:
            self._m.clocks.write_shared(w, m, i, index, size)
        memory.mark_shared(at, size, IN_FLIGHT)
        self._pending.append(_Copy(lanes, self._group[lanes], index, data, size, i))

    def _read(self, w: Window, m: Mask, i: int, address: Array, size: int, data: Array, rows: Any) -> None:
        values = self._m.memory.read_global(w, m, i, address, size, False)
        data[rows] = values.view(np.uint8).reshape(-1, size)

    def _read_bytes(
        self, w: Window, m: Mask, i: int, address: Array, count: Array, data: Array, rows: Array
    ) -> None:
        """Copies of less than their size: byte by byte, so that nothing beyond is touched."""
        memory = self._m.memory
        memory.global_index(w, m, i, address, data.shape[1])
        for byte in range(data.shape[1]):
            inside = count > byte
            if inside.any():
                index = address[inside] + byte - arena.BASE
                good = have_bits(memory.global_shadow, index, 1, arena.VALID | arena.WRITTEN)
                if not good.all():
                    chosen = w.submask(m, np.flatnonzero(inside))
                    memory.refuse_global(w, chosen, i, good, index, 1, address[inside] + byte, "read")
                data[rows[inside], byte] = memory.global_units[1][index]

    def commit(self, w: Window, m: Mask, i: int) -> None:
        """cp.async.commit_group."""
        self._group[w.active(m, w.lanes)] += 1

    def wait(self, w: Window, m: Mask, i: int, newest: int) -> None:
        """cp.async.wait_group N, or wait_all for -1: all but the lane's N newest groups arrive."""
        if not self._pending:
            return
        waiting = np.zeros(self._m.lane_count, bool)
        waiting[w.active(m, w.lanes)] = True
        kept = []
        for copy in self._pending:
            done = waiting[copy.lanes]
            if newest >= 0:
                done &= copy.groups < self._group[copy.lanes] - newest
            if done.all():
                self._arrive(copy)
            elif done.any():
                self._arrive(copy.part(done))
                kept.append(copy.part(~done))
            else:
                kept.append(copy)
        self._pending = kept

    def take(self, lanes: Array) -> list[_Copy]:
        """Remove and return the copies of some lanes, whatever their group, for cp.async.mbarrier.arrive."""
        wanted = np.zeros(self._m.lane_count, bool)
        wanted[lanes] = True
        taken, kept = [], []
        for copy in self._pending:
            mine = wanted[copy.lanes]
            if mine.any():
                taken.append(copy.part(mine))
            if not mine.all():
                kept.append(copy.part(~mine))
        self._pending = kept
        return taken

    def arrive(self, w: Window, m: Mask, i: int, base: Any, offset: int, noinc: bool) -> None:
        """cp.async.mbarrier.arrive: the mbarrier's arrival, once the lane's copies are there.

        The copies arrive here and now, with the arrival: nothing can tell, for only the barrier says when.
        """
        for copy in self.take(w.active(m, w.lanes)):
            self._arrive(copy)
        self._m.mbarriers.arrive_after_copies(w, m, i, base, offset, noinc)

    def _arrive(self, copy: _Copy) -> None:
        memory = self._m.memory
        at = copy.index >> shift_of(copy.size)
        if self._m.clocks is not None:
            self._m.clocks.arrive_shared(copy.lanes, copy.instruction, copy.index, copy.size)
        code = {4: "u4", 8: "u8", 16: "c16"}[copy.size]
        memory.shared_units[copy.size][at] = np.ascontiguousarray(copy.data).reshape(-1).view(code)
        memory.mark_shared(at, copy.size, READY)
