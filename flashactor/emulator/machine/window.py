"""A rectangle of the machine: some warps of some blocks, with views of their registers.

Registers are arrays ``[slot][warp][block][lane]``, so that one warp of every block, or all warps of some
blocks, are a slice of them. Blocks of code run on such slices; lanes of the slice that do not take part are
masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.special import CLOCKS, special_register

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]
Mask = Any  # True, or an array of the window's shape


class Window:
    """Views of warps ``[warps)`` of blocks ``[blocks)``.

    Attributes:
        shape: (warps, blocks, 32).
        registers: lists of views by slot: predicates, then 16, 32 and 64 bits as uint, int and float.
        lanes: number of each lane in the machine, flat.
        block, warp, lane: of each lane, flat.
    """

    def __init__(self, machine: Machine, warps: slice, blocks: slice) -> None:
        self.machine = machine
        self.warps, self.blocks = warps, blocks
        numbers = machine.numbers[warps, blocks]
        self.shape: tuple[int, int, int] = numbers.shape
        self.lanes = np.ascontiguousarray(numbers).ravel()
        self.block = machine.block_of[self.lanes]
        self.warp = machine.warp_of[self.lanes]
        self.lane = machine.lane_of[self.lanes]
        self.shared_base = machine.shared_base[self.lanes]
        codes = ((0, "?"), (2, "u2 i2 f2"), (4, "u4 i4 f4"), (8, "u8 i8 f8"))
        self.registers = tuple(
            list(machine.slots[width].view(code)[:, warps, blocks])
            for width, names in codes
            for code in names.split()
        )
        self._specials: dict[tuple[str, str], Array] = {}

    # ---- lanes
    def guarded(self, mask: Mask, predicate: Array) -> Mask:
        """The lanes of a mask whose predicate holds: True for all, None for none."""
        if mask is True:
            if predicate.all():
                return True
            return np.array(predicate) if predicate.any() else None
        both = mask & predicate
        return both if both.any() else None

    def merged(self, mask: Mask, guarded: Mask, result: Mask) -> Mask:
        """Of the lanes of a mask: those outside of its guarded part, and those of the result."""
        if guarded is True:
            return result
        return np.asarray((True if mask is True else mask) & ~guarded | result)

    def flat(self, mask: Mask, values: Any) -> Array:
        """The values of the active lanes, in one dimension."""
        if np.ndim(values) == 0:
            count = self.lanes.size if mask is True else int(np.count_nonzero(mask))
            return np.full(count, values)
        values = np.asarray(values)
        if values.shape != self.shape:
            values = np.broadcast_to(values, self.shape)
        return values.reshape(-1) if mask is True else np.asarray(values[mask])

    def active(self, mask: Mask, per_lane: Array) -> Array:
        """Of an array with one item for each lane of the window, flat, those of the active lanes."""
        return per_lane if mask is True else per_lane[mask.ravel()]

    def active_by_warp(self, mask: Mask) -> Array:
        """Which lanes are active, as ``[warp][32]``."""
        return (
            np.ones((self.lanes.size // 32, 32), bool) if mask is True else np.asarray(mask.reshape(-1, 32))
        )

    def submask(self, mask: Mask, part: Array) -> Array:
        """The mask of some active lanes, chosen by their positions among these, or by flags."""
        chosen = np.zeros(self.lanes.size, bool)
        chosen[self.active(mask, np.arange(self.lanes.size))[part]] = True
        return chosen.reshape(self.shape)

    def put(self, mask: Mask, target: Array, values: Array) -> None:
        """Store one value for each active lane, from one dimension."""
        if mask is True:
            target[...] = values.reshape(self.shape)
        else:
            target[mask] = values

    def by_warp(self, values: Any) -> Array:
        """Values of all lanes as ``[warp][32]``, in the order of ``lanes``."""
        return np.asarray(self.full(values).reshape(-1, 32))

    def put_by_warp(self, active: Any, target: Array, values: Array) -> None:
        """The inverse of ``by_warp``, for the active warps only."""
        if active is True:
            target[...] = values.reshape(self.shape)
        else:
            warps, blocks = np.divmod(active, self.shape[1])
            target[warps, blocks] = values

    def full(self, values: Any) -> Array:
        """Values in the window's shape."""
        values = np.asarray(values)
        return values if values.shape == self.shape else np.broadcast_to(values, self.shape)

    # ---- what generated code reads and writes
    def scratch(self, code: str) -> Array:
        """Somewhere to put a result that nobody wants."""
        return np.empty(self.shape, "?" if code == "p" else code)

    def packed(self, parts: list[Any], code: str) -> Array:
        """Parts, the lowest first, as one wider register."""
        wide = np.dtype(code)
        bits = wide.itemsize * 8 // len(parts)
        unsigned = np.dtype(f"u{wide.itemsize}")
        result = np.zeros(self.shape, unsigned)
        for index, part in enumerate(parts):
            result |= np.asarray(part).astype(unsigned) << unsigned.type(index * bits)
        return result.view(wide)

    def unpacked(self, value: Any, code: str, count: int) -> Array:
        """A wide register as its parts, the lowest first, on a new last axis."""
        whole = np.array(self.full(value))
        return whole.view(code).reshape(*self.shape, count)

    def special(self, name: str, code: str) -> Array:
        """A special register."""
        key = (name, code)
        if key not in self._specials:
            values = special_register(self.machine, name, self)
            if name in CLOCKS:
                return np.asarray(values).astype(code)
            self._specials[key] = np.asarray(values).astype(code)
        return self._specials[key]
