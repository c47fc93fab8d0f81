"""How control flows through a kernel's SASS: its loops, and the path that an iteration takes through one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from flashactor.check.tools import read_cubin
from flashactor.errors import CompileError

_LABEL = re.compile(r"^\s*(\.L_\w+):")
_INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]+\*/\s+(?P<guard>@!?\w+\s+)?(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>.*?)\s*;"
)
_TARGET = re.compile(r"`\((\.L_\w+)\)")
_JUMPS = ("BRA", "CALL.REL.NOINC")

_WORTH = 1000
"""An opcode that a path is to have, in others."""


@dataclass(slots=True)
class Block:
    """Instructions that run one after the other, and the blocks that may follow."""

    opcodes: list[str]
    next: list[int] = field(default_factory=list)


def blocks_of(cubin: bytes) -> list[Block]:
    """The blocks of a cubin's code, as nvdisasm lists them.

    Raises:
        DeviceUnavailableError: there is no nvdisasm.
        CompileError: nvdisasm does not read this cubin.
    """
    blocks: list[Block] = [Block([])]
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    falls: list[bool] = []

    def begin(falls_through: bool) -> None:
        falls.append(falls_through)
        blocks.append(Block([]))

    for line in read_cubin("nvdisasm", ("-c", "-ndf"), cubin).splitlines():
        if label := _LABEL.match(line):
            begin(falls_through=True)
            labels[label[1]] = len(blocks) - 1
        elif instruction := _INSTRUCTION.match(line):
            opcode = instruction["opcode"]
            blocks[-1].opcodes.append(opcode)
            target = _TARGET.search(instruction["operands"])
            conditional = bool(instruction["guard"]) or (
                target is not None and not instruction["operands"].startswith("`")
            )
            if opcode.startswith(_JUMPS) and target:
                jumps.append((len(blocks) - 1, target[1]))
                begin(falls_through=conditional)
            elif opcode in ("EXIT", "RET") and not conditional:
                begin(falls_through=False)
    falls.append(False)
    for index, (block, falls_through) in enumerate(zip(blocks, falls, strict=True)):
        if falls_through:
            block.next.append(index + 1)
    for index, name in jumps:
        if name in labels:
            blocks[index].next.append(labels[name])
    return blocks


def back_edges(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """(first, last) block of each loop, as the text lists them."""
    return [(to, index) for index, block in enumerate(blocks) for to in block.next if to <= index]


def loops_with(blocks: Sequence[Block], wanted: Callable[[str], bool]) -> list[tuple[int, int]]:
    """The loops that hold an opcode for which ``wanted`` is true.

    Raises:
        CompileError: there is none.
    """
    loops = [
        edge
        for edge in back_edges(blocks)
        if any(wanted(opcode) for block in blocks[edge[0] : edge[1] + 1] for opcode in block.opcodes)
    ]
    if not loops:
        raise unexpected("no loop around tensor instructions", "one")
    return loops


def best_path(blocks: Sequence[Block], loop: tuple[int, int], wanted: Callable[[str], bool]) -> list[int]:
    """The path through a loop with most opcodes for which ``wanted`` is true; of those, the shortest.

    Raises:
        CompileError: no path leads from the loop's first block to its last.
    """
    first, last = loop

    def cost(block: Block) -> int:
        return sum(-_WORTH if wanted(opcode) else 1 for opcode in block.opcodes)

    least = {first: cost(blocks[first])}
    before: dict[int, int] = {}
    for index in range(first, last):
        for to in blocks[index].next:
            if index < to <= last and index in least:
                through = least[index] + cost(blocks[to])
                if through < least.get(to, inf):
                    least[to], before[to] = through, index
    path = [last]
    while path[-1] != first:
        if path[-1] not in before:
            raise unexpected("a loop with no path through it", "one")
        path.append(before[path[-1]])
    return path[::-1]


def unexpected(got: str, expected: str) -> CompileError:
    """The error of code that has another form."""
    return CompileError(
        field="SASS",
        got=got,
        expected=expected,
        remedy="read the listing of nvdisasm: the compiler may arrange loops in another way now",
    )
