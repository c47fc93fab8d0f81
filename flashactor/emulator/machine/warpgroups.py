"""wgmma: matrix products of 128 threads, with operands in shared memory behind descriptors.

Layouts are those of the PTX ISA, section 9.7.15.5 ("Shared memory matrix layout"), which says how the leading
and the stride byte offset of a descriptor move between core matrices of 8 rows of 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator import halves, numeric
from flashactor.emulator.machine.reads import PendingReads
from flashactor.emulator.machine.tensor import elements, joined_rows
from flashactor.emulator.machine.window import Mask, Window
from flashactor.emulator.tensormap import Swizzle
from flashactor.errors import AsyncHazardError, DivergenceError, MemoryAccessError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]

_SWIZZLES = {0: Swizzle.NONE, 1: Swizzle.B128, 2: Swizzle.B64, 3: Swizzle.B32}


@dataclass(slots=True)
class _Reading:
    """16-byte chunks of shared memory that a wgmma of a warpgroup may still read."""

    group: tuple[int, int]
    number: int
    chunks: Array
    instruction: int


def operand_offsets(
    rows: int, depth: int, item: int, swizzle: Swizzle, transposed: bool, leading: int, stride: int
) -> Array:
    """Byte offset from the descriptor's start of element ``[row][k]``, before the swizzle.

    ``transposed`` is the layout in which rows (M or N) are contiguous; 16-bit elements only.
    """
    row, k = np.arange(rows)[:, None], np.arange(depth)[None, :]
    if not transposed:
        in_bytes = k * item
        if swizzle is Swizzle.NONE:
            return np.asarray(row // 8 * stride + in_bytes // 16 * leading + row % 8 * 16 + in_bytes % 16)
        return np.asarray(row // 8 * stride + row % 8 * swizzle.value + in_bytes)
    if swizzle is Swizzle.NONE:
        return np.asarray(row // 8 * stride + k // 8 * leading + k % 8 * 16 + row % 8 * item)
    atom = swizzle.value // item
    return np.asarray(row // atom * leading + k // 8 * stride + k % 8 * swizzle.value + row % atom * item)


@lru_cache(maxsize=512)
def operand_places(descriptor: int, rows: int, item: int, transposed: bool) -> tuple[Array, Array]:
    """Shared addresses of element ``[row][k]`` behind a descriptor, and the 16-byte chunks that hold them."""
    start = (descriptor & 0x3FFF) << 4
    leading, stride = (descriptor >> 16 & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    swizzle = _SWIZZLES[descriptor >> 62 & 3]
    offsets = operand_offsets(rows, 32 // item, item, swizzle, transposed, leading, stride)
    places = np.asarray(swizzle.apply(start + offsets))
    return places, np.unique(places >> 4) << 4


class WarpgroupUnit:
    """Executes wgmma; products are computed when issued, and may be read after their group was waited for."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        groups = (machine.blocks, -(-machine.warps_per_block // 4))
        self._committed = np.zeros(groups, np.int64)
        self._reading: list[_Reading] = []
        self.reads = PendingReads(
            machine,
            "a wgmma may still be",
            "wait for the product (wgmma.wait_group) before its operands are written again",
        )

    def fence(self, w: Window, m: Mask, i: int) -> None:
        """wgmma.fence; the static check of registers asks where it is needed."""
        self.groups(w, m, i)

    def commit(self, w: Window, m: Mask, i: int) -> None:
        """wgmma.commit_group."""
        for block, group in self._identities(w, self.groups(w, m, i)):
            self._committed[block, group] += 1

    def wait(self, w: Window, m: Mask, i: int, newest: int) -> None:
        """wgmma.wait_group."""
        mine = set(self._identities(w, self.groups(w, m, i)))
        kept: list[_Reading] = []
        finished: list[_Reading] = []
        for reading in self._reading:
            done = reading.group in mine and reading.number < self._committed[reading.group] - newest
            (finished if done else kept).append(reading)
        self._reading = kept
        for reading in finished:
            self.reads.end(reading.chunks)
        if self._m.clocks is None:
            return
        for reading in finished:
            lanes = self._lanes_of(reading.group, reading.chunks.size)
            self._m.clocks.finish_read_async(np.tile(reading.chunks, 4), 16, lanes)
        for reading in kept:  # what a newer product reads too is still being read
            if finished and reading.group in mine:
                self._note_read(reading.instruction, reading.chunks, reading.group)

    def multiply(
        self, w: Window, m: Mask, i: int, columns: int, result_type: str, a_type: str, b_type: str,
        results: list[Array], a: Any, b: Any, scale_d: Any, sign: int, transpose_a: bool, transpose_b: bool,
    ) -> None:  # fmt: skip
        """wgmma.mma_async: D = A B + D, or A B where scale-d is false."""
        groups = self.groups(w, m, i)  # [group][4] numbers of warps in the window
        if isinstance(a, list):
            parts = [elements(w.by_warp(register)[groups.reshape(-1)], a_type) for register in a]
            left = joined_rows(parts).reshape(len(groups), 64, -1)
        else:
            left = self._fetch(w, i, groups, a, 64, a_type, transpose_a, "A")
        right = self._fetch(w, i, groups, b, columns, b_type, transpose_b, "B")
        product = np.matmul(left, right.transpose(0, 2, 1))
        if sign < 0:
            product = -product
        keep = w.by_warp(scale_d)[groups.reshape(-1)]  # [warp][32]
        # [warp][half of 16 rows][lane][n8 tile][2]
        lanes = product.reshape(-1, 2, 8, columns // 8, 4, 2).transpose(0, 1, 2, 4, 3, 5)
        lanes = lanes.reshape(-1, 2, 32, columns // 8, 2)
        flat = groups.reshape(-1)
        if result_type == "f32":
            values = np.ascontiguousarray(lanes.transpose(3, 1, 4, 0, 2)).reshape(len(results), -1, 32)
            accumulates = bool(keep.any())
            for value, result in zip(values, results, strict=True):
                if accumulates:
                    value += np.where(keep, w.by_warp(result)[flat], np.float32(0))
                w.put_by_warp(flat, result, value)
            return
        for index, result in enumerate(results):
            value = np.ascontiguousarray(lanes[:, index % 2, :, index // 2])  # [warp][32][2]
            bits = np.ascontiguousarray(w.by_warp(result)[flat]).view(np.uint16).reshape(value.shape)
            total = np.where(keep[..., None], halves.decode(bits, "f16") + value, value)
            w.put_by_warp(flat, result, halves.encode(total, "f16").view(np.uint32).reshape(-1, 32))

    # ---- operands
    def _fetch(
        self,
        w: Window,
        i: int,
        groups: Array,
        descriptors: Any,
        rows: int,
        type_: str,
        transposed: bool,
        name: str,
    ) -> Array:
        item = 1 if type_ in ("e4m3", "e5m2") else 2
        depth = 32 // item
        first = w.lanes.reshape(-1, 32)[groups[:, 0], 0]
        if transposed and item == 1:
            self._fault(i, int(first[0]), f"{name} of {type_} transposed", "8-bit operands with k contiguous")
        each = w.by_warp(descriptors)[groups.reshape(-1)].reshape(len(groups), 128)
        if (each != each[:, :1]).any():
            self._fault(
                i, int(first[0]), f"descriptors of {name} that differ in the warpgroup", "one descriptor"
            )
        index = np.empty((len(groups), rows, depth), np.int64)
        for at, descriptor in enumerate(int(value) for value in each[:, 0]):
            lane = int(first[at])
            if descriptor >> 49 & 7:
                self._fault(i, lane, "a descriptor with a base offset", "0: the emulator knows no other")
            places, chunks = operand_places(descriptor, rows, item, transposed)
            top = int(chunks[-1]) + 16
            if top > self._m.shared_bytes:
                self._fault(
                    i, lane, f"{name} beyond shared memory", f"{self._m.shared_bytes} bytes", top - 16
                )
            base = self._m.shared_base[lane]
            np.add(places, base, out=index[at])
            self._watch(i, lane, chunks + base)
        data = self._m.memory.shared_units[item][index // item]
        if item == 1:
            return np.asarray(numeric.fp8_values(type_)[data])
        return halves.decode(data, type_)

    def _watch(self, i: int, lane: int, chunks: Array) -> None:
        """Check and remember what a product of a lane's warpgroup reads."""
        machine = self._m
        identity = int(machine.block_of[lane]), int(machine.warp_of[lane]) // 4
        view, mask = machine.lane_window(lane)
        machine.memory.require_ready(view, mask, i, chunks, 16, np.full(chunks.size, lane))
        if machine.clocks is not None:
            self._note_read(i, chunks, identity)
        self._reading.append(_Reading(identity, int(self._committed[identity]), chunks, i))
        self.reads.begin(chunks)

    def _note_read(self, i: int, chunks: Array, identity: tuple[int, int]) -> None:
        clocks = self._m.clocks
        assert clocks is not None
        clocks.read_async(i, np.tile(chunks, 4), 16, self._lanes_of(identity, chunks.size), together=True)

    def _lanes_of(self, identity: tuple[int, int], count: int) -> Array:
        """A lane of each warp of a warpgroup, repeated for each of some chunks."""
        block, group = identity
        return np.repeat(self._m.numbers[group * 4 : group * 4 + 4, block, 0], count)

    def leave(self, lanes: Array) -> None:
        """Lanes leave the kernel: their products must have been waited for."""
        left = {(int(self._m.block_of[lane]), int(self._m.warp_of[lane]) // 4) for lane in lanes}
        for reading in self._reading:
            if reading.group in left:
                block, group = reading.group
                self._m.fault(
                    AsyncHazardError, reading.instruction, "wgmma",
                    "a warpgroup that leaves before its product is complete", "a wait_group before the end",
                    "commit the group and wait for it", lane=int(self._m.numbers[group * 4, block, 0]),
                )  # fmt: skip

    # ---- who takes part
    def groups(self, w: Window, m: Mask, i: int) -> Array:
        """The active warpgroups, as the numbers in the window of their four warps.

        Raises:
            DivergenceError: a warpgroup of which some warps are elsewhere.
        """
        active = self._m.warps.whole(w, m, i)
        numbers = np.arange(w.lanes.size // 32) if active is True else active
        first = w.lanes.reshape(-1, 32)[numbers, 0]
        warp, block = self._m.warp_of[first], self._m.block_of[first]
        order = np.lexsort((warp, block))
        numbers, warp, block = numbers[order], warp[order], block[order]
        complete = numbers.size % 4 == 0
        if complete:
            four_warps, four_blocks = warp.reshape(-1, 4), block.reshape(-1, 4)
            complete = bool(
                (four_warps == four_warps[:, :1] // 4 * 4 + np.arange(4)).all()
                and (four_blocks == four_blocks[:, :1]).all()
            )
        if not complete:
            self._m.fault(
                DivergenceError, i, "warpgroup", "a warpgroup instruction without all four warps",
                "the four warps of a warpgroup together", "move it out of the branch", lane=int(first[0]),
            )  # fmt: skip
        return np.asarray(numbers.reshape(-1, 4))

    def _identities(self, w: Window, groups: Array) -> list[tuple[int, int]]:
        first = w.lanes.reshape(-1, 32)[groups[:, 0], 0]
        return [(int(self._m.block_of[lane]), int(self._m.warp_of[lane]) // 4) for lane in first]

    def _fault(self, i: int, lane: int, got: str, expected: str, address: int | None = None) -> NoReturn:
        self._m.fault(
            MemoryAccessError, i, "wgmma", got, expected, "check the descriptor", lane=lane, address=address
        )
