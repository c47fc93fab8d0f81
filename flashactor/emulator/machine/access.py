"""Loads, stores and atomics, with every address checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine import arena
from flashactor.emulator.machine.atomics import atomic_result
from flashactor.emulator.machine.shadows import (
    IN_FLIGHT,
    READY,
    REPEAT,
    UNIT,
    all_are,
    have_bits,
    shift_of,
    units,
)
from flashactor.emulator.machine.window import Mask, Window
from flashactor.emulator.ptx.types import NUMPY
from flashactor.errors import DataRaceError, EmulationError, MemoryAccessError, UninitializedReadError

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]

WINDOWS = {"global": 0, "const": 0, "shared": 1 << 52, "local": 1 << 53, "param": 1 << 54}
"""Where each state space lies in the generic address space."""


class MemoryUnit:
    """Executes ld, st, atom and red for the lanes of a window."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        memory, shared, local = machine.memory_image, machine.shared, machine.local
        self.global_units = units(memory.buffer)
        self.global_shadow = units(memory.shadow)
        self.shared_units = units(shared)
        self.shared_shadow = units(machine.shared_shadow)
        self._local_units = units(local)
        self._local_shadow = units(machine.local_shadow)
        self._parameters = units(machine.parameters)

    # ---- ld, st
    def load(
        self, w: Window, m: Mask, i: int, space: str, base: Any, offset: int,
        targets: list[Array], width: int, is_synchronizing: bool,
    ) -> None:  # fmt: skip
        """ld."""
        count = len(targets)
        if space == "param" and np.ndim(base) == 0:
            at = int(base) + offset
            for index, target in enumerate(targets):
                self._put_scalar(target, self._parameter(i, at + index * width, width), m)
            return
        address = w.flat(m, base).astype(np.int64)
        address += offset
        if space == "generic":
            for space_, part in self._by_space(w, m, i, address):
                inside = w.submask(m, part)
                rebased = address[part] - WINDOWS[space_]
                self._load(w, inside, i, space_, rebased, targets, width, count, is_synchronizing)
            return
        self._load(w, m, i, space, address, targets, width, count, is_synchronizing)

    def _load(
        self, w: Window, m: Mask, i: int, space: str, address: Array,
        targets: list[Array], width: int, count: int, is_synchronizing: bool,
    ) -> None:  # fmt: skip
        size = width * count
        parts = 2 if size == 32 else 1
        if parts == 2:
            for half in range(2):
                chosen = targets[half * count // 2 : (half + 1) * count // 2]
                self._load(w, m, i, space, address + 16 * half, chosen, width, count // 2, is_synchronizing)
            return
        if space == "param":
            limit = self._m.kernel.entry.parameter_bytes
            if address.size and (int(address.min()) < 0 or int(address.max()) + size > limit):
                bad = (address < 0) | (address + size > limit)
                self._out_of_bounds(w, m, i, bad, address, "param", f"parameters of {limit} bytes")
            values = self._parameters[size][address >> shift_of(size)]
        elif space == "shared":
            index = self.shared_index(w, m, i, address, size, "shared")
            at = index >> shift_of(size)
            ready = all_are(self.shared_shadow, at, size, READY)
            if not ready.all():
                self._not_ready(w, m, i, ready, index, address, size)
            if self._m.clocks is not None:
                self._m.clocks.read_shared(w, m, i, index, size)
            self._m.report.shared(w, m, i, address, size)
            values = self.shared_units[size][at]
        elif space == "local":
            at = self._local_index(w, m, i, address, size)
            ready = all_are(self._local_shadow, at, size, READY)
            if not ready.all():
                self._uninitialized(w, m, i, ready, address, "local memory")
            values = self._local_units[size][at]
        else:
            values = self.read_global(w, m, i, address, size, is_synchronizing)
        parts_of = values.view(f"u{width}").reshape(-1, count)
        for index_, target in enumerate(targets):
            part = parts_of[:, index_]
            self._widen(w, m, target, part, width)

    def read_global(
        self, w: Window, m: Mask, i: int, address: Array, size: int, is_synchronizing: bool
    ) -> Array:
        """Elements of global memory at checked addresses, one for each active lane."""
        index = self.global_index(w, m, i, address, size)
        at = index >> shift_of(size)
        good = have_bits(self.global_shadow, at, size, arena.VALID | arena.WRITTEN)
        if not good.all():
            self.refuse_global(w, m, i, good, at, size, address, "read")
        if self._m.clocks is not None:
            self._m.clocks.read_global(w, m, i, index, size, is_synchronizing)
        self._m.report.global_(w, m, i, address, size)
        return np.asarray(self.global_units[size][at])

    def store(
        self, w: Window, m: Mask, i: int, space: str, base: Any, offset: int,
        values: list[Any], width: int, is_synchronizing: bool,
    ) -> None:  # fmt: skip
        """st."""
        address = w.flat(m, base).astype(np.int64)
        address += offset
        count = len(values)
        data = np.empty((address.size, count), f"u{width}")
        for index, value in enumerate(values):
            flat = w.flat(m, value)
            data[:, index] = (
                flat.view(f"u{width}") if flat.dtype.itemsize == width else flat.astype(f"u{width}")
            )
        if space == "generic":
            for space_, part in self._by_space(w, m, i, address):
                rebased = address[part] - WINDOWS[space_]
                self._store(w, w.submask(m, part), i, space_, rebased, data[part], is_synchronizing)
            return
        self._store(w, m, i, space, address, data, is_synchronizing)

    def _store(
        self, w: Window, m: Mask, i: int, space: str, address: Array, data: Array, is_synchronizing: bool
    ) -> None:
        size = data.shape[1] * data.dtype.itemsize
        if size == 32:
            half = data.shape[1] // 2
            self._store(w, m, i, space, address, np.ascontiguousarray(data[:, :half]), is_synchronizing)
            self._store(w, m, i, space, address + 16, np.ascontiguousarray(data[:, half:]), is_synchronizing)
            return
        values = data.reshape(-1).view(UNIT[size])
        if space == "shared":
            index = self.shared_index(w, m, i, address, size, "shared")
            self.write_shared(w, m, i, index, size, values)
            self._m.report.shared(w, m, i, address, size)
        elif space == "local":
            at = self._local_index(w, m, i, address, size)
            self._local_units[size][at] = values
            self._mark(self._local_shadow, at, size, READY)
        elif space in ("param", "const"):
            self._fault(MemoryAccessError, w, m, i, None, address, f"a store to {space} memory", "global")
        else:
            index = self.global_index(w, m, i, address, size)
            at = index >> shift_of(size)
            self._require_writable(w, m, i, at, size, address)
            if self._m.clocks is not None:
                self._m.clocks.write_global(w, m, i, index, size, is_synchronizing)
            self._m.report.global_(w, m, i, address, size)
            self.global_units[size][at] = values
            self._mark(self.global_shadow, at, size, arena.VALID | arena.WRITTEN)
            if self._m.clocks is not None:
                self._same_values(w, m, i, self.global_units[size], at, values, address, "global")

    def write_shared(self, w: Window, m: Mask, i: int, index: Array, size: int, values: Array) -> None:
        """Write checked places of shared memory."""
        at = index >> shift_of(size)
        self.require_settled(w, m, i, index, at, size)
        if self._m.clocks is not None:
            self._m.clocks.write_shared(w, m, i, index, size)
        self.shared_units[size][at] = values
        self._mark(self.shared_shadow, at, size, READY)
        if self._m.clocks is not None:
            self._same_values(
                w, m, i, self.shared_units[size], at, values, index % self._m.shared_stride, "shared"
            )

    def require_settled(self, w: Window, m: Mask, i: int, index: Array, at: Array, size: int) -> None:
        """Refuse to write where an asynchronous copy is writing, or is still reading."""
        if self._m.in_flight_writes:
            flying = all_are(self.shared_shadow, at, size, IN_FLIGHT)
            if flying.any():
                bad = int(np.argmax(flying))
                self._m.fault_async(
                    w, m, i, bad, int(index[bad] % self._m.shared_stride),
                    "a write to shared memory that an asynchronous copy is still writing",
                    "wait for the copy before its destination is written again",
                )  # fmt: skip
        if self._m.in_flight_reads:
            self._m.bulk.reads.require_none(w, m, i, index)
            self._m.warpgroups.reads.require_none(w, m, i, index)

    # ---- atom, red
    def atomic(
        self, w: Window, m: Mask, i: int, space: str, base: Any, offset: int, operation: str, type_: str,
        targets: list[Array] | None, values: list[Any], swapped: list[Any] | None,
    ) -> None:  # fmt: skip
        """atom and red: lanes that meet at one address take turns in lane order."""
        code = NUMPY[type_]
        width = int(code[1])
        address = w.flat(m, base).astype(np.int64) + offset
        if space == "generic":
            spaces = list(self._by_space(w, m, i, address))
            if len(spaces) != 1:
                self._fault(MemoryAccessError, w, m, i, None, address, "an atomic on several spaces", "one")
            space = spaces[0][0]
            address -= WINDOWS[space]
        stored = f"u{width}"
        operands = np.stack([w.flat(m, value).view(stored) for value in values], 1)
        others = (
            None if swapped is None else np.stack([w.flat(m, value).view(stored) for value in swapped], 1)
        )
        size = width * operands.shape[1]
        if space == "shared":
            index = self.shared_index(w, m, i, address, size, "shared")
            at = index >> shift_of(width)
            ready = all_are(self.shared_shadow, at, width, READY)
            if not ready.all():
                self._not_ready(w, m, i, ready, index, address, width)
            if self._m.clocks is not None:
                self._m.clocks.atomic_shared(w, m, i, index, size)
            memory = self.shared_units[width]
        elif space in ("global", "generic"):
            index = self.global_index(w, m, i, address, size)
            at = index >> shift_of(width)
            good = have_bits(self.global_shadow, at, width, arena.VALID | arena.WRITTEN)
            if not good.all():
                self.refuse_global(w, m, i, good, at, width, address, "atomic")
            self._require_writable(w, m, i, at, width, address)
            if self._m.clocks is not None:
                self._m.clocks.atomic_global(w, m, i, index, size)
            memory = self.global_units[width]
        else:
            self._fault(MemoryAccessError, w, m, i, None, address, f"an atomic in {space} memory", "global")
        # Adding float32 flushes subnormals in global memory and not in shared memory (PTX ISA, atom).
        is_flushed = operation == "add" and type_ == "f32" and space != "shared"
        pending = np.arange(address.size)
        old = np.zeros_like(operands)
        while pending.size:
            # The first lane at each address, this round.
            _, first = np.unique(at[pending], return_index=True)
            now = pending[np.sort(first)]
            for part in range(operands.shape[1]):
                before = memory[at[now] + part]
                old[now, part] = before
                second = None if others is None else others[now, part]
                memory[at[now] + part] = atomic_result(
                    operation, type_, before, operands[now, part], second, is_flushed
                )
            pending = np.setdiff1d(pending, now, assume_unique=True)
        if targets is not None:
            for part, target in enumerate(targets):
                self._widen(w, m, target, old[:, part], width)

    # ---- addresses
    def shared_index(self, w: Window, m: Mask, i: int, address: Array, size: int, what: str) -> Array:
        """Offsets in the buffer of all blocks, of checked shared addresses."""
        address = np.where(address >= WINDOWS["shared"], address - WINDOWS["shared"], address)
        if address.size:
            limit = self._m.shared_bytes
            if int(address.min()) < 0 or int(address.max()) + size > limit:
                bad = (address < 0) | (address + size > limit)
                self._out_of_bounds(w, m, i, bad, address, what, f"shared memory of {limit} bytes")
            if size > 1 and (address & (size - 1)).any():
                self._misaligned(w, m, i, address, size, what)
        return np.asarray(address + w.active(m, w.shared_base))

    def global_index(self, w: Window, m: Mask, i: int, address: Array, size: int) -> Array:
        """Offsets in the buffer of global addresses that lie in it and are aligned."""
        index = address - arena.BASE
        if index.size:
            if int(index.min()) < 0 or int(index.max()) + size > self._m.memory_image.top:
                bad = (index < 0) | (index + size > self._m.memory_image.top)
                self.refuse_global(w, m, i, ~bad, None, size, address, "access")
            if size > 1 and (index & (size - 1)).any():
                self._misaligned(w, m, i, address, size, "global")
        return np.asarray(index)

    def _local_index(self, w: Window, m: Mask, i: int, address: Array, size: int) -> Array:
        limit = self._m.kernel.entry.local_bytes
        if address.size:
            if int(address.min()) < 0 or int(address.max()) + size > limit:
                bad = (address < 0) | (address + size > limit)
                self._out_of_bounds(w, m, i, bad, address, "local", f"a stack of {limit} bytes")
            if (address & (size - 1)).any():
                self._misaligned(w, m, i, address, size, "local")
        lanes = w.active(m, w.lanes)
        return np.asarray((address + lanes * self._m.local_stride) >> shift_of(size))

    def _by_space(self, w: Window, m: Mask, i: int, address: Array) -> list[tuple[str, Array]]:
        """The spaces that generic addresses lie in, each with the positions of its addresses."""
        window = address >> 52
        found = []
        for space in ("global", "shared", "local", "param"):
            inside = window == WINDOWS[space] >> 52
            if inside.any():
                found.append((space, np.flatnonzero(inside)))
        if sum(part.size for _, part in found) != address.size:
            bad = ~np.isin(window, [WINDOWS[space] >> 52 for space in ("global", "shared", "local", "param")])
            self._out_of_bounds(w, m, i, bad, address, "generic", "some state space")
        return found

    # ---- details
    def _parameter(self, i: int, at: int, width: int) -> Any:
        limit = self._m.kernel.entry.parameter_bytes
        if at < 0 or at + width > limit:
            self._m.fault(
                MemoryAccessError, i, "param", f"{width} bytes at {at}",
                f"one within {len(self._m.parameters)} bytes of parameters", "pass what the kernel declares",
            )  # fmt: skip
        return self._parameters[width][at >> shift_of(width)]

    @staticmethod
    def _put_scalar(target: Array, value: Any, m: Mask) -> None:
        if target.dtype.itemsize == value.dtype.itemsize:
            value = value.view(target.dtype)
        elif target.dtype.kind == "i":
            value = value.view(f"i{value.dtype.itemsize}")
        if m is True:
            target[...] = value
        else:
            target[m] = value

    @staticmethod
    def _widen(w: Window, m: Mask, target: Array, values: Array, width: int) -> None:
        """Put loaded values into registers that may be wider: extended by the sign of the target's type."""
        if target.dtype.itemsize == width:
            values = np.ascontiguousarray(values).view(target.dtype)
        elif target.dtype.kind == "i":
            values = np.ascontiguousarray(values).view(f"i{width}").astype(target.dtype)
        w.put(m, target, values)

    @staticmethod
    def _mark(shadow: dict[int, Array], at: Array, size: int, value: int) -> None:
        if size == 16:
            shadow[8].reshape(-1, 2)[at] = REPEAT[8] * value
        else:
            shadow[size][at] = REPEAT[size] * value

    def mark_shared(self, at: Array, size: int, value: int) -> None:
        """Set the shadow of elements of shared memory."""
        self._mark(self.shared_shadow, at, size, value)

    def mark_written(self, at: Array, size: int) -> None:
        """Set the shadow of elements of global memory that were written."""
        self._mark(self.global_shadow, at, size, arena.VALID | arena.WRITTEN)

    def _require_writable(self, w: Window, m: Mask, i: int, at: Array, size: int, address: Array) -> None:
        good = have_bits(self.global_shadow, at, size, arena.VALID)
        if not good.all():
            self.refuse_global(w, m, i, good, at, size, address, "write")
        if size == 16:
            pairs = self.global_shadow[8].reshape(-1, 2)[at]
            locked = np.asarray((pairs & np.uint64(REPEAT[8] * arena.READ_ONLY)).any(-1))
        else:
            shadow = self.global_shadow[size]
            locked = np.asarray(shadow[at] & shadow.dtype.type(REPEAT[size] * arena.READ_ONLY) != 0)
        if locked.any():
            self._fault(
                MemoryAccessError, w, m, i, locked, address, "a write to an input", "reads only of inputs"
            )

    def _same_values(
        self, w: Window, m: Mask, i: int, memory: Array, at: Array, values: Array, address: Array, space: str
    ) -> None:
        """Lanes of one instruction that write different values to one place race with each other."""
        stored = memory[at]
        raw = f"u{stored.dtype.itemsize}" if stored.dtype.itemsize < 16 else "u8"
        differ = stored.view(raw) != np.ascontiguousarray(values).view(raw)
        if differ.any():
            differ = differ.reshape(at.size, -1).any(-1)
            self._fault(
                DataRaceError, w, m, i, differ, address,
                f"two lanes that write different values to one place of {space} memory at once",
                "one writer",
            )  # fmt: skip

    # ---- faults
    def _fault(
        self, error: type[EmulationError], w: Window, m: Mask, i: int,
        bad: Array | None, address: Array, got: str, expected: str,
    ) -> NoReturn:  # fmt: skip
        at = 0 if bad is None else int(np.argmax(bad))
        self._m.fault(
            error, i, "memory", got, expected, "find the access at this line of the kernel",
            lane=int(w.active(m, w.lanes)[at]), address=int(address[at]),
        )  # fmt: skip

    def _out_of_bounds(
        self, w: Window, m: Mask, i: int, bad: Array, address: Array, what: str, limit: str
    ) -> NoReturn:
        self._fault(
            MemoryAccessError, w, m, i, bad, address, f"a {what} access out of bounds", f"one within {limit}"
        )

    def _misaligned(self, w: Window, m: Mask, i: int, address: Array, size: int, what: str) -> NoReturn:
        bad = address & (size - 1) != 0
        self._fault(
            MemoryAccessError, w, m, i, bad, address,
            f"a misaligned {what} access of {size} bytes", f"an address that is a multiple of {size}",
        )  # fmt: skip

    def refuse_global(
        self, w: Window, m: Mask, i: int, good: Array, at: Array | None, size: int, address: Array, what: str
    ) -> NoReturn:
        """Raise for global memory that is in no array or has no value, at the first that is not good."""
        first = int(np.argmin(good))
        where = self._m.memory_image.describe(int(address[first]))
        if at is not None and bool(
            have_bits(self.global_shadow, at[first : first + 1], size, arena.VALID)[0]
        ):
            self._fault(
                UninitializedReadError, w, m, i, ~good, address,
                f"a read of global memory that nothing has written, {where}", "a place that has a value",
            )  # fmt: skip
        self._fault(
            MemoryAccessError, w, m, i, ~good, address,
            f"a global {what} of {size} bytes outside of every array, {where}", "an element of an array",
        )  # fmt: skip

    def _uninitialized(self, w: Window, m: Mask, i: int, ready: Array, address: Array, what: str) -> NoReturn:
        self._fault(
            UninitializedReadError, w, m, i, ~ready, address,
            f"a read of {what} that nothing has written", "a place that has a value",
        )  # fmt: skip

    def _is_in_flight(self, start: int, size: int) -> bool:
        """Whether an asynchronous copy is still writing some of these bytes of shared memory."""
        return bool((self._m.shared_shadow[start : start + size] == IN_FLIGHT).any())

    def _not_ready(
        self, w: Window, m: Mask, i: int, ready: Array, index: Array, address: Array, size: int
    ) -> NoReturn:
        first = int(np.argmin(ready))
        if self._is_in_flight(int(index[first]), size):
            self._fault(
                UninitializedReadError, w, m, i, ~ready, address,
                "a read of shared memory that an asynchronous copy is still writing",
                "a wait for the copy, and a barrier, before the read",
            )  # fmt: skip
        self._uninitialized(w, m, i, ready, address, "shared memory")

    def require_ready(self, w: Window, m: Mask, i: int, index: Array, size: int, lanes: Array) -> None:
        """Refuse collective reads, ``index`` [n] by ``lanes`` [n], of shared memory that has no value yet."""
        at = index >> shift_of(size)
        ready = all_are(self.shared_shadow, at, size, READY)
        if ready.all():
            return
        first = int(np.argmin(ready))
        start = int(index[first])
        flying = self._is_in_flight(start, size)
        what = "an asynchronous copy is still writing" if flying else "nothing has written"
        self._m.fault(
            UninitializedReadError, i, "memory", f"a read of shared memory that {what}",
            "a place that has a value", "wait for the copy and put a barrier before the read",
            lane=int(lanes[first]), address=start % self._m.shared_stride,
        )  # fmt: skip
