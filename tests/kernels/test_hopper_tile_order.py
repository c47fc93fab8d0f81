"""In which order, and by how many thread blocks, Hopper's tiles are computed."""

import pytest
from hopper_plan_tools import fa3, find_work, main_of, on_hopper
from hypothesis import given
from hypothesis import strategies as st
from plan_tools import dense, view

from flashactor import MaskKind, PersistentMode, SmArch
from flashactor.errors import LaunchError
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.sm90 import DECODE_TILES
from flashactor.kernels.sm90_forward import L2_KEY_BYTES, SM90
from flashactor.kernels.splits import MULTIPROCESSORS


@given(
    batch=st.integers(1, 5),
    seqlen_q=st.integers(400, 3000),
    heads_kv=st.integers(1, 4),
    ratio=st.sampled_from([1, 2, 4, 7]),
    seqlen_k=st.sampled_from([100, 5_000, 60_000, 300_000]),
)
def test_tiles_come_in_sections_whose_keys_share_l2_the_longest_first(
    batch, seqlen_q, heads_kv, ratio, seqlen_k
):
    request = dense(batch, seqlen_q, seqlen_k, heads_kv * ratio, heads_kv, mask=MaskKind.causal())
    step, p = main_of(request)
    line_bytes = seqlen_k * 2 * 64 * 2
    sharing = ratio // p["pack"] * p["num_splits"]
    assert p["lines_together"] == min(p["lines"], sharing * max(1, L2_KEY_BYTES // line_bytes))
    works = [find_work(index, p, step.spec.consumers) for index in range(p["tiles"])]
    assert len(set(works)) == len(works)
    size = p["lines_together"] * p["q_tiles"]
    for begin in range(0, len(works), size):
        section = works[begin : begin + size]
        rows = [first_row for *_, first_row in section]
        assert rows == sorted(rows, reverse=True), "the work gets shorter towards the end"
        lines = {tuple(work[:3]) for work in section}
        assert len(lines) == len(section) // p["q_tiles"], "lines are whole"
        groups = {(entry, head // ratio) for entry, head, _ in lines}
        assert len(groups) == 1 or len(groups) * line_bytes <= L2_KEY_BYTES


@pytest.mark.parametrize("resident", [1, 7, 132, 10_000])
def test_persistent_blocks_take_the_tiles_in_turn(resident):
    grid, _ = main_of(fa3(seqlen=3000))
    step, p = main_of(fa3(seqlen=3000, persistent=PersistentMode.persistent(resident)))
    assert step.grid == (min(resident, p["tiles"]), 1, 1)
    assert (step.params, step.tensor_maps) == (grid.params, grid.tensor_maps)
    taken = [index for block in range(step.grid[0]) for index in range(block, p["tiles"], step.grid[0])]
    assert sorted(taken) == list(range(p["tiles"]))


@pytest.mark.parametrize("head_dims", [row.head_dims for row in DECODE_TILES], ids=str)
def test_splits_of_a_long_sequence_fill_the_device(head_dims):
    v = view((1, 200_000, 1, head_dims[1]))
    shape = forward_shape(dense(1, 1, 200_000, 8, 1, head_dims[0], v=v), SmArch.SM90A, SM90)
    assert shape.tiles == shape.num_splits
    places = MULTIPROCESSORS[SmArch.SM90A]
    assert 0.75 * places <= shape.num_splits <= places


@pytest.mark.parametrize("persistent", [PersistentMode.grid(), PersistentMode.persistent(132)], ids=str)
def test_more_tiles_than_a_kernel_counts_are_refused(persistent):
    request = fa3(2**24, 1, 128, 128, persistent=persistent)
    with pytest.raises(LaunchError, match="split the batch"):
        on_hopper(request)
