"""Which rows and keys a tile has on Hopper: every query is computed once."""

import re
from pathlib import Path

import numpy as np
import pytest
from hopper_plan_tools import find_work, main_of, on_hopper, packed, paged, query_of
from hypothesis import given
from hypothesis import strategies as st
from plan_tools import dense, unpack

from flashactor import MaskKind
from flashactor.kernels.params import COMBINE_PARAMS
from flashactor.kernels.sm90 import CONSUMER_ROWS, HOPPER_PARAMS
from flashactor.kernels.sm90_forward import consumer_rows, packed_heads

KERNELS = Path(__file__).resolve().parents[2] / "kernels_cu"


def test_the_mirror_is_what_the_kernels_do():
    body = re.search(
        r"Work find_work\(const HopperParams.*?\n\}", (KERNELS / "sm90/fwd_work.cuh").read_text(), re.DOTALL
    )[0]
    for line in (
        "section_tiles = p.lines_together * p.fwd.q_tiles;",
        "first_line = index / section_tiles * p.lines_together;",
        "lines = min(p.lines - first_line, static_cast<u32>(p.lines_together));",
        "within = index % section_tiles;",
        "tile = static_cast<int>(within / lines);",
        "line = first_line + within % lines;",
        "sequence_head = line / p.fwd.num_splits;",
        "heads = p.fwd.problem.heads_q / p.fwd.pack;",
        "static_cast<int>(sequence_head / heads), static_cast<int>(sequence_head % heads) * p.fwd.pack,",
        "static_cast<int>(line % p.fwd.num_splits),",
        "(p.fwd.q_tiles - 1 - tile) * C::kConsumers * p.consumer_rows",
    ):
        assert line in body
    attend = (KERNELS / "sm90/fwd_attend.cuh").read_text()
    assert "unit.work.first_row + consumer * p.consumer_rows" in attend
    for role in ("fwd_attend.cuh", "fwd_load.cuh", "fwd_transpose.cuh"):
        loop = "for (u32 index = blockIdx.x; index < p.tiles; index += gridDim.x)"
        assert loop in (KERNELS / "sm90" / role).read_text()


@given(
    batch=st.integers(1, 4),
    seqlen_q=st.integers(1, 500) | st.integers(1, 9),
    seqlen_k=st.integers(1, 20_000),
    heads_kv=st.integers(1, 3),
    ratio=st.integers(1, 8) | st.sampled_from([16, 64, 65, 96, 128]),
    batch_invariant=st.booleans(),
    mask=st.sampled_from([MaskKind.full(), MaskKind.causal(), MaskKind.sliding_causal(64)]),
    head_dim=st.sampled_from([32, 64, 96, 128, 192, 256]),
)
def test_every_row_of_every_split_is_computed_once(
    batch, seqlen_q, seqlen_k, heads_kv, ratio, batch_invariant, mask, head_dim
):
    heads = heads_kv * ratio, heads_kv
    request = dense(batch, seqlen_q, seqlen_k, *heads, head_dim, batch_invariant=batch_invariant, mask=mask)
    launches = on_hopper(request)
    main, p = launches[0], unpack(launches[0].params, HOPPER_PARAMS)
    assert main.grid == (p["tiles"], 1, 1)
    assert p["tiles"] == p["lines"] * p["q_tiles"]
    assert heads[0] % p["pack"] == p["consumer_rows"] % p["pack"] == 0
    counts = np.zeros((batch, heads[0], p["num_splits"], seqlen_q), int)
    for index in range(p["tiles"]):
        entry, first_head, split, first_row = find_work(index, p, main.spec.consumers)
        rows = first_row + np.arange(main.spec.consumers * p["consumer_rows"])
        query = query_of(rows, p)
        rows, query = rows[query < seqlen_q], query[query < seqlen_q]
        np.add.at(counts, (entry, first_head + rows - query * p["pack"], split, query), 1)
    assert (counts == 1).all()
    assert (len(launches) == 2) is (p["num_splits"] > 1)
    if len(launches) == 2:
        combine = unpack(launches[1].params, COMBINE_PARAMS)
        assert (combine["num_splits"], combine["rows"]) == (p["num_splits"], batch * heads[0] * seqlen_q)


@given(
    lengths=st.lists(st.integers(0, 700) | st.integers(0, 20), min_size=1, max_size=5),
    ratio=st.sampled_from([1, 3, 4, 7, 96]),
    batch_invariant=st.booleans(),
)
def test_every_row_of_every_packed_sequence_is_computed_once(lengths, ratio, batch_invariant):
    """A tile belongs to one sequence; those behind its last row are passed over (Unit::exists)."""
    assert (
        "exists = packed.query(w.first_row) < sequence.stored_q;"
        in (KERNELS / "sm90/fwd_work.cuh").read_text()
    )
    request = packed(lengths, [length + 5 for length in lengths], ratio, batch_invariant=batch_invariant)
    launches = on_hopper(request)
    if not sum(lengths):
        assert launches == ()
        return
    main, p = launches[0], unpack(launches[0].params, HOPPER_PARAMS)
    counts = [np.zeros((2 * ratio, p["num_splits"], length), int) for length in lengths]
    for index in range(p["tiles"]):
        entry, first_head, split, first_row = find_work(index, p, main.spec.consumers)
        if query_of(first_row, p) >= lengths[entry]:
            continue
        rows = first_row + np.arange(main.spec.consumers * p["consumer_rows"])
        query = query_of(rows, p)
        rows, query = rows[query < lengths[entry]], query[query < lengths[entry]]
        np.add.at(counts[entry], (first_head + rows - query * p["pack"], split, query), 1)
    assert all((each == 1).all() for each in counts)


@given(ratio=st.integers(1, 300))
def test_a_consumer_holds_whole_queries_of_as_many_heads_as_divide_a_group(ratio):
    pack = packed_heads(ratio)
    assert ratio % pack == 0
    assert not any(ratio % more == 0 for more in range(pack + 1, CONSUMER_ROWS + 1))
    rows = consumer_rows(pack)
    assert rows % pack == 0
    assert CONSUMER_ROWS - pack < rows <= CONSUMER_ROWS


@pytest.mark.parametrize(
    ("ratio", "pack", "rows"), [(1, 1, 64), (7, 7, 63), (64, 64, 64), (96, 48, 48), (127, 1, 64)]
)
def test_packed_heads(ratio, pack, rows):
    _, p = main_of(dense(1, 2, 40, ratio, 1))
    assert (p["pack"], p["consumer_rows"]) == (pack, rows)


def test_few_rows_take_the_decode_tile_and_many_need_not_share_one():
    steps = {n: main_of(dense(seqlen_q=n)) for n in (1, 16, 17, 191, 192)}
    assert [step.spec.consumers for step, _ in steps.values()] == [1, 1, 3, 3, 3]
    assert [p["pack"] for _, p in steps.values()] == [4, 4, 4, 4, 1]
    assert [p["q_tiles"] for _, p in steps.values()] == [1, 1, 1, 4, 1]


def test_the_longest_of_a_company_decides_nothing_where_the_batch_must_not():
    lengths = {"lengths_q": (1, 1), "lengths_k": (300, 70)}
    assert main_of(packed(**lengths))[0].spec.consumers == 1
    assert main_of(packed(**lengths, batch_invariant=True))[0].spec.consumers == 3


def test_no_mask_over_contiguous_keys_has_a_tile_of_its_own():
    tiles = [
        main_of(request)[0].spec.tile
        for request in (
            dense(seqlen_q=500, head_dim=128),
            dense(seqlen_q=500, head_dim=128, mask=MaskKind.causal()),
            dense(seqlen_q=500, head_dim=128, softcap=3.0),
            paged(seqlen_q=500, head_dim=128),
        )
    ]
    assert tiles[0].n == 176
    assert [tile.n for tile in tiles[1:]] == [128] * 3
