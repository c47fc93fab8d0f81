"""Bulk copies: cp.async.bulk and cp.async.bulk.tensor, which run beside the threads that begin them.

A load is delivered when the scheduler says so: under most policies not before every thread waits, which is
the latest moment that the rules allow. A store reads shared memory when its group is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator import tensormap
from flashactor.emulator.machine import arena
from flashactor.emulator.machine.access import WINDOWS
from flashactor.emulator.machine.atomics import atomic_result
from flashactor.emulator.machine.reads import PendingReads
from flashactor.emulator.machine.shadows import IN_FLIGHT, READY, have_bits
from flashactor.emulator.machine.window import Mask, Window
from flashactor.errors import AsyncHazardError, MemoryAccessError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]
Place = tuple[Any, int]
REDUCED = {
    **dict.fromkeys(("f16", "bf16"), 2),
    **dict.fromkeys(("f32", "u32", "s32", "b32"), 4),
    **dict.fromkeys(("f64", "u64", "s64", "b64"), 8),
}
"""Bytes of the types that a bulk copy may reduce."""


@dataclass(slots=True)
class _Load:
    """A load in flight: bytes of global memory (-1: filled) to bytes of shared memory."""

    instruction: int
    lane: int
    source: Array
    destination: Array
    fill: Array
    place: int


@dataclass(slots=True)
class _Store:
    """A store in flight, of one lane's group."""

    instruction: int
    lane: int
    group: int
    source: Array
    destination: Array
    chunks: Array
    operation: str | None
    type: str | None
    is_read: bool = False


class BulkUnit:
    """Executes bulk copies and their groups."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        self._loads: list[_Load] = []
        self._stores: list[_Store] = []
        self._group = np.zeros(machine.lane_count, np.int64)
        self.reads = PendingReads(
            machine,
            "a bulk store is still",
            "wait for it (cp.async.bulk.wait_group.read) before its source is written again",
        )

    @property
    def pending_loads(self) -> int:
        """Loads in flight."""
        return len(self._loads)

    # ---- loads
    def load(self, w: Window, m: Mask, i: int, to: Place, source: Place, size: Any, barrier: Place) -> None:
        """cp.async.bulk from global to shared memory."""
        destination, origin, sizes = self._flat(w, m, to), self._flat(w, m, source), w.flat(m, size)
        self._check_plain(w, m, i, destination, origin, sizes)
        places = self._m.mbarriers.place_of(w, m, i, *barrier)
        for at, lane in enumerate(w.active(m, w.lanes)):
            count = int(sizes[at])
            offsets = np.arange(count)
            source_at = origin[at] - arena.BASE + offsets
            self._begin(
                i, int(lane), source_at, self._shared(i, int(lane), int(destination[at]), offsets), places[at]
            )

    def load_tensor(
        self, w: Window, m: Mask, i: int, to: Place, map_: Place, coordinates: list[Any], barrier: Place
    ) -> None:
        """cp.async.bulk.tensor from global to shared memory."""
        destination, maps = self._flat(w, m, to), self._flat(w, m, map_)
        at_each = [w.flat(m, coordinate).astype(np.int64) for coordinate in coordinates]
        places = self._m.mbarriers.place_of(w, m, i, *barrier)
        for at, lane in enumerate(w.active(m, w.lanes)):
            tensor = self._tensor(i, int(lane), int(maps[at]), len(coordinates))
            start = int(destination[at])
            self._check_alignment(i, int(lane), start)
            origin = [int(coordinate[at]) for coordinate in at_each]
            source_at = _box(tensor, origin)
            offsets = tensor.swizzle.apply(start + np.arange(tensor.box_bytes))
            filled = _fill(tensor)
            shared = self._shared(i, int(lane), 0, np.asarray(offsets))
            self._begin(i, int(lane), source_at, shared, places[at], filled)

    def _begin(
        self, i: int, lane: int, source: Array, destination: Array, place: Any, fill: Array | None = None
    ) -> None:
        machine = self._m
        chunks = np.unique(destination >> 4) << 4
        lanes = np.full(chunks.size, lane)
        w, m = machine.lane_window(lane)
        machine.memory.require_settled(w, m, i, chunks, chunks >> 4, 16)
        if machine.clocks is not None:
            owner = np.full(chunks.size, machine.mbarriers.ordinal[place])
            phase = np.full(chunks.size, machine.mbarriers.phase[place] + 1)
            machine.clocks.write_async(i, chunks, 16, lanes, owner, phase)
        machine.memory.mark_shared(chunks >> 4, 16, IN_FLIGHT)
        zeros = np.zeros(destination.size, np.uint8) if fill is None else fill
        self._loads.append(_Load(i, lane, source, destination, zeros, int(place)))

    def deliver(self, choose: Any) -> bool:
        """Complete one load in flight, which ``choose`` picks by position; False if there is none."""
        if not self._loads:
            return False
        load = self._loads.pop(choose(len(self._loads)))
        machine = self._m
        inside = load.source >= 0
        index = load.source[inside]
        if index.size:
            self._require_readable(load.instruction, load.lane, index)
            if machine.clocks is not None:
                lanes = np.full(index.size, load.lane)
                machine.clocks.access_global(load.instruction, index, 1, lanes, "read", False)
        data = load.fill.copy()
        data[inside] = machine.memory.global_units[1][index]
        machine.memory.shared_units[1][load.destination] = data
        machine.memory.mark_shared(load.destination, 1, READY)
        machine.mbarriers.complete_transactions(load.instruction, load.place, data.size)
        return True

    # ---- stores
    def store(
        self, w: Window, m: Mask, i: int, to: Place, source: Place, size: Any,
        operation: str | None, type_: str | None,
    ) -> None:  # fmt: skip
        """cp.async.bulk and cp.reduce.async.bulk from shared to global memory."""
        destination, origin, sizes = self._flat(w, m, to), self._flat(w, m, source), w.flat(m, size)
        self._check_plain(w, m, i, origin, destination, sizes)
        for at, lane in enumerate(w.active(m, w.lanes)):
            offsets = np.arange(int(sizes[at]))
            shared = self._shared(i, int(lane), int(origin[at]), offsets)
            self._begin_store(i, int(lane), shared, destination[at] - arena.BASE + offsets, operation, type_)

    def store_tensor(
        self, w: Window, m: Mask, i: int, map_: Place, coordinates: list[Any], source: Place,
        operation: str | None,
    ) -> None:  # fmt: skip
        """cp.async.bulk.tensor and cp.reduce.async.bulk.tensor from shared to global memory."""
        origin, maps = self._flat(w, m, source), self._flat(w, m, map_)
        at_each = [w.flat(m, coordinate).astype(np.int64) for coordinate in coordinates]
        for at, lane in enumerate(w.active(m, w.lanes)):
            tensor = self._tensor(i, int(lane), int(maps[at]), len(coordinates))
            start = int(origin[at])
            self._check_alignment(i, int(lane), start)
            target = _box(tensor, [int(coordinate[at]) for coordinate in at_each])
            offsets = np.asarray(tensor.swizzle.apply(start + np.arange(tensor.box_bytes)))
            shared = self._shared(i, int(lane), 0, offsets)
            inside = target >= 0
            type_ = "f32" if tensor.is_float32 else None
            if operation is not None and type_ is None:
                self._fault(
                    i, int(lane), "a tensor reduction of other than float32", "float32 in the emulator"
                )
            self._begin_store(i, int(lane), shared, target, operation, type_, inside)

    def _begin_store(
        self, i: int, lane: int, source: Array, destination: Array, operation: str | None, type_: str | None,
        inside: Array | None = None,
    ) -> None:  # fmt: skip
        machine = self._m
        chunks = np.unique(source >> 4) << 4
        lanes = np.full(chunks.size, lane)
        w, m = machine.lane_window(lane)
        if inside is not None:
            source, destination = source[inside], destination[inside]
        stored = np.unique(source >> 4) << 4  # the rest of a box may be anything
        machine.memory.require_ready(w, m, i, stored, 16, np.full(stored.size, lane))
        if machine.clocks is not None:
            machine.clocks.read_async(i, chunks, 16, lanes, together=False)
        self._require_writable(i, lane, destination)
        if operation is not None:
            self._require_readable(i, lane, destination)
        if machine.clocks is not None:
            kind = "write" if operation is None else "atomic"
            machine.clocks.access_global(
                i, destination, 1, np.full(destination.size, lane), kind, operation is not None
            )
        group = int(self._group[lane])
        self._stores.append(_Store(i, lane, group, source, destination, chunks, operation, type_))
        self.reads.begin(chunks)

    def commit(self, w: Window, m: Mask, i: int) -> None:
        """cp.async.bulk.commit_group."""
        self._group[w.active(m, w.lanes)] += 1

    def wait(self, w: Window, m: Mask, i: int, newest: int, reading: bool) -> None:
        """cp.async.bulk.wait_group: all but the lane's N newest groups are read, or complete."""
        lanes = set(w.active(m, w.lanes).tolist())
        kept = []
        for store in self._stores:
            done = store.lane in lanes and store.group < self._group[store.lane] - newest
            if done:
                self._finish(store)
            if reading or not done:
                kept.append(store)
        self._stores = kept
        if self._m.clocks is not None:
            for store in kept:  # what a newer store reads too is still being read
                if store.lane in lanes and not store.is_read:
                    self._m.clocks.read_async(
                        store.instruction,
                        store.chunks,
                        16,
                        np.full(store.chunks.size, store.lane),
                        together=False,
                    )

    def leave(self, lanes: Array) -> None:
        """Lanes leave the kernel: what they stored must have been read by now."""
        leaving = set(lanes.tolist())
        for store in list(self._stores):
            if store.lane not in leaving:
                continue
            if not store.is_read:
                self._m.fault(
                    AsyncHazardError, store.instruction, "cp.async.bulk",
                    "a thread that leaves while its bulk store still reads shared memory",
                    "cp.async.bulk.wait_group before the end", "commit the group and wait for it",
                    lane=store.lane,
                )  # fmt: skip
            self._stores.remove(store)

    def _finish(self, store: _Store) -> None:
        if store.is_read:
            return
        machine = self._m
        memory = machine.memory
        data = memory.shared_units[1][store.source]
        if machine.clocks is not None:
            lanes = np.full(store.chunks.size, store.lane)
            machine.clocks.finish_read_async(store.chunks, 16, lanes)
        if store.operation is None:
            memory.global_units[1][store.destination] = data
        else:
            code = REDUCED[store.type or "f32"]
            at = store.destination[::code] // code
            unit = memory.global_units[code]
            result = atomic_result(
                store.operation, store.type or "f32", unit[at], data.view(f"u{code}"), None
            )
            unit[at] = result
        memory.mark_written(store.destination, 1)
        store.is_read = True
        self.reads.end(store.chunks)

    # ---- checks
    @staticmethod
    def _flat(w: Window, m: Mask, place: Place) -> Array:
        return np.asarray(w.flat(m, place[0]).astype(np.int64) + place[1])

    def _shared(self, i: int, lane: int, start: int, offsets: Array) -> Array:
        """Places in the buffer of all blocks of shared addresses of a lane's block."""
        address = offsets + start
        address = np.where(address >= WINDOWS["shared"], address - WINDOWS["shared"], address)
        if int(address.min(initial=0)) < 0 or int(address.max(initial=0)) >= self._m.shared_bytes:
            limit = f"shared memory of {self._m.shared_bytes} bytes"
            self._fault(i, lane, "a bulk copy out of bounds of shared memory", limit, int(address.max()))
        return np.asarray(address + self._m.shared_base[lane])

    def _check_plain(self, w: Window, m: Mask, i: int, shared: Array, global_: Array, sizes: Array) -> None:
        wrong = (shared % 16 != 0) | (global_ % 16 != 0) | (sizes % 16 != 0) | (sizes == 0)
        if wrong.any():
            lane = int(w.active(m, w.lanes)[int(np.argmax(wrong))])
            self._fault(i, lane, "a misaligned bulk copy", "addresses and sizes that are multiples of 16")

    def _check_alignment(self, i: int, lane: int, start: int) -> None:
        if start % 128:
            self._fault(
                i, lane, "a misaligned bulk tensor copy", "a shared address that is a multiple of 128", start
            )

    def _tensor(self, i: int, lane: int, address: int, rank: int) -> tensormap.TensorMap:
        data = self._m.read_bytes(address, tensormap.BYTES)
        decoded = tensormap.decode(data) if address % 64 == 0 else None
        if decoded is None or len(decoded.dims) != rank:
            self._fault(
                i,
                lane,
                "an address that holds no tensor map of this rank",
                "a tensor map, aligned to 64",
                address,
            )
        return decoded

    def _with_bits(self, index: Array, bits: int) -> Array:
        """Which bytes of global memory exist and have these bits in their shadow."""
        good = (index >= 0) & (index < len(self._m.memory_image.buffer))
        good[good] = have_bits(self._m.memory.global_shadow, index[good], 1, bits)
        return np.asarray(good)

    def _require_writable(self, i: int, lane: int, index: Array) -> None:
        good = self._with_bits(index, arena.VALID)
        if not good.all():
            address = int(index[int(np.argmin(good))]) + arena.BASE
            where = self._m.memory_image.describe(address)
            self._fault(
                i, lane, f"a bulk store outside of every array, {where}", "elements of an array", address
            )
        locked = self._with_bits(index, arena.READ_ONLY)
        if locked.any():
            address = int(index[int(np.argmax(locked))]) + arena.BASE
            self._fault(i, lane, "a bulk store to an input", "reads only of inputs", address)

    def _require_readable(self, i: int, lane: int, index: Array) -> None:
        good = self._with_bits(index, arena.VALID | arena.WRITTEN)
        if not good.all():
            address = int(index[int(np.argmin(good))]) + arena.BASE
            where = self._m.memory_image.describe(address)
            self._fault(
                i, lane, f"a bulk read of bytes that are in no array or have no value, {where}",
                "elements of an array", address,
            )  # fmt: skip

    def _fault(self, i: int, lane: int, got: str, expected: str, address: int | None = None) -> NoReturn:
        self._m.fault(
            MemoryAccessError, i, "bulk copy", got, expected, "check the copy's operands and the tensor map",
            lane=lane, address=address,
        )  # fmt: skip


def _box(tensor: tensormap.TensorMap, origin: list[int]) -> Array:
    """Offsets in the arena of the box's bytes, -1 outside of the tensor."""
    extents = tensor.box_items
    offset = np.zeros(extents[::-1], np.int64)
    inside = np.ones(extents[::-1], bool)
    strides = (tensor.item_bytes, *tensor.strides)
    for axis, extent in enumerate(extents):
        shape = [1] * len(extents)
        shape[len(extents) - 1 - axis] = extent
        place = (origin[axis] + np.arange(extent) * tensor.element_strides[axis]).reshape(shape)
        inside = inside & (place >= 0) & (place < tensor.dims[axis])
        offset = offset + place * strides[axis]
    items = np.where(inside, tensor.address - arena.BASE + offset, -1).reshape(-1)
    return np.where(items[:, None] >= 0, items[:, None] + np.arange(tensor.item_bytes), -1).reshape(-1)


def _fill(tensor: tensormap.TensorMap) -> Array:
    pattern = np.zeros(tensor.item_bytes, np.uint8)
    if tensor.fills_nan:
        pattern[:] = 0xFF
        pattern[-1] = 0x7F
    return np.tile(pattern, tensor.box_bytes // tensor.item_bytes)
