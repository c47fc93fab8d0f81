"""Virtual registers to slots: PTX names thousands, and few are alive at a time.

Fewer slots are fewer arrays to allocate, and most of them stay in the processor's cache. This is the linear
scan of Poletto and Sarkar (1999, "Linear scan register allocation"), over the blocks in their running order.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from flashactor.emulator.faults import unsupported
from flashactor.emulator.ptx.flow import Flow
from flashactor.emulator.ptx.module import Address, Entry, Instruction, Register, registers_of
from flashactor.emulator.ptx.types import TYPE_BYTES

WIDTHS = {"pred": 0, **{name: max(size, 2) for name, size in TYPE_BYTES.items() if name != "pred"}}
"""Bytes of the slot that a register of a type needs; 0 is a predicate's."""

_NO_RESULT = frozenset(
    [
        "st",
        "red",
        "bra",
        "bar",
        "barrier",
        "cp",
        "mbarrier",
        "fence",
        "membar",
        "prefetch",
        "wgmma",
        "ret",
        "exit",
        "trap",
        "setmaxnreg",
        "stmatrix",
        "griddepcontrol",
        "nanosleep",
        "discard",
        "applypriority",
    ]
)


@dataclass(frozen=True, slots=True)
class Slots:
    """Where registers live.

    Attributes:
        of: register number -> slot among those of its width.
        counts: width in bytes (0 for predicates) -> number of slots.
    """

    of: dict[int, int]
    counts: dict[int, int]


def written_registers(instruction: Instruction) -> list[Register]:
    """The registers that an instruction sets, as opposed to reads."""
    if not instruction.operands or instruction.opcode in _NO_RESULT:
        if instruction.opcode == "mbarrier" and instruction.operands:
            return [r for r in registers_of(instruction.operands[0]) if _is_result(instruction)]
        return []
    return registers_of(instruction.operands[0])


def _is_result(instruction: Instruction) -> bool:
    return not isinstance(instruction.operands[0], Address)


def allocate(entry: Entry, flow: Flow) -> Slots:
    """A slot for each register that occurs, shared where lifetimes do not overlap."""
    lifetimes = _lifetimes(entry, flow)
    free: dict[int, list[int]] = {}
    counts: dict[int, int] = {}
    of: dict[int, int] = {}
    ending: list[tuple[int, int, int]] = []
    for number, (first, last) in sorted(lifetimes.items(), key=lambda item: item[1]):
        while ending and ending[0][0] < first:
            _, width, slot = heapq.heappop(ending)
            heapq.heappush(free.setdefault(width, []), slot)
        register = entry.registers[number]
        width = WIDTHS.get(register.type, -1)
        if width not in (0, 2, 4, 8):
            raise unsupported(
                1, f".reg .{register.type} {register.name}", f"a register of type {register.type}"
            )
        if free.get(width):
            slot = heapq.heappop(free[width])
        else:
            slot = counts.get(width, 0)
            counts[width] = slot + 1
        of[number] = slot
        heapq.heappush(ending, (last, width, slot))
    return Slots(of, counts)


def _lifetimes(entry: Entry, flow: Flow) -> dict[int, tuple[int, int]]:
    """First and last position of each register in blocks' order, stretched over loops that it survives."""
    positions: dict[int, list[int]] = {}
    read_first: set[int] = set()
    at = 0
    starts = []
    for block in flow.blocks:
        starts.append(at)
        for instruction in entry.instructions[block.start : block.stop]:
            written = {register.number for register in written_registers(instruction)}
            read = {r.number for operand in instruction.operands for r in registers_of(operand)} - written
            results = instruction.operands[:1] if written else ()
            others = instruction.operands[len(results) :]
            read |= {r.number for operand in others for r in registers_of(operand)}
            if instruction.guard is not None:
                read.add(instruction.guard.number)
            for number in read | written:
                if number not in positions:
                    positions[number] = [at, at]
                    if number in read:
                        read_first.add(number)
                        positions[number][0] = 0  # no slot that another register has left a value in
                positions[number][1] = at
            at += 1
    starts.append(at)
    loops = [(starts[start], starts[stop] - 1) for start, stop in reversed(flow.loops)]
    for number, span in positions.items():
        for start, stop in loops:  # inner loops first, so one pass is enough
            if span[1] < start or span[0] > stop:
                continue
            inside = start <= span[0] and span[1] <= stop
            if not inside or number in read_first:
                span[0], span[1] = min(span[0], start), max(span[1], stop)
    return {number: (span[0], span[1]) for number, span in positions.items()}
