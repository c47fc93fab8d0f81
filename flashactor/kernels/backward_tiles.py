"""The tiles of the mma.sync family's backward kernels, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from flashactor.kernels.spec import Tile
from flashactor.types import SmArch


@dataclass(frozen=True, slots=True)
class BackwardTile:
    """A row of a tile table.

    Attributes:
        head_dim: padded head_dim of q and k that it is for.
        archs: architectures that it is for.
        tile: queries, keys and warps.
        stages: tiles of what is walked over that shared memory holds.
        reason: why these numbers.
    """

    head_dim: int
    archs: tuple[SmArch, ...]
    tile: Tile
    stages: int
    reason: str


_ALL = tuple(SmArch)
_LARGE_SHARED = (SmArch.SM80, SmArch.SM90A, SmArch.SM100)
_SMALL_SHARED = (SmArch.SM86, SmArch.SM89, SmArch.SM120)
BLACKWELL = (SmArch.SM100, SmArch.SM120)
_BEFORE_BLACKWELL = tuple(arch for arch in SmArch if arch not in BLACKWELL)

DKDV_TILES = (
    BackwardTile(32, _ALL, Tile(64, 128, 8), 2, "two stages fit into 99 KB"),
    BackwardTile(64, _BEFORE_BLACKWELL, Tile(64, 128, 8), 2, "two stages fit into 99 KB"),
    BackwardTile(64, BLACKWELL, Tile(32, 128, 8), 2, "64 queries spill with dropout and dq"),
    BackwardTile(96, _BEFORE_BLACKWELL, Tile(64, 128, 8), 1, "one stage fits into 99 KB"),
    BackwardTile(96, BLACKWELL, Tile(32, 64, 4), 1, "64 queries spill, and so do two stages with dropout"),
    BackwardTile(128, _LARGE_SHARED, Tile(32, 128, 8), 2, "64 queries spill with softcap or dq"),
    BackwardTile(128, _SMALL_SHARED, Tile(32, 128, 8), 1, "one stage fits into 99 KB"),
    BackwardTile(192, (SmArch.SM80, SmArch.SM90A), Tile(64, 128, 8), 1, "shared memory for 128 keys"),
    BackwardTile(192, (SmArch.SM100,), Tile(32, 128, 8), 1, "64 queries spill with softcap and dq"),
    BackwardTile(192, _SMALL_SHARED, Tile(32, 64, 4), 1, "64 keys fit into 99 KB"),
    BackwardTile(256, _LARGE_SHARED, Tile(32, 64, 4), 1, "two blocks an SM on sm_90a and sm_100a"),
    BackwardTile(256, _SMALL_SHARED, Tile(32, 32, 2), 1, "with dS it fits into 99 KB"),
)
"""One row for each padded head_dim and architecture; `flashactor check` compiles all and allows no spill."""

DQ_TILES = (
    BackwardTile(32, _ALL, Tile(64, 64, 4), 2, "128 queries spill on sm_100a, to be two blocks an SM"),
    BackwardTile(64, _ALL, Tile(128, 64, 8), 2, "two stages fit into 99 KB"),
    BackwardTile(96, _ALL, Tile(128, 64, 8), 1, "one stage fits into 99 KB"),
    BackwardTile(128, _LARGE_SHARED, Tile(128, 64, 8), 2, "two stages where shared memory allows"),
    BackwardTile(128, _SMALL_SHARED, Tile(128, 64, 8), 1, "one stage fits into 99 KB"),
    BackwardTile(192, _LARGE_SHARED, Tile(128, 32, 8), 2, "64 keys spill with dropout"),
    BackwardTile(192, _SMALL_SHARED, Tile(64, 32, 4), 2, "64 queries fit into 99 KB"),
    BackwardTile(256, _LARGE_SHARED, Tile(128, 32, 8), 1, "64 keys spill"),
    BackwardTile(256, _SMALL_SHARED, Tile(64, 32, 4), 1, "96 KB"),
)
"""As for DKDV_TILES."""


def tile_row(table: tuple[BackwardTile, ...], head_dim: int, arch: SmArch) -> BackwardTile:
    """The row of a table for a padded head_dim on an architecture."""
    return next(row for row in table if row.head_dim == head_dim and arch in row.archs)
