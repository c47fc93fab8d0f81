"""ldmatrix, stmatrix, movmatrix and mma.sync: matrices spread over the lanes of a warp.

Where the PTX ISA puts which element (section 9.7.14, "Matrix fragments for mma.m16n8k16" and its siblings):
an 8x8 matrix of 16-bit elements is one 32-bit register a lane, lane ``l`` holding row ``l / 4``, columns
``2 (l % 4)`` and the next. So a register of a warp, viewed as elements, *is* such a matrix, row by row.
Larger operands are made of those; an fp8 register holds 8 rows of 16 columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator import halves, numeric
from flashactor.emulator.machine.window import Mask, Window

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]


def elements(registers: Array, type_: str) -> Array:
    """Registers ``[warp][32]`` as matrices ``[warp][8][columns]`` in float32."""
    count = registers.shape[0]
    registers = np.ascontiguousarray(registers)
    if type_ == "f16":
        return np.asarray(registers.view(np.float16).reshape(count, 8, 8).astype(np.float32))
    if type_ == "bf16":
        wide = registers.view(np.uint16).reshape(count, 8, 8).astype(np.uint32)
        return np.asarray((wide << np.uint32(16)).view(np.float32))
    return np.asarray(numeric.fp8_values(type_)[registers.view(np.uint8).reshape(count, 8, 16)])


def joined_rows(quarters: list[Array]) -> Array:
    """The parts ``[warp][8][columns]`` of A, one for each register, as ``[warp][16][k]``."""
    count, _, columns = quarters[0].shape
    matrix = np.empty((count, 16, len(quarters) // 2 * columns), np.float32)
    for index, quarter in enumerate(quarters):
        rows, column = index % 2 * 8, index // 2 * columns
        matrix[:, rows : rows + 8, column : column + columns] = quarter
    return matrix


class TensorUnit:
    """Executes the warp's matrix instructions."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine

    def fragment(self, w: Window, m: Mask, type_: str, side: str, registers: list[Any]) -> Array:
        """An operand: A as ``[warp][16][k]``, B as ``[warp][8][k]``, which is its transpose."""
        active: Any = True if m is True else np.flatnonzero(m.reshape(-1, 32).any(1))
        quarters = []
        for register in registers:
            by_warp = w.by_warp(register)
            quarters.append(elements(by_warp if active is True else by_warp[active], type_))
        if side == "b":
            return quarters[0] if len(quarters) == 1 else np.concatenate(quarters, 2)
        return joined_rows(quarters)

    def multiply(
        self, w: Window, m: Mask, i: int, results: list[Array], a: Array, b: Array, c: list[Any], type_: str
    ) -> None:
        """mma.sync: D = A B + C. Products are exact and summed in float32, in no particular order."""
        active = self._m.warps.whole(w, m, i)
        product = np.matmul(a, b.transpose(0, 2, 1))  # [warp][16][8]
        count = product.shape[0]
        if type_ == "f32":
            # Lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
            lanes = product.reshape(count, 2, 32, 2)
            for index, (result, addend) in enumerate(zip(results, c, strict=True)):
                value = lanes[:, index // 2, :, index % 2]
                if active is True:
                    np.add(value.reshape(w.shape), addend, out=result)
                else:
                    w.put_by_warp(active, result, value + w.by_warp(addend)[active])
            return
        for index, (result, addend) in enumerate(zip(results, c, strict=True)):
            rows = product[:, index * 8 : index * 8 + 8]
            by_warp = w.by_warp(addend)
            before = elements(by_warp if active is True else by_warp[active], "f16")
            packed = (
                halves.encode(rows + before, "f16").reshape(count, 32, 2).view(np.uint32).reshape(count, 32)
            )
            w.put_by_warp(active, result, packed)

    def load_matrices(
        self, w: Window, m: Mask, i: int, targets: list[Array], base: Any, offset: int, transposed: bool
    ) -> None:
        """ldmatrix: lane ``l`` names row ``l % 8`` of matrix ``l / 8``, 16 bytes."""
        active, rows, index = self._rows(w, m, i, base, offset, len(targets))
        memory = self._m.memory
        lanes = np.repeat(self._lanes(w, active), len(targets) * 8)
        memory.require_ready(w, m, i, index.reshape(-1), 16, lanes)
        if self._m.clocks is not None:
            self._m.clocks.read_shared_together(i, index.reshape(-1), 16, lanes)
        self._m.report.matrices(w, i, rows)
        for number, target in enumerate(targets):
            eight = index[:, number * 8 : number * 8 + 8]
            data = memory.shared_units[16][eight >> 4]  # [warp][8] of 16 bytes
            if transposed:
                matrix = data.view(np.uint16).reshape(-1, 8, 8).transpose(0, 2, 1)
                data = np.ascontiguousarray(matrix)
            w.put_by_warp(active, target, data.view(np.uint32).reshape(-1, 32))

    def store_matrices(
        self, w: Window, m: Mask, i: int, values: list[Any], base: Any, offset: int, transposed: bool
    ) -> None:
        """stmatrix: the inverse of ldmatrix."""
        active, rows, index = self._rows(w, m, i, base, offset, len(values))
        memory = self._m.memory
        lanes = np.repeat(self._lanes(w, active), len(values) * 8)
        flat = index.reshape(-1)
        memory.require_settled(w, m, i, flat, flat >> 4, 16)
        if self._m.clocks is not None:
            self._m.clocks.write_shared_together(i, flat, 16, lanes)
        self._m.report.matrices(w, i, rows)
        for number, value in enumerate(values):
            by_warp = np.ascontiguousarray(w.by_warp(value) if active is True else w.by_warp(value)[active])
            matrix = by_warp.view(np.uint16).reshape(-1, 8, 8)
            if transposed:
                matrix = np.ascontiguousarray(matrix.transpose(0, 2, 1))
            eight = index[:, number * 8 : number * 8 + 8]
            memory.shared_units[16][eight >> 4] = matrix.view(np.complex128).reshape(-1, 8)
        memory.mark_shared(flat >> 4, 16, 1)

    def transpose(self, w: Window, m: Mask, i: int, target: Array, value: Any) -> None:
        """movmatrix."""
        active = self._m.warps.whole(w, m, i)
        by_warp = np.ascontiguousarray(w.by_warp(value) if active is True else w.by_warp(value)[active])
        matrix = np.ascontiguousarray(by_warp.view(np.uint16).reshape(-1, 8, 8).transpose(0, 2, 1))
        w.put_by_warp(active, target, matrix.view(np.uint32).reshape(-1, 32))

    def _rows(
        self, w: Window, m: Mask, i: int, base: Any, offset: int, count: int
    ) -> tuple[Any, Array, Array]:
        """The active warps; their rows' addresses ``[warp][8 * count]``, in the block and in the buffer."""
        active = self._m.warps.whole(w, m, i)
        address = w.by_warp(base).astype(np.int64) + offset
        bases = w.shared_base.reshape(-1, 32)[:, :1]
        if active is not True:
            address, bases = address[active], bases[active]
        rows = np.ascontiguousarray(address[:, : 8 * count])
        chosen = np.zeros((w.lanes.size // 32, 32), bool)
        chosen[active if active is not True else slice(None), : 8 * count] = True
        every = True if chosen.all() else chosen.reshape(w.shape)
        index = self._m.memory.shared_index(w, every, i, rows.reshape(-1), 16, "matrix")
        return active, rows, index.reshape(rows.shape)

    @staticmethod
    def _lanes(w: Window, active: Any) -> Array:
        """The first lane of each active warp."""
        first = w.lanes.reshape(-1, 32)[:, 0]
        return first if active is True else first[active]
