"""Into how many splits the keys of a tile are cut, so that few tiles fill a device (Flash-Decoding, Dao et
al. 2023)."""

from __future__ import annotations

from functools import lru_cache

from flashactor.types import SmArch

MULTIPROCESSORS = {
    SmArch.SM80: 108,  # A100
    SmArch.SM86: 84,  # A40, A6000
    SmArch.SM89: 142,  # L40S
    SmArch.SM90A: 132,  # H100, H200
    SmArch.SM100: 148,  # B200
    SmArch.SM120: 188,  # RTX PRO 6000
}
"""Of the largest common part of an architecture: the plan must not depend on the device that it runs on."""

MAX_SPLITS = 128
MIN_KEYS_PER_SPLIT = 256
"""Below this, writing and merging partial results costs more than a split gains."""

INVARIANT_KEYS_PER_SPLIT = 2048
"""Of batch-invariant requests: a sequence is cut by its own length alone."""

GOOD_ENOUGH = 0.85
"""Fewer splits are taken if they use the device at least this well, compared with the best number of them."""


@lru_cache(maxsize=1024)
def choose_splits(tiles: int, keys: int, tile_n: int, blocks_per_sm: int, arch: SmArch) -> int:
    """The number of splits of each tile's keys.

    With n splits, ``tiles * n`` thread blocks run in waves of as many as the device holds, and each walks the
    n-th part of the key blocks. Fewest splits that come close to the best number: none of them is empty.

    Args:
        tiles: thread blocks without splits.
        keys: that the longest tile sees.
        tile_n: keys of a block.
        blocks_per_sm: thread blocks that a multiprocessor holds.
        arch: architecture.
    """
    places = MULTIPROCESSORS[arch] * blocks_per_sm
    most = min(MAX_SPLITS, keys // max(MIN_KEYS_PER_SPLIT, tile_n), -(-places // tiles))
    if most <= 1 or tiles >= GOOD_ENOUGH * places:
        return 1
    blocks = -(-keys // tile_n)
    # Waves of thread blocks, by the key blocks that each walks.
    steps = {n: -(-tiles * n // places) * -(-blocks // n) for n in range(1, most + 1)}
    best = min(steps.values())
    return next(n for n in steps if GOOD_ENOUGH * steps[n] <= best)


def invariant_splits(keys: int, tile_n: int) -> tuple[int, int]:
    """(splits, key blocks of each) such that where a sequence is cut depends on nothing but its keys."""
    blocks = INVARIANT_KEYS_PER_SPLIT // tile_n
    return max(1, -(-keys // (blocks * tile_n))), blocks
