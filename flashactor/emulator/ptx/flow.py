"""Basic blocks, and the order in which diverged lanes of a warp run them.

The lanes whose block comes first in the order run first. In a weak topological order (Bourdoncle 1993,
"Efficient chaotic iteration strategies with widenings", section 4) a join follows all that leads to it, and
what follows a loop comes after the whole loop: so lanes wait for each other at the post-dominator of the
branch that parted them, as they do on the hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flashactor.emulator.faults import unsupported_instruction
from flashactor.emulator.ptx.module import Entry, Instruction, Label

# An instruction after which the scheduler decides anew: lanes may part, wait, or leave.
_BOUNDARIES = frozenset({"bra", "ret", "exit", "trap", "bar", "barrier"})

_OF_WARPGROUPS = ("wgmma", "setmaxnreg")


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions that run without a decision of the scheduler, ``[start, stop)``.

    Attributes:
        start, stop: range of the entry's instructions.
        successors: positions of the blocks that may follow, ``len(blocks)`` for the end.
        needs_warpgroup: whether the four warps of a warpgroup must run it together.
    """

    start: int
    stop: int
    successors: tuple[int, ...]
    needs_warpgroup: bool


def is_wait(instruction: Instruction) -> bool:
    """Whether the instruction waits for an mbarrier's phase, or for registers."""
    if instruction.opcode == "setmaxnreg":
        return "inc" in instruction.modifiers
    return instruction.opcode == "mbarrier" and instruction.modifiers[0] in ("try_wait", "test_wait")


def ends_block(instruction: Instruction) -> bool:
    """Whether the scheduler decides anew after this instruction."""
    if instruction.opcode in ("bar", "barrier"):
        return "warp" not in instruction.modifiers
    return instruction.opcode in _BOUNDARIES or is_wait(instruction)


@dataclass(frozen=True, slots=True)
class Flow:
    """The control flow of an entry.

    Attributes:
        blocks: the basic blocks in weak topological order; unreachable ones are left out.
        loops: the position ranges ``[start, stop)`` of the loops, outer before inner.
    """

    blocks: tuple[Block, ...]
    loops: tuple[tuple[int, int], ...]


def flow_of(entry: Entry) -> Flow:
    """The basic blocks of an entry and their order."""
    ranges = _ranges(entry.instructions)
    at = {start: index for index, (start, _) in enumerate(ranges)}
    end = len(ranges)
    successors = [_successors(entry.instructions[stop - 1], stop, at, end) for _, stop in ranges]
    order, loops = _weak_topological_order(successors, end)
    position = {block: index for index, block in enumerate(order)} | {end: len(order)}
    blocks = tuple(
        Block(
            start=ranges[block][0],
            stop=ranges[block][1],
            successors=tuple(position[next_] for next_ in successors[block]),
            needs_warpgroup=entry.instructions[ranges[block][0]].opcode in _OF_WARPGROUPS,
        )
        for block in order
    )
    return Flow(blocks, loops)


def _ranges(instructions: list[Instruction]) -> list[tuple[int, int]]:
    starts = {0}
    for index, instruction in enumerate(instructions):
        starts |= {operand.target for operand in instruction.operands if isinstance(operand, Label)}
        if ends_block(instruction):
            starts.add(index + 1)
        if is_wait(instruction):
            starts.add(index)
        before = instructions[index - 1].opcode if index else ""
        if (instruction.opcode in _OF_WARPGROUPS) != (before in _OF_WARPGROUPS):
            starts.add(index)
    ordered = sorted(start for start in starts if start < len(instructions))
    return list(zip(ordered, [*ordered[1:], len(instructions)], strict=True))


def _successors(last: Instruction, stop: int, at: dict[int, int], end: int) -> tuple[int, ...]:
    """(next,) or (next if not taken, target if taken)."""
    following = at.get(stop, end)
    if last.opcode == "bra":
        label = last.operands[0] if last.operands else None
        if not isinstance(label, Label):
            raise unsupported_instruction(last, "a branch to other than a label")
        target = at.get(label.target, end)
        return (target,) if last.guard is None else (following, target)
    if last.opcode in ("ret", "exit", "trap"):
        return (end,) if last.guard is None else (following, end)
    return (following,)


def _weak_topological_order(
    successors: list[tuple[int, ...]], end: int
) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    order: list[int] = []
    loops: list[tuple[int, int]] = []

    def place(members: set[int], roots: list[int]) -> None:
        for component in _components(successors, members, roots):
            head, start = component[0], len(order)
            order.append(head)
            if len(component) > 1 or head in successors[head]:
                loops.append((start, start + len(component)))
                place(set(component) - {head}, [*successors[head], *component[1:]])

    place(set(range(end)), [0])
    return order, tuple(loops)


def _components(successors: list[tuple[int, ...]], members: set[int], roots: list[int]) -> list[list[int]]:
    """Strongly connected components of what the roots reach (Tarjan 1972), in topological order.

    Each begins with the block that was visited first, which is where it is entered.
    """
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    found: list[list[int]] = []

    def enter(block: int) -> None:
        number[block] = low[block] = len(number)
        stack.append(block)
        work.append((block, iter(successors[block])))

    for root in roots:
        work: list[tuple[int, Iterator[int]]] = []
        if root in members and root not in number:
            enter(root)
        while work:
            block, following = work[-1]
            for next_ in following:
                if next_ not in members:
                    continue
                if next_ not in number:
                    enter(next_)
                    break
                if next_ in stack:
                    low[block] = min(low[block], number[next_])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[block])
                if low[block] == number[block]:
                    at = stack.index(block)
                    found.append(stack[at:])
                    del stack[at:]
    return found[::-1]
