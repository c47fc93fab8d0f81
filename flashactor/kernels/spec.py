"""What distinguishes one compiled kernel from another: the cubin's identity, as opposed to the request's."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from flashactor.kernels.params import StructLayout
from flashactor.types import DType, SmArch

Macros = tuple[tuple[str, str], ...]
"""Names and values."""


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

TENSOR_MAP_BYTES = 128
"""Of a CUtensorMap."""

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
    params: ClassVar[StructLayout]
    """The struct that a launch passes, without its tensor maps."""
    tensor_maps: ClassVar[tuple[str, ...]] = ()
    """The tensors whose maps lie at the beginning of the kernel's parameter, in order."""

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
    def macros(self) -> Macros:
        """What the source's Config reads, but for the sizes that host and device must agree on."""

    @property
    def defines(self) -> Macros:
        """The macros that the kernel is compiled with."""
        return (
            *self.macros,
            ("FA_SHARED_BYTES", str(self.shared_bytes)),
            ("FA_PARAMS_BYTES", str(len(self.tensor_maps) * TENSOR_MAP_BYTES + self.params.size)),
        )

    @property
    def bf16(self) -> tuple[str, str]:
        """The macro that tells bf16 from f16."""
        return "FA_BF16", flag(self.dtype is DType.BF16)

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


@dataclass(frozen=True, slots=True)
class TiledSpec(KernelSpec):
    """A kernel of tensor-core products: tiles of padded heads.

    Attributes:
        head_dim, head_dim_v: padded; the real ones are run-time parameters of at most these.
        scores: what happens to scores.
        tile: what a thread block computes.
    """

    head_dim: int
    head_dim_v: int
    scores: Scores
    tile: Tile

    @property
    def threads(self) -> int:
        return self.tile.warps * 32

    @property
    def tile_macros(self) -> Macros:
        """Those of its own fields."""
        return (
            ("FA_SCORES", str(self.scores.value)),
            ("FA_HEAD_DIM", str(self.head_dim)),
            ("FA_HEAD_DIM_V", str(self.head_dim_v)),
            ("FA_TILE_M", str(self.tile.m)),
            ("FA_TILE_N", str(self.tile.n)),
            ("FA_WARPS", str(self.tile.warps)),
        )

    @property
    def head_dims(self) -> tuple[int, ...]:
        return self.head_dim, self.head_dim_v

    @property
    def features(self) -> tuple[str, ...]:
        return (self.kind, *self.scores.features, *(word for word, present in self.flags if present))

    @property
    def flags(self) -> tuple[tuple[str, bool], ...]:
        """Features that it has or has not, besides what happens to scores."""
        return ()

    @property
    def tile_name(self) -> str:
        return str(self.tile)


def flag(value: object) -> str:
    """A macro's value for something that is or is not so."""
    return str(int(bool(value)))
