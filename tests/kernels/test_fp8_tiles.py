"""Tiles of the fp8 kernels of mma.sync: who takes which, and that the tiles which are left aside do spill."""

from dataclasses import replace
from itertools import product

import pytest

from flashactor import SmArch
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.kernels.sm80 import HEAD_DIMS
from flashactor.kernels.sm80_fp8 import ARCHS, fp8_forward_spec
from flashactor.kernels.spec import Scores, Tile


def test_few_rows_have_a_tile_of_their_own_but_where_it_spills():
    without = {
        (arch, qk)
        for arch, (qk, v) in product(ARCHS, HEAD_DIMS)
        if fp8_forward_spec(arch, qk, v, decode=True).tile.key_warps == 1
    }
    assert without == {(SmArch.SM90A, 256)}


@pytest.mark.parametrize(
    ("chosen", "left_aside"),
    [
        (fp8_forward_spec(SmArch.SM90A, 256, decode=True), Tile(16, 128, 4, 4)),
        (fp8_forward_spec(SmArch.SM100, 32, scores=Scores.DROPOUT), Tile(128, 64, 4)),
    ],
    ids=["few rows", "dropout"],
)
def test_the_tile_that_is_left_aside_spills(chosen, left_aside):
    assert compile_cubin(chosen).spill_store_bytes == 0
    assert compile_cubin(replace(chosen, tile=left_aside)).spill_store_bytes > 0
