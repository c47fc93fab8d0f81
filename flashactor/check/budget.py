"""The instructions of a kernel's main loop, counted in its SASS, against what the tensor cores allow.

On a machine without a GPU this stands for a clock: if the other pipes need fewer cycles than the tensor
cores, they can hide behind them. It says nothing of latencies, nor of bank conflicts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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

CLASSES = (
    ("tensor", r"(HMMA|QMMA)\..*"),
    ("ldmatrix", r"LDSM\..*"),
    ("cp.async", r"LDGSTS\..*"),
    ("exp2", r"MUFU\..*"),
    ("float", r"(FADD|FMUL|FFMA|FMNMX|FMNMX3|FSEL|FSETP|FADD2|FMUL2|FFMA2|HADD2|HFMA2|HMUL2)(\..*)?"),
    ("convert", r"(F2FP|F2F|I2F|F2I|I2FP)(\..*)?"),
    ("shuffle", r"SHFL\..*"),
    ("other", r".*"),
)
"""Kinds of instructions: integer and address arithmetic, moves, barriers and jumps are all ``other``."""


@dataclass(frozen=True, slots=True)
class Pipes:
    """Cycles that one warp instruction keeps a pipe of a multiprocessor's quarter busy (sm_80).

    From the CUDA C++ Programming Guide's table of arithmetic throughput and the A100 whitepaper: a quarter
    multiplies 256 pairs a cycle (m16n8k16 is 2048), has 16 lanes for floats, 16 for conversions to 16 bits
    and 4 for exp2; shared memory gives 128 bytes a cycle to all four quarters, and an ldmatrix.x4 is 512.
    """

    tensor: int = 8
    ldmatrix: int = 16
    exp2: int = 8
    arithmetic: int = 2
    issue: int = 1


A100 = Pipes()


@dataclass(frozen=True, slots=True)
class LoopBudget:
    """One iteration of a warp: a block of keys.

    Attributes:
        counts: instructions by kind.
        ideal: tensor instructions that the two products need.
    """

    counts: Counter[str] = field(hash=False)
    ideal: int

    @property
    def instructions(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def cycles(self, pipes: Pipes = A100) -> dict[str, int]:
        """Cycles that each pipe needs."""
        return {
            "tensor": self.counts["tensor"] * pipes.tensor,
            "shared memory": self.counts["ldmatrix"] * pipes.ldmatrix,
            "exp2": self.counts["exp2"] * pipes.exp2,
            "float": (self.counts["float"] + self.counts["convert"]) * pipes.arithmetic,
            "issue": self.instructions * pipes.issue,
        }

    def tensor_share(self, pipes: Pipes = A100) -> float:
        """Part of the time for which the tensor cores can work on ideal products, if all pipes overlap."""
        return self.ideal * pipes.tensor / max(self.cycles(pipes).values())


@dataclass(slots=True)
class _Block:
    """Instructions that run one after the other, and the blocks that may follow."""

    opcodes: list[str]
    next: list[int] = field(default_factory=list)


def loop_budget(cubin: bytes, ideal: int) -> LoopBudget:
    """The main loop of a forward kernel: the path of an iteration that masks nothing and loads whole tiles.

    Args:
        cubin: of a kernel with one outermost loop around tensor instructions.
        ideal: tensor instructions that an iteration of a warp needs. An inner loop is taken as often as gives
            these.

    Raises:
        CompileError: the code has no such loop, or its tensor instructions do not add up.
    """
    blocks = _blocks(read_cubin("nvdisasm", ("-c", "-ndf"), cubin))
    loop = _main_loop(blocks)
    counts: Counter[str] = Counter()
    inner = [
        edge for edge in _back_edges(blocks) if loop[0] <= edge[0] <= edge[1] <= loop[1] and edge != loop
    ]
    path = _cheapest(blocks, loop)
    for index in path:
        counts.update(map(kind_of, blocks[index].opcodes))
    within = Counter(
        kind_of(opcode)
        for first, last in inner
        for index in path
        if first <= index <= last
        for opcode in blocks[index].opcodes
    )
    missing = ideal - counts["tensor"]
    if missing:
        if not within["tensor"] or missing % within["tensor"]:
            raise _unexpected(f"{counts['tensor']} tensor instructions", f"{ideal}")
        more = missing // within["tensor"]
        counts.update({kind: n * more for kind, n in within.items()})
    return LoopBudget(counts, ideal)


def kind_of(opcode: str) -> str:
    """The kind of an instruction, of CLASSES."""
    return next(kind for kind, pattern in CLASSES if re.fullmatch(pattern, opcode))


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = [_Block([])]
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    falls: list[bool] = []

    def begin(falls_through: bool) -> None:
        falls.append(falls_through)
        blocks.append(_Block([]))

    for line in text.splitlines():
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


def _back_edges(blocks: Sequence[_Block]) -> list[tuple[int, int]]:
    """(first, last) block of each loop, as the text lists them."""
    return [(to, index) for index, block in enumerate(blocks) for to in block.next if to <= index]


def _main_loop(blocks: Sequence[_Block]) -> tuple[int, int]:
    loops = [
        edge
        for edge in _back_edges(blocks)
        if any(kind_of(op) == "tensor" for block in blocks[edge[0] : edge[1] + 1] for op in block.opcodes)
    ]
    if not loops:
        raise _unexpected("no loop around tensor instructions", "one")
    return max(loops, key=lambda edge: edge[1] - edge[0])


def _cheapest(blocks: Sequence[_Block], loop: tuple[int, int]) -> list[int]:
    """The path through the loop with most asynchronous copies; of those, with fewest other instructions."""
    first, last = loop
    cost = {first: _cost(blocks[first])}
    before: dict[int, int] = {}
    for index in range(first, last):
        for to in blocks[index].next:
            if index < to <= last and index in cost:
                through = cost[index] + _cost(blocks[to])
                if through < cost.get(to, inf):
                    cost[to], before[to] = through, index
    path = [last]
    while path[-1] != first:
        if path[-1] not in before:
            raise _unexpected("a loop with no path through it", "one")
        path.append(before[path[-1]])
    return path[::-1]


def _cost(block: _Block) -> int:
    return sum(-1000 if kind_of(opcode) == "cp.async" else 1 for opcode in block.opcodes)


def _unexpected(got: str, expected: str) -> CompileError:
    return CompileError(
        field="SASS",
        got=got,
        expected=expected,
        remedy="read the listing of nvdisasm: the compiler may arrange loops in another way now",
    )
