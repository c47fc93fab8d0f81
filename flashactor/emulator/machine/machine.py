"""Some blocks of a grid, run together: their registers and shared memories, and the loop that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.faults import location
from flashactor.emulator.machine.access import WINDOWS, MemoryUnit
from flashactor.emulator.machine.arena import BASE, Memory
from flashactor.emulator.machine.barriers import BarrierUnit
from flashactor.emulator.machine.bulk import BulkUnit
from flashactor.emulator.machine.clocks import Clocks
from flashactor.emulator.machine.copies import CopyUnit
from flashactor.emulator.machine.global_races import GlobalRaces
from flashactor.emulator.machine.mbarriers import LIMIT, MbarrierUnit
from flashactor.emulator.machine.register_pool import RegisterPool
from flashactor.emulator.machine.report import Report
from flashactor.emulator.machine.schedule import NOWHERE, Policy
from flashactor.emulator.machine.tensor import TensorUnit
from flashactor.emulator.machine.warpgroups import WarpgroupUnit
from flashactor.emulator.machine.warps import WarpUnit
from flashactor.emulator.machine.window import Mask, Window
from flashactor.emulator.translate.translator import Kernel
from flashactor.errors import AsyncHazardError, DeadlockError, EmulationError

Array = NDArray[Any]
WINDOWS_KEPT = 512
IDLE_LIMIT = 2000
"""How often threads may ask in vain for an mbarrier while no other thread can run."""


class Machine:
    """Runs a kernel for some blocks of a grid.

    Lanes are numbered in the order of the arrays ``[warp][block][lane]``; ``numbers`` is that array.
    """

    def __init__(
        self,
        kernel: Kernel,
        memory: Memory,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        block_numbers: Sequence[int],
        shared_bytes: int,
        parameters: bytes,
        report: Report,
        global_races: GlobalRaces | None,
        shared_grain: int,
        bases: dict[str, int],
    ) -> None:
        self.kernel = kernel
        self.grid, self.block_shape = grid, block
        self.threads = block[0] * block[1] * block[2]
        self.blocks = len(block_numbers)
        self.warps_per_block = -(-self.threads // 32)
        self.block_numbers = np.array(block_numbers, np.int64)
        shape = (self.warps_per_block, self.blocks, 32)
        self.lane_count = int(np.prod(shape))
        self.numbers = np.arange(self.lane_count).reshape(shape)
        warp, at, lane = np.unravel_index(np.arange(self.lane_count), shape)
        self.warp_of, self.block_of, self.lane_of = warp, at, lane
        self.thread_of = warp * 32 + lane
        self.alive = self.thread_of < self.threads
        self._alive_3d = self.alive.reshape(shape)
        self.lanes_of_block = [self.numbers[:, index].reshape(-1) for index in range(self.blocks)]
        self.memory_image = memory
        self.global_base, self.const_base = (np.uint64(bases.get(space, 0)) for space in ("global", "const"))

        self.shared_bytes = shared_bytes
        self.shared_stride = max(1024, -(-shared_bytes // 1024) * 1024)
        self.shared = np.full(self.blocks * self.shared_stride, 0xFF, np.uint8)  # NaN in every format
        self.shared_shadow = np.zeros(len(self.shared), np.uint8)
        self.shared_base = self.block_of * self.shared_stride
        self.local_stride = -(-kernel.entry.local_bytes // 16) * 16
        self.local = np.full(max(16, self.lane_count * self.local_stride), 0xFF, np.uint8)
        self.local_shadow = np.zeros(len(self.local), np.uint8)
        padded = -(-max(1, len(parameters)) // 16) * 16
        self.parameters = np.frombuffer(parameters.ljust(padded, b"\0"), np.uint8)
        self.slots = {
            # Like memory, all ones where nothing has been written: NaN in every format.
            width: np.full(
                (kernel.slots.counts.get(width, 0), *shape),
                (1 << 8 * width) - 1 if width else True,
                f"u{width}" if width else "?",
            )
            for width in (0, 2, 4, 8)
        }

        opcodes = {instruction.opcode for instruction in kernel.entry.instructions}
        # Copies name mbarriers too, even in a kernel that forgot to initialise one.
        self.uses_mbarriers = "mbarrier" in opcodes or any(
            instruction.opcode == "cp" and {"bulk", "mbarrier"} & set(instruction.modifiers)
            for instruction in kernel.entry.instructions
        )
        self.uses_async_proxy = "wgmma" in opcodes or any(
            instruction.opcode == "cp" and "bulk" in instruction.modifiers
            for instruction in kernel.entry.instructions
        )
        self.in_flight_reads = 0
        self.report = report
        self.clocks: Clocks | None = None
        if global_races is not None:
            mbarriers = LIMIT if self.uses_mbarriers else 0
            self.clocks = Clocks(self, shared_grain, mbarriers, global_races)
        self.memory = MemoryUnit(self)
        self.warps = WarpUnit(self)
        self.tensor = TensorUnit(self)
        self.barriers = BarrierUnit(self)
        self.mbarriers = MbarrierUnit(self)
        self.bulk = BulkUnit(self)
        self.warpgroups = WarpgroupUnit(self)
        self.registers = RegisterPool(self)
        self.copies = CopyUnit(self)

        self.steps = self.warp_instructions = 0
        self._position = np.zeros(shape, np.int32)
        self._end = len(kernel.flow.blocks)
        self._position[~self._alive_3d] = self._end
        self._blocked = np.zeros(self.lane_count, bool)
        self._parked = np.zeros(self.lane_count, bool)
        self._yielded = np.zeros(self.lane_count, bool)
        self._idle = 0
        self._windows: dict[tuple[int, int, int, int], Window] = {}
        self._lengths = [block.stop - block.start for block in kernel.flow.blocks]
        self._needs_group = np.array([block.needs_warpgroup for block in kernel.flow.blocks] + [False])
        # Blocks in which a thread does nothing but leave.
        self._leaves = np.array(
            [
                block.stop - block.start == 1
                and kernel.entry.instructions[block.start].opcode in ("ret", "exit")
                and kernel.entry.instructions[block.start].guard is None
                for block in kernel.flow.blocks
            ]
            + [False]
        )
        self._any_needs_group = bool(self._needs_group.any())

    @property
    def in_flight_writes(self) -> int:
        """Asynchronous copies that have yet to write shared memory."""
        return self.copies.pending + self.bulk.pending_loads

    # ---- the loop
    def run(self, policy: Policy, max_steps: int) -> None:
        """Run until every thread has left.

        Raises:
            EmulationError: the kernel did something wrong.
        """
        with np.errstate(all="ignore"):
            uniform: int | None = 0 if self.alive.all() and policy.name == "min" else None
            everything = self.window(0, self.warps_per_block, 0, self.blocks)
            while True:
                if uniform is not None:
                    self._execute(uniform, everything, True)
                else:
                    chosen = self._choose(policy)
                    if chosen is None:
                        return
                    self._execute(*chosen)
                self.steps += 1
                if self.steps > max_steps and self.alive.any():
                    self._stuck(f"no end after {max_steps} steps: threads spin without end")
                uniform = self._uniform() if policy.name == "min" else None

    def _uniform(self) -> int | None:
        """The block of code at which all lanes are, if none is held back."""
        first = int(self._position.flat[0])
        if first == self._end or self._blocked.any() or self._parked.any() or self._yielded.any():
            return None
        return first if (self._position == first).all() else None

    def _choose(self, policy: Policy) -> tuple[int, Window, Mask] | None:
        if self.bulk.pending_loads and policy.delivers_early():
            self.bulk.deliver(policy.pick)
        while True:
            held = self._blocked | self._parked | self._yielded
            runnable = self._alive_3d & ~held.reshape(self._alive_3d.shape)
            positions = np.where(runnable, self._position, NOWHERE)
            by_warp = positions.min(2)
            leaving = runnable & self._leaves[self._position]
            if leaving.any():
                # Lanes at their end leave before the rest of their warp meets at a barrier without them.
                return self._all_at(int(self._position[leaving][0]), leaving)
            if self._any_needs_group:
                by_warp = self._hold_incomplete_groups(by_warp, positions)
            if (by_warp != NOWHERE).any():
                break
            if self._yielded.any():
                # Who asks again and again waits too: let something happen meanwhile.
                self._idle = 0 if self.bulk.deliver(policy.pick) else self._idle + 1
                if self._idle > IDLE_LIMIT:
                    self._stuck("threads ask without end for an mbarrier that never completes")
                self._yielded[:] = False
            elif not self.bulk.deliver(policy.pick):
                if not self.alive.any():
                    return None
                self._stuck("every thread waits")
        position, chosen = policy.choose(by_warp)
        if self._needs_group[position]:
            chosen = self._whole_groups(chosen)
        rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
        edges = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
        inside = (slice(edges[0], edges[1]), slice(edges[2], edges[3]))
        mask = (positions[inside] == position) & chosen[inside][..., None]
        return position, self.window(*edges), True if mask.all() else mask

    def _all_at(self, position: int, lanes: Array) -> tuple[int, Window, Mask]:
        """The lanes, of some, that are at a position."""
        everything = self.window(0, self.warps_per_block, 0, self.blocks)
        mask = lanes & (self._position == position)
        return position, everything, True if mask.all() else mask

    def _hold_incomplete_groups(self, by_warp: Array, positions: Array) -> Array:
        """Warps at a warpgroup's instruction wait until all four are there, with all their lanes."""
        wants = self._needs_group[np.minimum(by_warp, self._end)]
        if not wants.any():
            return by_warp
        at = np.where(self._alive_3d, positions, by_warp[..., None])
        together = (at == by_warp[..., None]).all(2)
        warps = self.warps_per_block // 4 * 4
        groups = by_warp[:warps].reshape(-1, 4, self.blocks)
        complete = (groups == groups[:, :1]).all(1) & together[:warps].reshape(-1, 4, self.blocks).all(1)
        ready = np.zeros_like(wants)
        ready[:warps] = np.repeat(complete, 4, axis=0)
        return np.where(wants & ~ready, NOWHERE, by_warp)

    def _whole_groups(self, chosen: Array) -> Array:
        """The chosen warps and the rest of their warpgroups, which is there too."""
        groups = self.warps_per_block // 4
        by_group = chosen[: groups * 4].reshape(groups, 4, self.blocks).any(1)
        whole = np.zeros_like(chosen)
        whole[: groups * 4] = np.repeat(by_group, 4, axis=0)
        return whole

    def _execute(self, position: int, w: Window, m: Mask) -> None:
        kernel = self.kernel
        active = w.lanes.size // 32 if m is True else int(m.any(2).sum())
        self.warp_instructions += self._lengths[position] * active
        result = kernel.functions[position](self, w, m)
        kind, successors = kernel.kinds[position], kernel.flow.blocks[position].successors
        where = self._position[w.warps, w.blocks]
        if kind == "exit":
            leaving = m if result is None else (result if m is True else m & result)
            self._move(where, m, successors[0])
            if leaving is True or leaving.any():
                self._leave(w, leaving, where)
        elif kind == "wait":
            self._move(where, m if result is None else result, successors[0])
        elif kind == "branch" and result is not None:
            if m is True and result.all():
                where[...] = successors[1]
            else:
                target = np.where(result, np.int32(successors[1]), np.int32(successors[0]))
                np.copyto(where, target, where=m)
        else:
            self._move(where, m, successors[-1])

    @staticmethod
    def _move(where: Array, m: Mask, position: int) -> None:
        if m is True:
            where[...] = position
        else:
            where[m] = position

    def _leave(self, w: Window, leaving: Mask, where: Array) -> None:
        lanes = w.lanes if leaving is True else w.lanes[leaving.ravel()]
        self._move(where, leaving, self._end)
        self.alive[lanes] = False
        if self.uses_async_proxy:
            self.bulk.leave(lanes)
            self.warpgroups.leave(lanes)
        self.barriers.release(self.kernel.flow.blocks[-1].stop - 1, np.unique(self.block_of[lanes]))

    def _stuck(self, what: str) -> NoReturn:
        lanes = [int(lane) for lane in np.flatnonzero(self.alive)]
        seen = dict.fromkeys(self._waiting_for(lane) for lane in lanes)
        lane = lanes[0]
        self.fault(
            DeadlockError, self._instruction_at(lane), "threads", f"{what}; " + "; ".join(list(seen)[:6]),
            "threads that all come to their end", "let each barrier get its arrivals", lane=lane,
        )  # fmt: skip

    def _waiting_for(self, lane: int) -> str:
        where = f"warp {int(self.warp_of[lane])} at PTX line {self._instruction(lane).line}"
        if self.barriers.waiting_at[lane] >= 0:
            return f"{where} waits at {self.barriers.describe(lane)}"
        if self._parked[lane] and self._instruction(lane).opcode == "setmaxnreg":
            return f"{where} waits for registers ({self.registers.describe(lane)})"
        if self._parked[lane]:
            return f"{where} waits for an mbarrier ({self.mbarriers.describe(lane)})"
        return where

    def _instruction_at(self, lane: int) -> int:
        blocks = self.kernel.flow.blocks
        position = int(self._position.flat[lane])
        if self.barriers.waiting_at[lane] >= 0:
            # A lane that waits at a barrier is already at what follows it.
            before = [block.stop - 1 for block in blocks if position in block.successors]
            waiting = [at for at in before if self.kernel.entry.instructions[at].opcode in ("bar", "barrier")]
            return waiting[0] if waiting else blocks[min(position, len(blocks) - 1)].start
        return blocks[min(position, len(blocks) - 1)].start

    def _instruction(self, lane: int) -> Any:
        return self.kernel.entry.instructions[self._instruction_at(lane)]

    # ---- lanes that wait
    def block_lanes(self, lanes: Array) -> None:
        """Hold lanes at a barrier."""
        self._blocked[lanes] = True

    def unblock_lanes(self, lanes: Array) -> None:
        """Let lanes go on from a barrier."""
        self._blocked[lanes] = False

    def park_lanes(self, lanes: Array) -> None:
        """Hold lanes until some mbarrier completes a phase, or registers are released."""
        self._parked[lanes] = True

    def wake_parked(self) -> None:
        """Let parked lanes look again."""
        self._parked[:] = False
        self._idle = 0

    def yield_lanes(self, lanes: Array) -> None:
        """Hold lanes until no other lane can run."""
        self._yielded[lanes] = True

    def alive_threads(self) -> Array:
        """Threads of each block that have not left; a warp counts whole while one lane of it is there."""
        return np.asarray(self._alive_3d.any(2).sum(0) * 32)

    def first_lane(self, block: int) -> int:
        """The number of a block's first lane."""
        return int(self.numbers[0, block, 0])

    # ---- windows
    def window(self, warp_start: int, warp_stop: int, block_start: int, block_stop: int) -> Window:
        """The window of some warps of some blocks."""
        key = (warp_start, warp_stop, block_start, block_stop)
        if key not in self._windows:
            if len(self._windows) >= WINDOWS_KEPT:
                self._windows.clear()
            self._windows[key] = Window(self, slice(warp_start, warp_stop), slice(block_start, block_stop))
        return self._windows[key]

    def lane_window(self, lane: int) -> tuple[Window, Array]:
        """A window and a mask that hold one lane, for checks of what it does."""
        warp, block = int(self.warp_of[lane]), int(self.block_of[lane])
        mask = np.zeros((1, 1, 32), bool)
        mask[0, 0, self.lane_of[lane]] = True
        return self.window(warp, warp + 1, block, block + 1), mask

    # ---- addresses
    @staticmethod
    def address_window(space: str) -> np.uint64:
        """Where a state space begins in the generic address space."""
        return np.uint64(WINDOWS[space])

    @staticmethod
    def is_in(address: Any, space: str) -> Array:
        """Whether generic addresses lie in a space."""
        wanted = WINDOWS["global" if space == "const" else space] >> 52
        return np.asarray(np.asarray(address) >> np.uint64(52) == wanted)

    def read_bytes(self, address: int, size: int) -> bytes:
        """Bytes at a generic address in parameters or global memory; fewer where they end."""
        if address >= WINDOWS["param"]:
            start = address - WINDOWS["param"]
            return self.parameters[start : start + size].tobytes()
        start = address - BASE
        return self.memory_image.buffer[start : start + size].tobytes() if start >= 0 else b""

    # ---- faults
    def fence_global(self, w: Window, m: Mask, i: int) -> None:
        """membar and fence: only the race check has a use for them."""
        if self.clocks is not None:
            self.clocks.fence_global(w, m)

    def trap(self, w: Window, m: Mask, i: int) -> NoReturn:
        """trap: the kernel gives up."""
        self.fault(
            EmulationError, i, "kernel", "a trap", "a kernel that does not trap",
            "see what the kernel asserts", lane=int(w.active(m, w.lanes)[0]),
        )  # fmt: skip

    def fault_async(
        self, w: Window, m: Mask, i: int, at: int, address: int, got: str, remedy: str
    ) -> NoReturn:
        """Raise for memory that an asynchronous operation owns."""
        self.fault(
            AsyncHazardError, i, "shared memory", got, "a place that nothing in flight uses", remedy,
            lane=int(w.active(m, w.lanes)[at % max(1, w.active(m, w.lanes).size)]), address=address,
        )  # fmt: skip

    def fault(
        self,
        error: type[EmulationError],
        i: int,
        field: str,
        got: str,
        expected: str,
        remedy: str,
        *,
        lane: int | None = None,
        address: int | None = None,
    ) -> NoReturn:
        """Raise an error that says where and who."""
        block = thread = None
        if lane is not None:
            number = int(self.block_numbers[self.block_of[lane]])
            x, y = self.grid[0], self.grid[1]
            block = (number % x, number // x % y, number // (x * y))
            thread = int(self.thread_of[lane])
        at = location(self.kernel.entry.name, self.kernel.entry.instructions[i], block, thread, address)
        raise error(field=field, got=got, expected=expected, remedy=remedy, at=at)
