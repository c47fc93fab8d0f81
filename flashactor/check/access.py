"""Accesses to memory that may take more than the fewest transactions, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from flashactor.emulator import MemoryLine


@dataclass(frozen=True, slots=True)
class Waste:
    """A row of the table.

    Attributes:
        file: the CUDA source that the access is in.
        space: ``shared`` or ``global``.
        instruction: how its text begins.
        factor: by how much it may exceed the fewest transactions.
        reason: why.
    """

    file: str
    space: str
    instruction: str
    factor: int
    reason: str


WASTE = (
    Waste(
        "sm80/staging.cuh",
        "shared",
        "st.shared.v4.b32",
        2,
        "of rows of 96 or 192 elements four chunks are swizzled, and a thread stores two neighbours of them",
    ),
    Waste(
        "sm90/fwd_store.cuh",
        "shared",
        "ld.shared.v4.b32",
        2,
        "rows of 96 elements are no whole slabs of 128 bytes: eight threads read two slabs at the same banks",
    ),
    Waste(
        "common/combine.cu",
        "global",
        "ld.global.nc.v4.f32",
        2,
        "both halves of a sector, one load after the other: L1 serves the second",
    ),
)
"""All that `flashactor check` lets pass."""


def allowed_transactions(line: MemoryLine) -> int:
    """The most transactions that an instruction may take."""
    for row in WASTE:
        where = line.cuda_line or ""
        if row.space == line.space and row.file in where and line.instruction.startswith(row.instruction):
            return line.ideal * row.factor
    return line.ideal
