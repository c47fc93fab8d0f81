"""What distinguishes one compiled kernel from another: the cubin's identity, as opposed to the request's."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from flashactor.types import DType, SmArch


class Scores(Enum):
    """What a kernel does with scores between its two products; the value is the macro's."""

    PLAIN = 0
    """The mask, and nothing else."""
    MODIFIED = 1
    """Softcap and ALiBi, each if the parameters say so."""
    DROPOUT = 2
    """The same, and dropout."""

    __hash__ = object.__hash__  # Enum's own is a Python function, and specifications are hashed a lot

    @property
    def features(self) -> tuple[str, ...]:
        """In words that commands take."""
        return ("plain", "modified", "dropout")[self.value :][:1]


@dataclass(frozen=True, slots=True)
class Tile:
    """What a thread block computes at a time.

    Attributes:
        m, n: queries and keys.
        warps: warps of a thread block.
        key_warps: warps that share the keys of the same rows: 1, or all of them.
    """

    m: int
    n: int
    warps: int
    key_warps: int = 1

    def __str__(self) -> str:
        return f"{self.m}x{self.n}w{self.warps}" + ("k" if self.key_warps > 1 else "")


DTYPES = (DType.F16, DType.BF16)
"""Element types of kernels whose operands are not fp8."""

COMMON = "common"
"""The family of kernels that every implementation may launch."""


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One specialisation of a kernel source: only what changes the machine code.

    Attributes:
        family: name of the implementation that it belongs to, or COMMON.
        arch: architecture that it is compiled for.
        dtype: element type of q and of what it writes, unless that is fp8.
    """

    family: str
    arch: SmArch
    dtype: DType

    kind: ClassVar[str]
    """Which of the family's kernels it is: ``fwd``, ``combine``, ..."""
    source: ClassVar[str]
    """File below kernels_cu/ that defines the kernel."""
    entry: ClassVar[str]
    """The kernel's symbol in the cubin."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Threads of a block."""

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return 0

    @property
    @abstractmethod
    def defines(self) -> tuple[tuple[str, str], ...]:
        """The macros that the source's Config reads."""

    @property
    def head_dims(self) -> tuple[int, ...]:
        """The padded head_dim of q and k, and that of v; empty where the kernel takes any."""
        return ()

    @property
    def features(self) -> tuple[str, ...]:
        """What it was compiled to compute, in words that commands take, the kind among them."""
        return (self.kind,)

    @property
    def tile_name(self) -> str:
        """The tile, as labels spell it; empty where there is none."""
        return ""

    @property
    def label(self) -> str:
        """A name for people, unique among specs: ``sm80_mma.fwd.bf16.d128.plain.128x64w4.sm_80``."""
        head_dims = ""
        if self.head_dims:
            qk, v = self.head_dims
            head_dims = f"d{qk}" if qk == v else f"d{qk}v{v}"
        words = [feature for feature in self.features if feature != self.kind]
        parts = (self.family, self.kind, self.dtype.tag, head_dims, *words, self.tile_name, self.arch.target)
        return ".".join(part for part in parts if part)


def flag(value: object) -> str:
    """A macro's value for something that is or is not so."""
    return str(int(bool(value)))
