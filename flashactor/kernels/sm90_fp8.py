"""The wgmma family's forward kernels of fp8 operands, for sm_90a: which specialisation, with which tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

from flashactor.kernels.sm80_fp8 import FP8_TYPES, fp8_reasons
from flashactor.kernels.sm90 import (
    FAMILY,
    HEAD_DIMS,
    ONE,
    TWO,
    HopperSpec,
    HopperTile,
    padded_head_dims,
)
from flashactor.kernels.spec import Macros, Scores, Tile, flag
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.types import DType, SmArch

TRANSPOSED_STAGES = 2
"""Blocks of transposed values that shared memory holds, beside the stages of those that have come."""


@dataclass(frozen=True, slots=True)
class HopperFp8Spec(HopperSpec):
    """A specialisation of sm90/fwd_fp8.cu. ``dtype`` is that of q and k; out's is known at run time.

    Attributes:
        v_dtype: fp8 type of v.
        piece_dims: dims of values that are multiplied at a time.
    """

    kind: ClassVar[str] = "fwd_fp8"
    source: ClassVar[str] = "sm90/fwd_fp8.cu"
    entry: ClassVar[str] = "flash_fwd_fp8_sm90"

    v_dtype: DType
    piece_dims: int

    @property
    def barrier_bytes(self) -> int:
        """As in HopperSpec, and two for each stage of transposed values."""
        return 16 * (self.consumers + 2 * self.stages + TRANSPOSED_STAGES)

    @property
    def tile_bytes(self) -> int:
        """A tile of queries or of 16-bit results for each consumer, the stages, and the transposed values."""
        queries = self.tile.m * max(self.slabbed(self.head_dim), self.slabbed(self.head_dim_v, 2))
        transposed = self.head_dim_v * self.slabbed(self.tile.n)
        return queries + self.stages * self.key_bytes + TRANSPOSED_STAGES * transposed

    @property
    def slab_bytes(self) -> int:
        """One for all: values are transposed before they are multiplied."""
        return 128

    @property
    def macros(self) -> Macros:
        return (
            ("FA_V_E5M2", flag(self.v_dtype is DType.F8E5M2)),
            ("FA_PIECE_DIMS", str(self.piece_dims)),
            *self.stage_macros,
        )

    @property
    def flags(self) -> tuple[tuple[str, bool], ...]:
        return ("v_e5m2", self.v_dtype is DType.F8E5M2), *self.role_flags

    @property
    def for_masks(self) -> HopperFp8Spec:
        """The same: requests without a mask have no tiles of their own."""
        return self


@dataclass(frozen=True, slots=True)
class HopperFp8Tile(HopperTile):
    """A row of a tile table.

    Attributes:
        piece_dims: as in HopperFp8Spec.
    """

    piece_dims: int


FP8_TILES = (
    HopperFp8Tile((64, 64), Tile(128, 128, TWO), 3, "blocks as wide as high: less is masked", 64),
    HopperFp8Tile((96, 96), Tile(128, 128, TWO), 3, "blocks as wide as high: less is masked", 96),
    HopperFp8Tile((128, 128), Tile(128, 128, TWO), 3, "the widest tile with P V as a whole", 128),
    HopperFp8Tile((192, 128), Tile(128, 128, TWO), 3, "the widest tile with P V as a whole", 128),
    HopperFp8Tile((192, 192), Tile(128, 128, TWO), 2, "224 KB", 64),
    HopperFp8Tile((256, 256), Tile(128, 96, TWO), 2, "224 KB; wider pieces spill", 32),
)
"""Also without a mask: wider blocks gain next to nothing by the model, and lose on ragged ends."""

FP8_DECODE_TILES = (
    HopperFp8Tile((64, 64), Tile(64, 128, ONE), 3, "120 KB, of which most is on its way", 64),
    HopperFp8Tile((96, 96), Tile(64, 128, ONE), 3, "136 KB, of which most is on its way", 96),
    HopperFp8Tile((128, 128), Tile(64, 128, ONE), 3, "144 KB, of which most is on its way", 64),
    HopperFp8Tile((192, 128), Tile(64, 128, ONE), 3, "192 KB, of which most is on its way", 64),
    HopperFp8Tile((192, 192), Tile(64, 64, ONE), 3, "168 KB, of which most is on its way", 64),
    HopperFp8Tile((256, 256), Tile(64, 64, ONE), 3, "192 KB, of which most is on its way", 64),
)
"""At most CONSUMER_ROWS packed rows of queries."""

FP8_TILE_TABLES = {
    "fp8 operands": FP8_TILES,
    "fp8 operands, decoding": FP8_DECODE_TILES,
}
"""Every table, by what it is for."""


@lru_cache(maxsize=1024)
def hopper_fp8_spec(
    head_dim: int,
    head_dim_v: int | None = None,
    *,
    v_dtype: DType = DType.F8E4M3,
    scores: Scores = Scores.PLAIN,
    decode: bool = False,
) -> HopperFp8Spec:
    """The forward kernel for e4m3 queries and keys; arguments as of ``hopper_spec``.

    Args:
        v_dtype: fp8 type of v.
    """
    padded = padded_head_dims(head_dim, head_dim if head_dim_v is None else head_dim_v)
    row = next(row for row in (FP8_DECODE_TILES if decode else FP8_TILES) if row.head_dims == padded)
    tile = row.tile, row.stages
    return HopperFp8Spec(FAMILY, SmArch.SM90A, DType.F8E4M3, *padded, scores, *tile, v_dtype, row.piece_dims)


def hopper_fp8_specs(arch: SmArch) -> tuple[HopperFp8Spec, ...]:
    """Every kernel that the tables can choose, each once; wgmma exists on sm_90a alone."""
    if arch is not SmArch.SM90A:
        return ()
    cells = product(HEAD_DIMS, FP8_TYPES, (Scores.PLAIN, Scores.MODIFIED), (False, True))
    found = {
        hopper_fp8_spec(qk, v, v_dtype=v_dtype, scores=scores, decode=decode): None
        for (qk, v), v_dtype, scores, decode in cells
    }
    return tuple(found)


def hopper_fp8_reasons(request: Fa2FwdFp8Request, arch: SmArch) -> tuple[str, ...]:
    """What these kernels lack for a request."""
    reasons = list(fp8_reasons(request, arch))
    if request.kv_dtype is not DType.F8E4M3:
        reasons.append(f"takes k in e4m3, not in {request.kv_dtype.tag}")
    return tuple(reasons)
