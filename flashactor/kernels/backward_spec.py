"""The mma.sync family's backward kernels: which specialisations there are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import product
from typing import ClassVar

from flashactor.kernels.backward_params import BWD_PARAMS, REDUCE_PARAMS
from flashactor.kernels.backward_tiles import BLACKWELL, DKDV_TILES, DQ_TILES, tile_row
from flashactor.kernels.params import StructLayout
from flashactor.kernels.sm80 import FAMILY, HEAD_DIMS, padded_head_dims
from flashactor.kernels.spec import DTYPES, KernelSpec, Macros, Scores, Tile, TiledSpec, flag
from flashactor.types import DType, SmArch

STAT_ROWS = 128
"""Rows of the workspace's tiles: kStatRows of common/bwd_params.cuh."""

REDUCE_WARPS = 4
PREPROCESS_WARPS = 8
CONVERT_WARPS = 4


class DkdvOutputs(Enum):
    """What one launch of sm80/bwd_dkdv.cu accumulates; the value is the macro's."""

    DK = 1
    DV = 2
    BOTH = 3

    __hash__ = object.__hash__  # Enum's own is a Python function, and specifications are hashed a lot

    @property
    def word(self) -> str:
        """In labels."""
        return {1: "dk", 2: "dv", 3: "dkdv"}[self.value]


@dataclass(frozen=True, slots=True)
class PreprocessSpec(KernelSpec):
    """A specialisation of sm80/bwd_preprocess.cu."""

    kind: ClassVar[str] = "bwd_preprocess"
    source: ClassVar[str] = "sm80/bwd_preprocess.cu"
    entry: ClassVar[str] = "flash_bwd_preprocess_sm80"
    params: ClassVar[StructLayout] = BWD_PARAMS

    @property
    def threads(self) -> int:
        return PREPROCESS_WARPS * 32

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            ("FA_WARPS", str(PREPROCESS_WARPS)),
        )


@dataclass(frozen=True, slots=True)
class ReduceSpec(KernelSpec):
    """sm80/bwd_reduce.cu, which sums float32 whatever the request's type is."""

    kind: ClassVar[str] = "bwd_reduce"
    source: ClassVar[str] = "sm80/bwd_reduce.cu"
    entry: ClassVar[str] = "flash_bwd_reduce_sm80"
    params: ClassVar[StructLayout] = REDUCE_PARAMS

    @property
    def threads(self) -> int:
        return REDUCE_WARPS * 32

    @property
    def macros(self) -> Macros:
        # The sources do not read the type; it gives each type's kernel a cubin of its own, as its label says.
        return (
            self.bf16,
            ("FA_WARPS", str(REDUCE_WARPS)),
        )


@dataclass(frozen=True, slots=True)
class ConvertSpec(KernelSpec):
    """A specialisation of sm80/bwd_convert.cu.

    Attributes:
        head_dim: padded head_dim of the kernel that accumulates dq.
    """

    kind: ClassVar[str] = "bwd_convert"
    source: ClassVar[str] = "sm80/bwd_convert.cu"
    entry: ClassVar[str] = "flash_bwd_convert_sm80"
    params: ClassVar[StructLayout] = BWD_PARAMS

    head_dim: int

    @property
    def threads(self) -> int:
        return CONVERT_WARPS * 32

    @property
    def tile(self) -> Tile:
        """The queries of a block, a warp for each m16 tile of them."""
        return Tile(16 * CONVERT_WARPS, 0, CONVERT_WARPS)

    @property
    def shared_bytes(self) -> int:
        """Room for a tile of dq."""
        return self.tile.m * self.head_dim * self.dtype.size_in_bytes

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            ("FA_HEAD_DIM", str(self.head_dim)),
            ("FA_TILE_M", str(self.tile.m)),
            ("FA_WARPS", str(CONVERT_WARPS)),
        )

    @property
    def head_dims(self) -> tuple[int, ...]:
        return self.head_dim, self.head_dim

    @property
    def tile_name(self) -> str:
        return f"{self.tile.m}w{CONVERT_WARPS}"


@dataclass(frozen=True, slots=True)
class DqSpec(TiledSpec):
    """A specialisation of sm80/bwd_dq.cu.

    Attributes:
        tile: the queries of a block, and the keys of a step.
        stages: tiles of k and v that shared memory holds.
    """

    kind: ClassVar[str] = "bwd_dq"
    source: ClassVar[str] = "sm80/bwd_dq.cu"
    entry: ClassVar[str] = "flash_bwd_dq_sm80"
    params: ClassVar[StructLayout] = BWD_PARAMS

    stages: int

    @property
    def shared_bytes(self) -> int:
        """Room for q and dout, and for the stages of k and v."""
        rows = self.tile.m + self.stages * self.tile.n
        return rows * (self.head_dim + self.head_dim_v) * self.dtype.size_in_bytes

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            *self.tile_macros,
            ("FA_STAGES", str(self.stages)),
        )

    @property
    def tile_name(self) -> str:
        return f"{self.tile}s{self.stages}"


@dataclass(frozen=True, slots=True)
class DkdvSpec(TiledSpec):
    """A specialisation of sm80/bwd_dkdv.cu.

    Attributes:
        tile: the keys of a block (n), and the queries of a step (m).
        stages: tiles of q and dout that shared memory holds.
        outputs: what it accumulates.
        adds_dq: whether it also adds to dq, in no fixed order.
    """

    kind: ClassVar[str] = "bwd_dkdv"
    source: ClassVar[str] = "sm80/bwd_dkdv.cu"
    entry: ClassVar[str] = "flash_bwd_dkdv_sm80"
    params: ClassVar[StructLayout] = BWD_PARAMS

    stages: int
    outputs: DkdvOutputs
    adds_dq: bool

    @property
    def shared_bytes(self) -> int:
        """Room for k and v, for the stages of q, dout and two floats of each query, and for dS."""
        size = self.dtype.size_in_bytes
        head_dim_v = self.head_dim_v if self.outputs is not DkdvOutputs.DV else 0
        keys = self.tile.n * (self.head_dim + head_dim_v) * size
        queries = self.stages * self.tile.m * ((self.head_dim + self.head_dim_v) * size + 8)
        return keys + queries + self.adds_dq * self.tile.m * self.tile.n * size

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            *self.tile_macros,
            ("FA_STAGES", str(self.stages)),
            ("FA_OUTPUTS", str(self.outputs.value)),
            ("FA_DQ_ATOMIC", flag(self.adds_dq)),
        )

    @property
    def flags(self) -> tuple[tuple[str, bool], ...]:
        return (self.outputs.word, True), ("atomic", self.adds_dq)

    @property
    def tile_name(self) -> str:
        return f"{self.tile}s{self.stages}"


def _outputs(arch: SmArch, head_dim: int, scores: Scores) -> tuple[DkdvOutputs, ...]:
    """One launch where the accumulators of dk and dv fit into registers together, else two."""
    spills = arch in BLACKWELL and scores is not Scores.PLAIN
    if head_dim < 128 or (head_dim == 128 and not spills):
        return (DkdvOutputs.BOTH,)
    return DkdvOutputs.DK, DkdvOutputs.DV


@dataclass(frozen=True, slots=True)
class BackwardSpecs:
    """The kernels of one backward pass, in the order of their launches.

    Attributes:
        preprocess: what each row needs before it meets keys.
        dkdv: one kernel, or one for each of dk and dv.
        dq: a DqSpec, or in the fast mode a ConvertSpec.
        reduce: sums of partial sums, launched where a gradient of sinks or slopes is asked for.
    """

    preprocess: PreprocessSpec
    dkdv: tuple[DkdvSpec, ...]
    dq: DqSpec | ConvertSpec
    reduce: ReduceSpec

    @property
    def all(self) -> tuple[KernelSpec, ...]:
        """All of them."""
        return (self.preprocess, *self.dkdv, self.dq, self.reduce)


@lru_cache(maxsize=1024)
def backward_specs(
    arch: SmArch, dtype: DType, head_dim: int, head_dim_v: int, scores: Scores, *, deterministic: bool
) -> BackwardSpecs:
    """The kernels for valid operands: head_dims are padded to the least pair of HEAD_DIMS that holds them.

    Args:
        arch: the architecture.
        dtype: f16 or bf16.
        head_dim, head_dim_v: those of the operands.
        scores: what happens to scores.
        deterministic: whether equal inputs must give equal bits; if not, dq is summed with atomic additions.
    """
    padded, padded_v = padded_head_dims(head_dim, head_dim_v)
    common = (FAMILY, arch, dtype)
    keys, queries = tile_row(DKDV_TILES, padded, arch), tile_row(DQ_TILES, padded, arch)
    dkdv = tuple(
        DkdvSpec(
            *common,
            padded,
            padded_v,
            scores,
            keys.tile,
            keys.stages,
            output,
            adds_dq=not deterministic and output is not DkdvOutputs.DV,
        )
        for output in _outputs(arch, padded, scores)
    )
    return BackwardSpecs(
        preprocess=PreprocessSpec(*common),
        dkdv=dkdv,
        dq=(
            DqSpec(*common, padded, padded_v, scores, queries.tile, queries.stages)
            if deterministic
            else ConvertSpec(*common, padded)
        ),
        reduce=ReduceSpec(*common),
    )


def all_backward_specs(arch: SmArch) -> tuple[KernelSpec, ...]:
    """Every kernel that the tables can choose, each once."""
    cells = product(DTYPES, HEAD_DIMS, Scores, (True, False))
    specs = (
        spec
        for dtype, (head_dim, head_dim_v), scores, deterministic in cells
        for spec in backward_specs(arch, dtype, head_dim, head_dim_v, scores, deterministic=deterministic).all
    )
    return tuple(dict.fromkeys(specs))
