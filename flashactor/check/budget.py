"""The instructions of a kernel's main loop, counted in its SASS, against what the tensor cores allow.

On a machine without a GPU this stands for a clock: if the other pipes need fewer cycles than the tensor
cores, they can hide behind them. It says nothing of latencies, nor of bank conflicts.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from flashactor.check.sass_flow import back_edges, best_path, blocks_of, loops_with, unexpected

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


def loop_budget(cubin: bytes, ideal: int) -> LoopBudget:
    """The main loop of a forward kernel: the path of an iteration that masks nothing and loads whole tiles.

    Args:
        cubin: of a kernel with one outermost loop around tensor instructions.
        ideal: tensor instructions that an iteration of a warp needs. An inner loop is taken as often as gives
            these.

    Raises:
        CompileError: the code has no such loop, or its tensor instructions do not add up.
    """
    blocks = blocks_of(cubin)
    loop = max(loops_with(blocks, _is_tensor), key=lambda edge: edge[1] - edge[0])
    counts: Counter[str] = Counter()
    inner = [edge for edge in back_edges(blocks) if loop[0] <= edge[0] <= edge[1] <= loop[1] and edge != loop]
    path = best_path(blocks, loop, lambda opcode: kind_of(opcode) == "cp.async")
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
            raise unexpected(f"{counts['tensor']} tensor instructions", f"{ideal}")
        more = missing // within["tensor"]
        counts.update({kind: n * more for kind, n in within.items()})
    return LoopBudget(counts, ideal)


def kind_of(opcode: str) -> str:
    """The kind of an instruction, of CLASSES."""
    return next(kind for kind, pattern in CLASSES if re.fullmatch(pattern, opcode))


def _is_tensor(opcode: str) -> bool:
    return kind_of(opcode) == "tensor"
