"""The mma.sync family's forward kernels: which specialisation, with which tile. It runs from sm_80 on.

wgmma exists on sm_90a alone and does not run on Blackwell, so until an architecture has a family of its own,
this one serves it, whatever generation a request names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

from flashactor.kernels.params import FWD_PARAMS, StructLayout
from flashactor.kernels.spec import DTYPES, Macros, Scores, Tile, TiledSpec, flag
from flashactor.types import DType, SmArch

FAMILY = "sm80_mma"
HEAD_DIMS = ((32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256))
"""Padded head_dims of q and k, and of v. Others run in the least of these that holds them."""

SHARED_BYTES_PER_BLOCK = {
    SmArch.SM80: 163 * 1024,
    SmArch.SM86: 99 * 1024,
    SmArch.SM89: 99 * 1024,
    SmArch.SM90A: 227 * 1024,
    SmArch.SM100: 227 * 1024,
    SmArch.SM120: 99 * 1024,
}
"""The most that a block may have (CUDA C++ Programming Guide, compute capabilities)."""


@dataclass(frozen=True, slots=True)
class ForwardSpec(TiledSpec):
    """A specialisation of sm80/fwd.cu.

    Attributes:
        paged: whether keys are found through a page table.
        fp8_kv: whether keys and values are fp8 and become ``dtype`` on the way in.
    """

    kind: ClassVar[str] = "fwd"
    source: ClassVar[str] = "sm80/fwd.cu"
    entry: ClassVar[str] = "flash_fwd_sm80"
    params: ClassVar[StructLayout] = FWD_PARAMS

    paged: bool
    fp8_kv: bool

    @property
    def shared_bytes(self) -> int:
        """Room for a tile each of q, k and v, and of k and v as they come where they are fp8."""
        widest = max(self.head_dim, self.head_dim_v)
        keys = self.tile.n * (self.head_dim + self.head_dim_v)
        return (self.tile.m * widest + keys) * self.dtype.size_in_bytes + keys * self.fp8_kv

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            *self.tile_macros,
            ("FA_PAGED", flag(self.paged)),
            ("FA_FP8_KV", flag(self.fp8_kv)),
            ("FA_KEY_WARPS", str(self.tile.key_warps)),
        )

    @property
    def flags(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("paged", self.paged),
            ("fp8_kv", self.fp8_kv),
            ("decode", self.tile.key_warps > 1),
        )


@dataclass(frozen=True, slots=True)
class TileChoice:
    """A row of a tile table.

    Attributes:
        head_dim: padded head_dim of q and k that it is for.
        archs: architectures that it is for.
        tile: the tile.
        reason: why these numbers.
    """

    head_dim: int
    archs: tuple[SmArch, ...]
    tile: Tile
    reason: str


_ALL = tuple(SmArch)
_LARGE_SHARED = (SmArch.SM80, SmArch.SM90A, SmArch.SM100)
_SMALL_SHARED = (SmArch.SM86, SmArch.SM89, SmArch.SM120)
_BLACKWELL = (SmArch.SM100, SmArch.SM120)
_UP_TO_SM90 = tuple(arch for arch in SmArch if arch not in _BLACKWELL)
_UP_TO_SM100 = tuple(arch for arch in SmArch if arch is not SmArch.SM120)
_NEWER = tuple(arch for arch in SmArch if arch is not SmArch.SM80)

TILES = (
    TileChoice(32, _UP_TO_SM90, Tile(128, 128, 4), "S takes half of the registers: two blocks an SM"),
    TileChoice(32, _BLACKWELL, Tile(128, 64, 4), "128 keys spill there"),
    TileChoice(64, _UP_TO_SM100, Tile(128, 96, 4), "the widest tile_n without a spill in either type"),
    TileChoice(64, (SmArch.SM120,), Tile(128, 64, 4), "96 keys spill there"),
    TileChoice(96, _UP_TO_SM90, Tile(128, 64, 4), "two blocks an SM also where it has 100 KB"),
    TileChoice(96, _BLACKWELL, Tile(128, 64, 8), "4 warps spill there"),
    TileChoice(
        128, (SmArch.SM80,), Tile(128, 64, 4), "32 rows a warp: a fragment of K or V serves two products"
    ),
    TileChoice(128, _NEWER, Tile(128, 128, 8), "one m16 tile a warp; 128x64 with 4 warps spills on sm_90a"),
    TileChoice(192, _ALL, Tile(128, 64, 8), "the last with 128 rows where a block has 99 KB"),
    TileChoice(256, _LARGE_SHARED, Tile(128, 64, 8), "128 rows where shared memory allows"),
    TileChoice(256, _SMALL_SHARED, Tile(64, 64, 4), "64 rows fit into 99 KB"),
)
"""Plain scores, keys in rows: one row for each padded head_dim and architecture. `flashactor check` compiles
every kernel and allows no spill."""

VARIANT_TILES = (
    TileChoice(32, _ALL, Tile(128, 64, 4), "quick to compile"),
    TileChoice(64, _ALL, Tile(128, 64, 4), "with 96 keys, softcap over pages spills"),
    TileChoice(96, _ALL, Tile(128, 64, 8), "pages, softcap, ALiBi and dropout need registers of their own"),
    TileChoice(128, _ALL, Tile(128, 64, 8), "with 4 warps or 128 keys it spills, or takes long to compile"),
    TileChoice(192, _ALL, Tile(128, 64, 8), "the last with 128 rows where a block has 99 KB"),
    TileChoice(256, _LARGE_SHARED, Tile(128, 64, 8), "128 rows where shared memory allows"),
    TileChoice(256, _SMALL_SHARED, Tile(64, 32, 4), "64 keys fit, but spill on sm_120a"),
)
"""Scores that are modified, or keys in pages."""

FP8_KV_TILES = (
    *(row for row in VARIANT_TILES if row.head_dim <= 128),
    TileChoice(192, _ALL, Tile(64, 32, 4), "room for keys and values in 8 bits beside those in 16"),
    TileChoice(256, _ALL, Tile(64, 32, 4), "room for keys and values in 8 bits beside those in 16"),
)
"""Keys and values in fp8."""

DECODE_TILES = (
    TileChoice(32, _ALL, Tile(16, 128, 4, 4), "few rows: the warps share the keys"),
    TileChoice(64, _ALL, Tile(16, 128, 4, 4), "few rows: the warps share the keys"),
    TileChoice(96, _ALL, Tile(16, 64, 4, 4), "as many bytes in flight as with 64 and 128 keys"),
    TileChoice(128, _ALL, Tile(16, 64, 4, 4), "36 KB: two to four blocks an SM"),
    TileChoice(192, _ALL, Tile(16, 64, 4, 4), "one m16 tile for all warps"),
    TileChoice(256, _ALL, Tile(16, 64, 4, 4), "one m16 tile for all warps"),
)
"""At most DECODE_ROWS packed rows of queries."""

FP8_KV_DECODE_TILES = (
    TileChoice(32, _ALL, Tile(16, 128, 4, 4), "few rows: the warps share the keys"),
    TileChoice(64, _ALL, Tile(16, 64, 4, 4), "128 keys spill"),
    TileChoice(96, _ALL, Tile(16, 64, 4, 4), "39 KB: two to four blocks an SM"),
    TileChoice(128, _ALL, Tile(16, 64, 4, 4), "52 KB: one to three blocks an SM"),
    TileChoice(192, _ALL, Tile(16, 64, 4, 4), "one m16 tile for all warps"),
    TileChoice(256, _ALL, Tile(16, 32, 2, 2), "room for keys and values in 8 bits beside those in 16"),
)
"""At most DECODE_ROWS packed rows of queries, keys and values in fp8."""

DECODE_ROWS = 32

TILE_TABLES = {
    "plain scores, contiguous keys": TILES,
    "softcap, ALiBi, dropout, or pages": VARIANT_TILES,
    "fp8 keys and values": FP8_KV_TILES,
    "decoding": DECODE_TILES,
    "decoding, fp8 keys and values": FP8_KV_DECODE_TILES,
}
"""Every table, by what it is for."""


def padded_head_dims(head_dim: int, head_dim_v: int) -> tuple[int, int]:
    """The least of HEAD_DIMS that holds both."""
    return next((qk, v) for qk, v in HEAD_DIMS if head_dim <= qk and head_dim_v <= v)


@lru_cache(maxsize=1024)
def forward_spec(
    arch: SmArch,
    dtype: DType,
    head_dim: int,
    head_dim_v: int | None = None,
    *,
    scores: Scores = Scores.PLAIN,
    paged: bool = False,
    fp8_kv: bool = False,
    decode: bool = False,
) -> ForwardSpec:
    """The forward kernel for valid operands; head_dims are padded to the least of HEAD_DIMS that holds them.

    Fp8 caches have one kernel, paged or not. Dropout is for training: it has no decode tile.
    """
    padded, padded_v = padded_head_dims(head_dim, head_dim if head_dim_v is None else head_dim_v)
    few_rows = decode and scores is not Scores.DROPOUT
    if fp8_kv:
        table = FP8_KV_DECODE_TILES if few_rows else FP8_KV_TILES
    elif few_rows:
        table = DECODE_TILES
    else:
        table = VARIANT_TILES if paged or scores is not Scores.PLAIN else TILES
    tile = next(row.tile for row in table if row.head_dim == padded and arch in row.archs)
    return ForwardSpec(FAMILY, arch, dtype, padded, padded_v, scores, tile, paged or fp8_kv, fp8_kv)


def forward_specs(arch: SmArch) -> tuple[ForwardSpec, ...]:
    """Every forward kernel that the table can choose, each once."""
    cells = product(DTYPES, HEAD_DIMS, Scores, (False, True), (False, True), (False, True))
    found = {
        forward_spec(arch, dtype, qk, v, scores=scores, paged=paged, fp8_kv=fp8_kv, decode=decode): None
        for dtype, (qk, v), scores, paged, fp8_kv, decode in cells
        if not (fp8_kv and scores is Scores.DROPOUT)
    }
    return tuple(found)
