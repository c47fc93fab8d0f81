"""Running a kernel: the arguments, the blocks of the grid, the schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter

from flashactor.emulator.arguments import (
    Argument,
    Extents,
    check_block,
    check_options,
    extents_of,
    parameter_bytes,
)
from flashactor.emulator.grains import grains_of
from flashactor.emulator.hazards import require_no_hazards
from flashactor.emulator.machine.arena import Memory
from flashactor.emulator.machine.global_races import GlobalRaces
from flashactor.emulator.machine.machine import Machine
from flashactor.emulator.machine.report import LineReport, Report
from flashactor.emulator.machine.schedule import Policy
from flashactor.emulator.ptx.module import Entry, Instruction, Symbol
from flashactor.emulator.translate.translator import Kernel, translate
from flashactor.errors import LaunchError

SCHEDULES = ("min", "max", "random")
CHUNK_THREADS = 4096
"""Threads that run together: enough that NumPy's cost for each operation hardly counts."""

MAX_STEPS = 500_000


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """How one instruction accesses memory.

    Attributes:
        ptx_line: line of the PTX.
        instruction: its text.
        cuda_line: where it comes from, if the PTX says so.
        space: ``shared`` (bank conflicts) or ``global`` (coalescing).
        requests: warp instructions.
        transactions: wavefronts or 32-byte sectors that they took.
        ideal: the fewest that could have been.
    """

    ptx_line: int
    instruction: str
    cuda_line: str | None
    space: str
    requests: int
    transactions: int
    ideal: int


@dataclass(frozen=True, slots=True)
class EmulationResult:
    """What a launch did.

    Attributes:
        schedules: the schedules that it ran under, in order; memory holds the last one's results.
        warp_instructions: instructions of warps, over all schedules.
        steps: basic blocks that were run, over all schedules.
        seconds: wall-clock time, over all schedules.
        is_deterministic: whether every schedule left the same bytes in memory; of one schedule, true.
        memory_lines: one for each load, store, cp.async and ldmatrix, where a report was asked for.
    """

    schedules: tuple[str, ...]
    warp_instructions: int
    steps: int
    seconds: float
    is_deterministic: bool
    memory_lines: tuple[MemoryLine, ...] = field(default=())


def launch(
    ptx: str,
    entry: str,
    grid: Extents,
    block: Extents,
    args: Sequence[Argument],
    *,
    shared: int = 0,
    memory: Memory | None = None,
    schedule: str = "min",
    seed: int = 0,
    races: bool = False,
    report: bool = False,
    max_steps: int = MAX_STEPS,
) -> EmulationResult:
    """Run a kernel of a PTX text on the host.

    Every access is checked for bounds, alignment and initialisation; ``races`` adds data races and missing
    proxy fences. Array arguments are copied in, and what the kernel wrote is copied back; an array that is
    not writeable must not be written.

    Args:
        ptx: the text, as a compiler writes it.
        entry: the kernel's name in it.
        grid, block: extents in blocks and in threads, one to three of them.
        args: one for each parameter: a NumPy array or an ``Output`` (a pointer to it), a NumPy scalar, int or
            float, or the bytes of a struct.
        shared: bytes of dynamic shared memory.
        memory: device memory with arrays that structs point to; its owner calls ``copy_back``.
        schedule: ``min``, ``max``, ``random``, or ``all`` for one run under each from the same memory.
        seed: of the random schedule.
        races: whether to look for races.
        report: whether to count bank conflicts and sectors.
        max_steps: basic blocks after which blocks of the grid that do not end are given up.

    Raises:
        EmulationError: the text cannot be run, or the kernel did something wrong; ``.at`` says where.
        LaunchError: arguments or extents that do not fit the kernel.
    """
    start = perf_counter()
    check_options(ptx, entry, memory, shared=shared, seed=seed, max_steps=max_steps)
    kernel = _checked_kernel(ptx, entry)
    grid_, block_ = extents_of(grid, "grid"), extents_of(block, "block")
    check_block(kernel.entry, block_)
    image = Memory() if memory is None else memory
    parameters = parameter_bytes(kernel.entry, args, image)
    bases = _place_variables(kernel, image)
    chosen = SCHEDULES if schedule == "all" else (schedule,)
    if schedule not in (*SCHEDULES, "all"):
        raise LaunchError(
            field="schedule", got=repr(schedule), expected="all, " + ", ".join(SCHEDULES), remedy="pick one"
        )
    before = (image.buffer.copy(), image.shadow.copy()) if len(chosen) > 1 else None
    counters = Report(report)
    totals = [0, 0]
    results: list[bytes] = []
    for name in chosen:
        if before is not None:
            image.buffer[:], image.shadow[:] = before
        run = _Run(kernel, image, grid_, block_, shared, parameters, bases, counters, races)
        run.all_blocks(name, seed, max_steps)
        totals[0] += run.warp_instructions
        totals[1] += run.steps
        if before is not None:
            results.append(image.buffer[: image.top].tobytes())
    if memory is None:
        image.copy_back()
    return EmulationResult(
        schedules=tuple(chosen),
        warp_instructions=totals[0],
        steps=totals[1],
        seconds=perf_counter() - start,
        is_deterministic=len(set(results)) <= 1,
        memory_lines=tuple(_memory_lines(kernel.entry, counters)),
    )


@lru_cache(maxsize=32)
def _checked_kernel(ptx: str, entry: str) -> Kernel:
    kernel = translate(ptx, entry)
    require_no_hazards(kernel)
    return kernel


class _Run:
    """One schedule over all blocks of a grid."""

    def __init__(
        self,
        kernel: Kernel,
        memory: Memory,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        parameters: bytes,
        bases: dict[str, int],
        report: Report,
        races: bool,
    ) -> None:
        self._kernel, self._memory = kernel, memory
        self._grid, self._block = grid, block
        self._shared = kernel.entry.dynamic_offset + shared if shared else kernel.entry.shared_bytes
        self._parameters, self._bases, self._report = parameters, bases, report
        self._shared_grain, global_grain = grains_of(kernel.entry)
        self._races = (
            GlobalRaces(len(memory.buffer), global_grain, grid[0] * grid[1] * grid[2]) if races else None
        )
        self.warp_instructions = self.steps = 0

    def all_blocks(self, schedule: str, seed: int, max_steps: int) -> None:
        """Run the blocks in order, some at a time."""
        threads = self._block[0] * self._block[1] * self._block[2]
        together = max(1, CHUNK_THREADS // threads)
        total = self._grid[0] * self._grid[1] * self._grid[2]
        for first in range(0, total, together):
            machine = Machine(
                self._kernel,
                self._memory,
                self._grid,
                self._block,
                range(first, min(total, first + together)),
                self._shared,
                self._parameters,
                self._report,
                self._races,
                self._shared_grain,
                self._bases,
            )
            machine.run(Policy(schedule, seed + first), max_steps)
            self.warp_instructions += machine.warp_instructions
            self.steps += machine.steps


def _place_variables(kernel: Kernel, memory: Memory) -> dict[str, int]:
    """Put the module's global and constant variables into memory, if the entry uses any."""
    used = {
        operand.space
        for instruction in kernel.entry.instructions
        for operand in (*instruction.operands, *(getattr(o, "base", o) for o in instruction.operands))
        if isinstance(operand, Symbol)
    }
    bases: dict[str, int] = {}
    for space in ("global", "const"):
        variables = [v for v in kernel.module.variables.values() if v.space == space]
        if space in used and variables:
            data = bytearray(max(v.offset + v.size for v in variables))
            for variable in variables:
                data[variable.offset : variable.offset + variable.size] = variable.initial or bytes(
                    variable.size
                )
            bases[space] = memory.add_bytes(bytes(data), f"{space} variables", read_only=space == "const")
    return bases


def _memory_lines(entry: Entry, report: Report) -> list[MemoryLine]:
    lines = []
    for space, counted in (("shared", report.shared_lines), ("global", report.global_lines)):
        for index, line in sorted(counted.items()):
            lines.append(_memory_line(entry.instructions[index], space, line))
    return lines


def _memory_line(instruction: Instruction, space: str, line: LineReport) -> MemoryLine:
    return MemoryLine(
        ptx_line=instruction.line,
        instruction=instruction.text,
        cuda_line=None if instruction.source is None else str(instruction.source),
        space=space,
        requests=line.requests,
        transactions=line.transactions,
        ideal=line.ideal,
    )
