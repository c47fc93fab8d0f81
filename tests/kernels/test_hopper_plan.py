"""The plan of a forward pass on Hopper: tiles, their order, tensor maps; every query is computed once."""

import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_tools import SCRATCH, dense, ints, planned, unpack, view

from flashactor import (
    DType,
    Fa2FwdFp8Request,
    Fa3FwdRequest,
    KvLayout,
    MaskKind,
    PagedAttentionRequest,
    PersistentMode,
    SmArch,
    VarlenFwdRequest,
)
from flashactor.emulator import Swizzle, encode_tiled
from flashactor.errors import LaunchError
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.params import COMBINE_PARAMS
from flashactor.kernels.sm90 import CONSUMER_ROWS, DECODE_TILES, FULL_TILES, HOPPER_PARAMS, TILES
from flashactor.kernels.sm90_forward import L2_KEY_BYTES, SM90, consumer_rows, packed_heads, tensor_map
from flashactor.kernels.splits import MULTIPROCESSORS

KERNELS = Path(__file__).resolve().parents[2] / "kernels_cu"


def on_hopper(request, workspace=SCRATCH):
    return planned(request, SmArch.SM90A, workspace, SM90)


def main_of(request):
    """(the main launch, its parameters by name)."""
    step = on_hopper(request)[0]
    return step, unpack(step.params, HOPPER_PARAMS)


def fa3(batch=2, seqlen=100, heads_q=8, heads_kv=2, head_dim=64, **options):
    q = view((batch, seqlen, heads_q, head_dim), 0x1000)
    k = view((batch, seqlen, heads_kv, head_dim), 0x2000)
    return Fa3FwdRequest.from_arrays(q, k, k, **options)


def paged(page=16, pages=9, hnd=False, seqlen_q=1, head_dim=64, **options):
    shape = (pages, 2, page, head_dim) if hnd else (pages, page, 2, head_dim)
    q, cache = view((2, seqlen_q, 8, head_dim)), view(shape, 0x2000)
    layout = KvLayout.HND if hnd else KvLayout.NHD
    table = options.pop("table", np.zeros((2, 3), np.int32))
    lens = options.pop("lens", ints(page, page))
    return PagedAttentionRequest.from_arrays(q, cache, cache, table, lens, layout=layout, **options)


def packed(lengths_q=(30, 70), lengths_k=(50, 70), ratio=4, **options):
    q = view((sum(lengths_q), 2 * ratio, 64), 0x1000)
    k = view((sum(lengths_k), 2, 64), 0x2000)
    offsets = (ints(0, *np.cumsum(lengths)) for lengths in (lengths_q, lengths_k))
    return VarlenFwdRequest.from_arrays(q, k, k, *offsets, **options)


# Tiles


def find_work(index, p, consumers):
    """find_work() of sm90/fwd_work.cuh, in Python: batch entry, first head, split, first row."""
    section, within = divmod(index, p["lines_together"] * p["q_tiles"])
    first_line = section * p["lines_together"]
    tile, line = divmod(within, min(p["lines"] - first_line, p["lines_together"]))
    sequence_head, split = divmod(first_line + line, p["num_splits"])
    batch, group = divmod(sequence_head, p["heads_q"] // p["pack"])
    return batch, group * p["pack"], split, (p["q_tiles"] - 1 - tile) * consumers * p["consumer_rows"]


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


def query_of(row, p):
    """PackedRows::query() of packed_rows.cuh, in Python."""
    return row if p["pack"] == 1 else (row * p["pack_multiplier"] >> 32) >> p["pack_shift"]


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


# The order of tiles


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


# Tensor maps


def encodable(each):
    """Require a map that the driver takes."""
    encode_tiled(each.dtype, each.address, each.dims, each.strides, each.box, swizzle=Swizzle.B128)
    return each


def test_maps_of_dense_arrays():
    step, p = main_of(dense(2, 100, 120, head_dim=128))
    q, k, v, out = map(encodable, step.tensor_maps)
    assert [each.address for each in (q, k, v, out)] == [0x1000, 0x2000, 0x3000, 0x40000]
    assert {each.dtype for each in step.tensor_maps} == {"bfloat16"}
    assert (q.dims, q.strides) == ((128, 8, 100, 2), (256, 2048, 204800))
    assert (k.dims, k.strides) == ((128, 2, 120, 2), (256, 512, 61440))
    assert (p["pack"], q.box, out.box) == (4, (64, 4, 16, 1), (64, 4, 16, 1))
    assert k.box == v.box == (64, 1, step.spec.tile.n, 1)
    assert p["box_rows"] == step.spec.tile.n
    assert (out.dims, out.strides) == (q.dims, q.strides)


def test_maps_of_packed_arrays_have_one_entry():
    step, _ = main_of(packed())
    q, k, *_ = map(encodable, step.tensor_maps)
    assert (q.dims, q.strides[:2]) == ((64, 8, 100, 1), (128, 1024))
    assert (k.dims, k.strides[:2]) == ((64, 2, 120, 1), (128, 256))


@pytest.mark.parametrize("hnd", [False, True], ids=["NHD", "HND"])
def test_maps_of_pages_have_a_page_in_place_of_the_batch(hnd):
    step, _ = main_of(paged(page=32, hnd=hnd))
    k = encodable(step.tensor_maps[1])
    assert k.dims == (64, 2, 32, 9)
    assert k.strides == ((32 * 128, 128, 8192) if hnd else (128, 256, 8192))
    assert k.box == (64, 1, 32, 1)


def test_maps_of_strided_arrays_have_their_strides():
    q = view((2, 100, 8, 64), strides=(3 * 51200, 24, 100 * 512, 1))
    step, _ = main_of(dense(q=q))
    assert encodable(step.tensor_maps[0]).strides == (2 * 51200, 48, 6 * 51200)


def test_a_stride_that_means_nothing_is_one_that_a_map_may_have():
    odd = view((1, 1, 1, 64), strides=(3, 5, 7, 1))
    assert encodable(tensor_map(odd, 1, 64)).dims == (64, 1, 1, 1)
    step, _ = main_of(dense(1, 1, 1, 1, 1, q=odd, k=odd, v=odd))
    assert all(map(encodable, step.tensor_maps))


def test_without_a_query_nothing_is_launched():
    """Arrays without elements have no address in some libraries, and a map has to have one."""
    nowhere = view((0, 8, 64), pointer=0)
    request = VarlenFwdRequest.from_arrays(
        nowhere, *[view((120, 2, 64))] * 2, ints(0, 0, 0), ints(0, 50, 120)
    )
    assert planned(request, SmArch.SM90A, SCRATCH, SM90) == ()


def test_eight_bit_operands_have_slabs_of_128_elements():
    q, k = view((1, 300, 2, 96), dtype="float8_e4m3fn"), view((1, 300, 2, 96), 0x2000, "float8_e4m3fn")
    request = Fa2FwdFp8Request.from_arrays(q, k, k, arch=SmArch.SM90A)
    step, _ = main_of(request)
    q_map, k_map, _, out = map(encodable, step.tensor_maps)
    assert (q_map.dtype, k_map.dtype, out.dtype) == ("uint8", "uint8", "bfloat16")
    assert (q_map.box[0], out.box[0]) == (128, 64)
    assert q_map.strides[0] == 96


@pytest.mark.parametrize("table", [FULL_TILES, TILES, DECODE_TILES], ids=["full", "masked", "decode"])
def test_boxes_are_what_the_driver_and_the_swizzle_take(table):
    for row in table:
        assert row.tile.n <= 256
        assert row.tile.n % 16 == 0  # the depth of a product
    for page, hnd in product((8, 16, 32, 64, 128, 256), (False, True)):
        for seqlen_q, head_dim in product((1, 300), (64, 96, 128, 192, 256)):
            step, p = main_of(paged(page=page, hnd=hnd, seqlen_q=seqlen_q, head_dim=head_dim))
            box, tile_n = p["box_rows"], step.spec.tile.n
            assert all(map(encodable, step.tensor_maps))
            assert step.tensor_maps[1].box == (64, 1, box, 1)
            assert box % 8 == tile_n % box == 0  # whole patterns of the swizzle
            for first_key in range(0, 4 * tile_n, box):  # wherever a block begins
                assert first_key // page == (first_key + box - 1) // page
            assert box == page or box == math.gcd(tile_n, 256) or box == math.gcd(tile_n, page)


def test_lengths_and_pages_are_read_on_the_device_alone():
    """What a captured graph replays: new contents of the same arrays change nothing in the plan."""

    def blanked(request):
        step, values = main_of(request)
        pointers = {name for name, kind in HOPPER_PARAMS.fields if kind == "pointer"}
        return step.spec, step.grid, step.tensor_maps, {n: values[n] for n in values if n not in pointers}

    tables = np.zeros((2, 3), np.int32), np.full((2, 3), 8, np.int32)
    plans = [blanked(paged(table=table, lens=ints(*n))) for table in tables for n in ((40, 33), (1, 48))]
    assert all(other == plans[0] for other in plans)
    fixed = {"max_seqlen_q": 70, "max_seqlen_k": 90}
    lengths = product(((30, 70), (70, 30)), ((50, 70), (90, 30)))
    plans = [blanked(packed(lengths_q=q, lengths_k=k, **fixed)) for q, k in lengths]
    assert all(other == plans[0] for other in plans)


@pytest.mark.parametrize("make", [dense, packed, paged, fa3], ids=lambda make: make.__name__)
def test_a_plan_is_a_pure_function(make):
    request = make()
    assert on_hopper(request) == on_hopper(request)


@pytest.mark.parametrize("others", [0, 1, 7, 300])
def test_invariant_plans_do_not_know_the_batch(others):
    def cut(batch):
        shape = forward_shape(dense(batch, 1, 9000, batch_invariant=True), SmArch.SM90A, SM90)
        return shape.spec, shape.pack, shape.q_tiles, shape.num_splits, shape.blocks_per_split

    assert cut(1 + others) == cut(1)


@pytest.mark.parametrize("persistent", [PersistentMode.grid(), PersistentMode.persistent(132)], ids=str)
def test_more_tiles_than_a_kernel_counts_are_refused(persistent):
    request = fa3(2**24, 1, 128, 128, persistent=persistent)
    with pytest.raises(LaunchError, match="split the batch"):
        on_hopper(request)


def test_parameters_are_maps_and_then_the_struct():
    step, _ = main_of(dense())
    data = step.parameter(lambda each: each.address.to_bytes(128, "little"))
    assert data[:512] == b"".join(a.to_bytes(128, "little") for a in (0x1000, 0x2000, 0x3000, 0x40000))
    assert data[512:] == step.params
    assert len(data) % 64 == 0
    assert step.spec.dtype is DType.BF16
