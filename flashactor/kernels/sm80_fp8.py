"""The mma.sync family's forward kernels of fp8 operands: which specialisation, with which tile.

They run on every architecture whose tensor cores multiply fp8, from sm_89 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

from flashactor.kernels.params import FWD_PARAMS, StructLayout
from flashactor.kernels.sm80 import FAMILY, HEAD_DIMS, TileChoice, padded_head_dims
from flashactor.kernels.spec import Macros, Scores, Tile, TiledSpec, flag
from flashactor.requests import AttentionRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.types import DType, SmArch

FP8_TYPES = (DType.F8E4M3, DType.F8E5M2)
ARCHS = tuple(arch for arch in SmArch if arch.supports_fp8)
ROW_ELEMENTS = 16
"""Elements of a 16-byte chunk: rows of q, k and v are whole chunks."""


@dataclass(frozen=True, slots=True)
class Fp8ForwardSpec(TiledSpec):
    """A specialisation of sm80/fwd_fp8.cu. ``dtype`` is q's; which 16-bit type out has is known at run time.

    Attributes:
        k_dtype, v_dtype: fp8 types of k and v.
    """

    kind: ClassVar[str] = "fwd_fp8"
    source: ClassVar[str] = "sm80/fwd_fp8.cu"
    entry: ClassVar[str] = "flash_fwd_fp8_sm80"
    params: ClassVar[StructLayout] = FWD_PARAMS

    k_dtype: DType
    v_dtype: DType

    @property
    def shared_bytes(self) -> int:
        """Room for a tile each of q, k and v; in the end for what warps that share rows merge."""
        tile = self.tile
        tiles = tile.m * self.head_dim + tile.n * (self.head_dim + self.head_dim_v)
        if tile.key_warps == 1:
            return tiles
        # MergeSpace of fwd_output.cuh: float32 rows of 16 more, a maximum and a sum for each.
        return max(tiles, tile.key_warps * tile.m * ((self.head_dim_v + 16) * 4 + 8))

    @property
    def macros(self) -> Macros:
        return (
            ("FA_K_E5M2", flag(self.k_dtype is DType.F8E5M2)),
            ("FA_V_E5M2", flag(self.v_dtype is DType.F8E5M2)),
            *self.tile_macros,
            ("FA_KEY_WARPS", str(self.tile.key_warps)),
        )

    @property
    def flags(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("k_e5m2", self.k_dtype is DType.F8E5M2),
            ("v_e5m2", self.v_dtype is DType.F8E5M2),
            ("decode", self.tile.key_warps > 1),
        )


_NATIVE = (SmArch.SM89, SmArch.SM120)
"""On these, mma.sync of fp8 is one instruction. On the others the assembler makes it conversions to f16 and
products of f16, which take registers for the converted fragments, and therefore smaller tiles."""
_CONVERTING = tuple(arch for arch in ARCHS if arch not in _NATIVE)

FP8_TILES = (
    TileChoice(32, ARCHS, Tile(128, 64, 4), "128 keys spill where scores are modified"),
    TileChoice(64, _NATIVE, Tile(128, 128, 8), "with dropout, 64 keys spill in 4 warps"),
    TileChoice(64, _CONVERTING, Tile(128, 96, 8), "4 warps spill, and so do 64 keys with dropout"),
    TileChoice(96, _NATIVE, Tile(128, 128, 8), "one m16 tile a warp; 4 warps spill"),
    TileChoice(96, _CONVERTING, Tile(128, 64, 8), "128 keys spill"),
    TileChoice(128, _NATIVE, Tile(128, 96, 8), "128 keys spill with dropout"),
    TileChoice(128, _CONVERTING, Tile(128, 64, 8), "128 keys spill"),
    TileChoice(192, _NATIVE, Tile(128, 96, 8), "128 keys spill where scores are modified"),
    TileChoice(192, _CONVERTING, Tile(128, 32, 8), "64 keys spill"),
    TileChoice(256, _NATIVE, Tile(128, 64, 8), "96 keys spill"),
    TileChoice(256, _CONVERTING, Tile(128, 32, 8), "64 keys spill"),
)
"""One row for each padded head_dim and architecture. Registers are the limit, not shared memory."""

FP8_DROPOUT_TILES = (
    TileChoice(32, (SmArch.SM100,), Tile(128, 64, 8), "four warps spill with dropout"),
    TileChoice(256, (SmArch.SM90A,), Tile(128, 64, 8), "with dropout 32 keys spill, and 64 do not"),
)
"""Tiles for dropout where they are others."""

FP8_DECODE_TILES = (
    *(
        TileChoice(head_dim, ARCHS, Tile(16, 128, 4, 4), "32 keys a warp, which one product takes")
        for head_dim in (32, 64, 96, 128, 192)
    ),
    TileChoice(
        256,
        tuple(arch for arch in ARCHS if arch is not SmArch.SM90A),
        Tile(16, 128, 4, 4),
        "32 keys a warp, which spill on sm_90a: it takes the tile for many rows",
    ),
)
"""Tiles for at most DECODE_ROWS packed rows of queries."""

_CHOICE = {
    (decode, row.head_dim, arch): row.tile
    for decode, table in ((False, FP8_TILES), (True, FP8_DECODE_TILES))
    for row in table
    for arch in row.archs
}
_DROPOUT_CHOICE = {(row.head_dim, arch): row.tile for row in FP8_DROPOUT_TILES for arch in row.archs}


@lru_cache(maxsize=1024)
def fp8_forward_spec(
    arch: SmArch,
    head_dim: int,
    head_dim_v: int | None = None,
    *,
    k_dtype: DType = DType.F8E4M3,
    v_dtype: DType = DType.F8E4M3,
    scores: Scores = Scores.PLAIN,
    decode: bool = False,
) -> Fp8ForwardSpec:
    """The forward kernel for e4m3 queries; head_dims are padded to the least of HEAD_DIMS that holds them.

    Dropout is for training: it has no decode tile.
    """
    padded, padded_v = padded_head_dims(head_dim, head_dim if head_dim_v is None else head_dim_v)
    dropout = scores is Scores.DROPOUT
    tile = _CHOICE[False, padded, arch]
    if decode and not dropout:
        tile = _CHOICE.get((True, padded, arch), tile)
    if dropout:
        tile = _DROPOUT_CHOICE.get((padded, arch), tile)
    return Fp8ForwardSpec(FAMILY, arch, DType.F8E4M3, padded, padded_v, scores, tile, k_dtype, v_dtype)


def fp8_forward_specs(arch: SmArch) -> tuple[Fp8ForwardSpec, ...]:
    """Every kernel that the tables can choose, each once; none where fp8 is not multiplied."""
    if arch not in ARCHS:
        return ()
    cells = product(HEAD_DIMS, FP8_TYPES, FP8_TYPES, Scores, (False, True))
    found = {
        fp8_forward_spec(arch, qk, v, k_dtype=k_dtype, v_dtype=v_dtype, scores=scores, decode=decode): None
        for (qk, v), k_dtype, v_dtype, scores, decode in cells
    }
    return tuple(found)


def row_reasons(request: AttentionRequest) -> list[str]:
    """Why rows of fp8 keys or values cannot be copied whole."""
    head_dims = {"head_dim": request.head_dim, "head_dim_v": request.head_dim_v}
    return [
        f"loads fp8 rows in {ROW_ELEMENTS} bytes, and {name} is {value}"
        for name, value in head_dims.items()
        if value % ROW_ELEMENTS
    ]


def fp8_reasons(request: Fa2FwdFp8Request, arch: SmArch) -> tuple[str, ...]:
    """What these kernels lack for a request."""
    reasons = []
    if not arch.supports_fp8:
        reasons.append(f"{arch.target} does not multiply fp8")
    if request.dtype is not DType.F8E4M3:
        reasons.append(f"takes q in e4m3, not in {request.dtype.tag}")
    reasons += row_reasons(request)
    for name in ("q_scale", "k_scale"):
        scale = getattr(request, name)
        if isinstance(scale, int | float) and scale <= 0.0:
            reasons.append(f"takes descales of q and k that are positive, and {name} is {scale:g}")
    return tuple(reasons)
