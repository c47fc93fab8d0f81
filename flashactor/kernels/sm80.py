"""The mma.sync family: which tile a forward kernel uses. It runs on every architecture from sm_80 on.

wgmma exists on sm_90a alone and does not run on Blackwell, so until an architecture has a family of its own,
this one serves it, whatever generation a request names.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from flashactor.kernels.spec import KernelSpec
from flashactor.types import Direction, DType, SmArch

FAMILY = "sm80_mma"
DTYPES = (DType.F16, DType.BF16)

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
class TileChoice:
    """A row of the tile table.

    Attributes:
        head_dim: padded head_dim that it is for.
        archs: architectures that it is for.
        tile_m, tile_n, warps: as in KernelSpec.
        reason: why these numbers.
    """

    head_dim: int
    archs: tuple[SmArch, ...]
    tile_m: int
    tile_n: int
    warps: int
    reason: str


_ALL = tuple(SmArch)
_LARGE_SHARED = (SmArch.SM80, SmArch.SM90A, SmArch.SM100)
_SMALL_SHARED = (SmArch.SM86, SmArch.SM89, SmArch.SM120)
_NEWER = tuple(arch for arch in SmArch if arch is not SmArch.SM80)

TILES = (
    TileChoice(32, _ALL, 128, 128, 4, "S takes half of 240 registers: two blocks an SM"),
    TileChoice(64, _ALL, 128, 112, 4, "the widest tile_n without a spill: 128 spills 16 bytes"),
    TileChoice(96, _ALL, 128, 64, 4, "two blocks an SM also where it has 100 KB"),
    TileChoice(
        128, (SmArch.SM80,), 128, 64, 4, "255 registers, 4 warps: two blocks an SM, as FlashAttention-2"
    ),
    TileChoice(128, _NEWER, 128, 128, 8, "one m16 tile a warp; 128x64 with 4 warps spills on sm_90a"),
    TileChoice(160, _ALL, 128, 64, 8, "O needs 8 warps to stay in registers"),
    TileChoice(192, _ALL, 128, 64, 8, "the last with 128 rows where a block has 99 KB"),
    TileChoice(224, _LARGE_SHARED, 128, 64, 8, "128 rows where shared memory allows"),
    TileChoice(224, _SMALL_SHARED, 64, 64, 4, "64 rows fit into 99 KB"),
    TileChoice(256, _LARGE_SHARED, 128, 64, 8, "128 rows where shared memory allows; 240 registers"),
    TileChoice(256, _SMALL_SHARED, 64, 64, 4, "64 rows fit into 99 KB"),
)
"""One row for each padded head_dim and architecture; tests compile all of them and allow no spill."""

_CHOICE = {(row.head_dim, arch): row for row in TILES for arch in row.archs}
HEAD_DIM_STEP = 32


def forward_spec(arch: SmArch, dtype: DType, head_dim: int, causal: bool) -> KernelSpec:
    """The forward kernel for valid operands: head_dim is padded to the next multiple of 32."""
    padded = -(-head_dim // HEAD_DIM_STEP) * HEAD_DIM_STEP
    tile = _CHOICE[padded, arch]
    return KernelSpec(
        family=FAMILY,
        direction=Direction.FORWARD,
        arch=arch,
        dtype=dtype,
        head_dim=padded,
        causal=causal,
        tile_m=tile.tile_m,
        tile_n=tile.tile_n,
        warps=tile.warps,
    )


def all_specs(arch: SmArch | None = None) -> tuple[KernelSpec, ...]:
    """Every kernel that the table can choose, on one architecture or on all."""
    head_dims = sorted({row.head_dim for row in TILES})
    archs = tuple(SmArch) if arch is None else (arch,)
    return tuple(forward_spec(*cell) for cell in product(archs, DTYPES, head_dims, (False, True)))
