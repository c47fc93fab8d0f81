"""Into how many parts keys are cut: enough to fill a device, never more than there is work for."""

import inspect
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flashactor import SmArch
from flashactor.kernels.sm80 import TILE_TABLES
from flashactor.kernels.splits import (
    GOOD_ENOUGH,
    INVARIANT_KEYS_PER_SPLIT,
    MAX_SPLITS,
    MIN_KEYS_PER_SPLIT,
    MULTIPROCESSORS,
    choose_splits,
    invariant_splits,
)

CELLS = {
    "tiles": st.integers(1, 3000),
    "keys": st.integers(0, 300_000),
    "tile_n": st.sampled_from([64, 96, 128]),
    "per_sm": st.integers(1, 4),
    "arch": st.sampled_from(SmArch),
}


def steps(tiles, splits, places, blocks):
    """Waves of thread blocks, by the key blocks that each walks."""
    return ceil(tiles * splits / places) * ceil(blocks / splits)


@given(**CELLS)
@example(tiles=1, keys=255, tile_n=64, per_sm=1, arch=SmArch.SM80)
@example(tiles=1, keys=10**9, tile_n=64, per_sm=4, arch=SmArch.SM120)
def test_no_more_splits_than_are_useful(tiles, keys, tile_n, per_sm, arch):
    splits = choose_splits(tiles, keys, tile_n, per_sm, arch)
    places = MULTIPROCESSORS[arch] * per_sm
    assert 1 <= splits <= MAX_SPLITS
    if splits == 1:
        return
    assert keys // splits >= MIN_KEYS_PER_SPLIT >= tile_n
    assert tiles < GOOD_ENOUGH * places, "a full device gains nothing"
    assert tiles * (splits - 1) < places, "one split less would not fill the device"
    blocks = ceil(keys / tile_n)
    assert steps(tiles, splits, places, blocks) < steps(tiles, 1, places, blocks)
    assert ceil(blocks / ceil(blocks / splits)) == splits, "a split would be empty"


@given(**CELLS)
def test_close_to_the_best_number(tiles, keys, tile_n, per_sm, arch):
    places = MULTIPROCESSORS[arch] * per_sm
    splits = choose_splits(tiles, keys, tile_n, per_sm, arch)
    most = max(1, min(MAX_SPLITS, keys // MIN_KEYS_PER_SPLIT, ceil(places / tiles)))
    blocks = ceil(keys / tile_n)
    best = min(steps(tiles, n, places, blocks) for n in range(1, most + 1))
    assert steps(tiles, splits, places, blocks) * GOOD_ENOUGH <= best


@pytest.mark.parametrize("arch", SmArch)
def test_a_single_sequence_of_many_keys_fills_the_device(arch):
    splits = choose_splits(8, 2**20, 64, 4, arch)
    assert 8 * splits >= 0.8 * MULTIPROCESSORS[arch] * 4


def test_invariant_splits_know_nothing_of_the_batch_or_the_device():
    assert list(inspect.signature(invariant_splits).parameters) == ["keys", "tile_n"]


@given(
    keys=st.integers(1, 10**6),
    tile_n=st.sampled_from(sorted({row.tile.n for rows in TILE_TABLES.values() for row in rows})),
)
@example(keys=INVARIANT_KEYS_PER_SPLIT, tile_n=64)
@example(keys=INVARIANT_KEYS_PER_SPLIT + 1, tile_n=64)
def test_invariant_splits_are_all_of_one_size_and_cover_the_keys(keys, tile_n):
    splits, blocks = invariant_splits(keys, tile_n)
    share = blocks * tile_n
    assert INVARIANT_KEYS_PER_SPLIT - tile_n < share <= INVARIANT_KEYS_PER_SPLIT
    assert (splits - 1) * share < keys <= splits * share
