"""The plan of a forward pass: every query is computed once, and the kernel is told what it must know."""

import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_tools import SCRATCH, dense, ints, planned, unpack, view

from flashactor import DType, KvLayout, MaskKind, PagedAttentionRequest, SmArch, VarlenFwdRequest
from flashactor.errors import LaunchError, OperandError
from flashactor.kernels.forward import division, forward_shape
from flashactor.kernels.params import COMBINE_PARAMS, FWD_PARAMS
from flashactor.kernels.problem import UNLIMITED
from flashactor.kernels.sm80_forward import SM80

KERNELS = Path(__file__).resolve().parents[2] / "kernels_cu"


def values_of(request, arch=SmArch.SM80):
    return unpack(planned(request, arch)[0].params, FWD_PARAMS)


def paged(pages=9, size=16, table=((1, 2, 3), (4, 5, 6)), lens=(40, 33), heads_kv=2, hnd=False, **options):
    shape = (pages, heads_kv, size, 64) if hnd else (pages, size, heads_kv, 64)
    q = options.pop("q", view((2, 1, 8, 64)))
    dtype = options.pop("kv_dtype", "bfloat16")
    caches = view(shape, 0x2000, dtype), view(shape, 0x3000, dtype)
    table = np.array(table, np.int32)
    return PagedAttentionRequest.from_arrays(
        q, *caches, table, ints(*lens), layout=KvLayout.HND if hnd else KvLayout.NHD, **options
    )


def packed(lengths_q=(30, 70), lengths_k=(50, 70), ratio=4, **options):
    q = view((sum(lengths_q), 2 * ratio, 64), 0x1000)
    k = view((sum(lengths_k), 2, 64), 0x2000)
    offsets = (ints(0, *np.cumsum(lengths)) for lengths in (lengths_q, lengths_k))
    return VarlenFwdRequest.from_arrays(q, k, k, *offsets, **options)


def find_work(block, p, tile_m):
    """find_work() of sm80/fwd_work.cuh, in Python: batch entry, first head, split, first row."""
    tiled, tile = divmod(block, p["q_tiles"])
    sequence_head, split = divmod(tiled, p["num_splits"])
    batch, group = divmod(sequence_head, p["heads_q"] // p["pack"])
    return batch, group * p["pack"], split, (p["q_tiles"] - 1 - tile) * tile_m


def query_of(row, p):
    """PackedRows::query() of packed_rows.cuh, in Python."""
    return (2 * row * p["pack_multiplier"] >> 32) >> p["pack_shift"]


def test_the_mirrors_are_what_the_kernels_do():
    code = (KERNELS / "sm80/fwd_work.cuh").read_text()
    body = re.search(r"Work find_work\(const FwdParams.*?\n\}", code, re.DOTALL)[0]
    for line in (
        "tiled = block / p.q_tiles;",
        "tile = block % p.q_tiles;",
        "sequence_head = tiled / p.num_splits;",
        "heads = p.problem.heads_q / p.pack;",
        "static_cast<int>(sequence_head / heads), static_cast<int>(sequence_head % heads) * p.pack,",
        "static_cast<int>(tiled % p.num_splits), (p.q_tiles - 1 - tile) * C::kTileM",
    ):
        assert line in body
    rows = (KERNELS / "common/packed_rows.cuh").read_text()
    assert "return static_cast<int>(__umulhi(opaque(2u * row), multiplier) >> shift);" in rows
    assert "head(int row) const { return row - query(row) * pack; }" in rows


@given(
    batch=st.integers(1, 4),
    seqlen_q=st.integers(1, 300) | st.integers(1, 9),
    seqlen_k=st.integers(1, 20_000),
    heads_kv=st.integers(1, 3),
    ratio=st.integers(1, 8),
    dropout_p=st.sampled_from([0.0, 0.1]),
    batch_invariant=st.booleans(),
    head_dim=st.sampled_from([32, 64, 128, 256]),
    arch=st.sampled_from(SmArch),
)
def test_every_row_of_every_split_is_computed_once(
    batch, seqlen_q, seqlen_k, heads_kv, ratio, dropout_p, batch_invariant, head_dim, arch
):
    request = dense(
        batch,
        seqlen_q,
        seqlen_k,
        heads_kv * ratio,
        heads_kv,
        head_dim,
        dropout_p=dropout_p,
        batch_invariant=batch_invariant,
    )
    launches = planned(request, arch)
    main, p = launches[0], unpack(launches[0].params, FWD_PARAMS)
    counts = np.zeros((batch, heads_kv * ratio, p["num_splits"], seqlen_q), int)
    tile_m = main.spec.tile.m
    for block in range(main.grid[0]):
        entry, first_head, split, first_row = find_work(block, p, tile_m)
        for row in range(first_row, first_row + tile_m):
            query = query_of(row, p)
            if query < seqlen_q:
                counts[entry, first_head + row - query * p["pack"], split, query] += 1
    assert (counts == 1).all()
    assert p["pack"] in (1, ratio)
    assert (len(launches) == 2) is (p["num_splits"] > 1)
    if len(launches) == 2:
        combine = unpack(launches[1].params, COMBINE_PARAMS)
        assert combine["num_splits"] == p["num_splits"]
        assert combine["rows"] == p["partial_rows"] == batch * heads_kv * ratio * seqlen_q
        threads = launches[1].grid[0] * launches[1].block[0]
        assert threads >= combine["rows"] * head_dim // 8 > threads - launches[1].block[0]


def test_the_longest_rows_of_a_head_come_first():
    (step,) = planned(dense(1, 1000, 200, 1, 1, mask=MaskKind.causal()))
    p = unpack(step.params, FWD_PARAMS)
    rows = [find_work(block, p, step.spec.tile.m)[3] for block in range(step.grid[0])]
    assert len(rows) == 8
    assert rows == sorted(rows, reverse=True)


def test_dropout_packs_no_heads_and_long_queries_need_not():
    assert values_of(dense(seqlen_q=5))["pack"] == 4
    assert values_of(dense(seqlen_q=5, dropout_p=0.1))["pack"] == 1
    assert values_of(dense(seqlen_q=127))["pack"] == 4
    assert values_of(dense(seqlen_q=128))["pack"] == 1


def test_few_rows_take_the_decode_tile():
    few, many = (planned(dense(seqlen_q=n))[0].spec for n in (8, 9))
    assert (few.tile.m, few.tile.key_warps) == (16, 4)
    assert (many.tile.m, many.tile.key_warps) == (128, 1)


def quotient(n, divisor):
    multiplier, shift = division(divisor)
    assert 0 < multiplier < 2**32
    assert 0 <= shift < 32
    return (2 * n * multiplier >> 32) >> shift


@given(divisor=st.integers(1, 2**31 - 1) | st.integers(1, 128), n=st.integers(0, 2**31 - 1))
def test_division_without_a_division(divisor, n):
    assert quotient(n, divisor) == n // divisor


def test_division_at_every_edge():
    """The quotient changes at multiples of the divisor: there, and one before, it is most easily wrong."""
    rng = np.random.default_rng(0)
    for divisor in (*range(1, 300), 2**16 - 1, 2**16, 2**16 + 1, 2**30 + 1, 2**31 - 1):
        top = (2**31 - 1) // divisor
        for times in {0, 1, 2, top - 1, top, *rng.integers(0, top, 50, endpoint=True).tolist()}:
            for n in (times * divisor - 1, times * divisor, times * divisor + divisor - 1):
                if 0 <= n < 2**31:
                    assert quotient(n, divisor) == n // divisor, (n, divisor)


def test_every_small_number_is_divided_rightly():
    n = np.arange(2**17, dtype=np.uint64)
    for divisor in range(1, 130):
        multiplier, shift = division(divisor)
        assert ((2 * n * np.uint64(multiplier) >> np.uint64(32 + shift)) == n // np.uint64(divisor)).all()


def test_addresses_strides_and_sizes_of_a_dense_request():
    p = values_of(dense(2, 100, 120, softmax_scale=0.25))
    addresses = [p[name] for name in ("q", "k", "v", "out", "lse")]
    assert addresses == [0x1000, 0x2000, 0x3000, 0x40000, 0x50000]
    assert [p[f"q_stride_{axis}"] for axis in ("batch", "row", "head")] == [51200, 512, 64]
    assert [p[f"k_stride_{axis}"] for axis in ("batch", "row", "head")] == [15360, 128, 64]
    assert [p[f"out_stride_{axis}"] for axis in ("batch", "row", "head")] == [51200, 512, 64]
    assert [p[f"lse_stride_{axis}"] for axis in ("batch", "head", "row")] == [800, 100, 1]
    sizes = ("batch", "seqlen_q", "seqlen_k", "heads_q", "gqa_ratio", "head_dim", "head_dim_v")
    assert [p[name] for name in sizes] == [2, 100, 120, 8, 4, 64, 64]
    assert p["scale_log2"] == pytest.approx(0.25 / math.log(2))
    absent = "cu_seqlens_q cu_seqlens_k seqused_q seqused_k alibi_slopes sink_logits page_table q_scale"
    assert not any(p[name] for name in absent.split())


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_strides_beyond_32_bits_arrive_whole(name):
    big = 2**33
    tensor = view((2, 4, 1, 64), strides=(big, 2 * big, 3 * big, 1))
    p = values_of(dense(2, 4, 4, 1, 1, **{name: tensor}))
    assert [p[f"{name}_stride_{axis}"] for axis in ("batch", "row", "head")] == [big, 2 * big, 3 * big]


@pytest.mark.parametrize(
    ("mask", "left", "right"),
    [
        (MaskKind.full(), UNLIMITED, UNLIMITED),
        (MaskKind.causal(), UNLIMITED, 0),
        (MaskKind.sliding(5, 7), 5, 7),
        (MaskKind.sliding(-1, 3), UNLIMITED, 3),
        (MaskKind.sliding(2**40, 0), UNLIMITED, 0),
    ],
    ids=str,
)
def test_windows(mask, left, right):
    p = values_of(dense(mask=mask))
    assert (p["window_left"], p["window_right"]) == (left, right)


def test_options_of_the_scores():
    slopes = view((2, 8), 0x6000, "float32")
    sinks = view((8,), 0x7000, "float32")
    p = values_of(
        dense(softcap=30.0, softmax_scale=0.5, alibi_slopes=slopes, sink_logits=sinks, dropout_p=0.25)
    )
    assert (p["alibi_slopes"], p["alibi_stride_batch"], p["sink_logits"]) == (0x6000, 8, 0x7000)
    assert p["softcap_log2"] == pytest.approx(30 / math.log(2))
    assert p["softcap_inverse"] == pytest.approx(0.5 / 30)
    assert p["dropout_threshold"] == 2**30
    assert p["dropout_scale"] == pytest.approx(4 / 3)
    shared = values_of(dense(alibi_slopes=view((8,), 0x6000, "float32")))
    assert shared["alibi_stride_batch"] == 0


def test_dropout_state_of_more_than_32_bits():
    p = values_of(dense(dropout_p=0.5, dropout_seed=(7 << 32) + 9, dropout_offset=2**32 + 3))
    assert (p["dropout_seed_low"], p["dropout_seed_high"], p["dropout_offset"]) == (9, 7, 3)


def test_a_strided_list_of_lengths_is_refused():
    strided = np.zeros(6, np.int32)[::2]
    strided[:] = (0, 30, 100)
    q, k = view((100, 8, 64)), view((100, 2, 64))
    with pytest.raises(OperandError) as caught:
        planned(VarlenFwdRequest.from_arrays(q, k, k, strided, ints(0, 50, 100)))
    assert caught.value.field.startswith("cu_seqlens_q")


def test_a_packed_batch():
    p = values_of(packed(seqused_k=ints(3, 4)))
    assert (p["batch"], p["seqlen_q"], p["seqlen_k"]) == (2, 70, 70)
    assert all(p[name] for name in ("cu_seqlens_q", "cu_seqlens_k", "seqused_k"))
    assert p["seqused_q"] == 0
    assert [p[f"q_stride_{axis}"] for axis in ("batch", "row", "head")] == [0, 512, 64]
    assert [p[f"lse_stride_{axis}"] for axis in ("batch", "head", "row")] == [0, 100, 1]
    assert [p[f"partial_stride_{axis}"] for axis in ("batch", "head")] == [0, 100]


@pytest.mark.parametrize("hnd", [False, True], ids=["NHD", "HND"])
@pytest.mark.parametrize("size", [8, 16, 256])
def test_pages(hnd, size):
    p = values_of(paged(size=size, hnd=hnd, lens=(9, 8)))
    row, head = (64, size * 64) if hnd else (128, 64)
    assert [p[f"k_stride_{axis}"] for axis in ("batch", "row", "head")] == [size * 128, row, head]
    assert 1 << p["page_shift"] == size
    assert (p["page_table_stride"], p["num_pages"]) == (3, 0)
    assert p["page_table"]
    assert p["seqused_k"]
    assert (p["k"], p["v"], p["seqlen_k"]) == (0x2000, 0x3000, 3 * size)


def test_a_guard_says_how_many_pages_there_are():
    assert values_of(paged(guard=True, table=((1, 99, -5), (0, 0, 0))))["num_pages"] == 9


@pytest.mark.parametrize("dtype", [DType.F8E4M3, DType.F8E5M2])
def test_an_fp8_cache(dtype):
    per_head = np.ones(2, np.float32)
    request = paged(kv_dtype=dtype.numpy_name, k_scale=per_head, v_scale=0.25)
    p = values_of(request)
    assert planned(request)[0].spec.fp8_kv
    assert (p["k_scale"], p["k_scale_stride"], p["k_descale"]) == (per_head.ctypes.data, 1, 1.0)
    assert (p["v_scale"], p["v_scale_stride"], p["v_descale"]) == (0, 0, 0.25)
    assert p["kv_e5m2"] == (dtype is DType.F8E5M2)
    whole = values_of(paged(kv_dtype=dtype.numpy_name, k_scale=per_head[:1]))
    assert (whole["k_scale"], whole["k_scale_stride"]) == (per_head.ctypes.data, 0)
    strided = np.ones(10, np.float32)[::5]
    p = values_of(paged(kv_dtype=dtype.numpy_name, v_scale=strided))
    assert (p["v_scale"], p["v_scale_stride"], p["v_descale"]) == (strided.ctypes.data, 5, 1.0)


def test_partial_results_lie_in_the_workspace():
    request = dense(1, 3, 9000, batch_invariant=True)
    main, combine = planned(request)
    p, c = unpack(main.params, FWD_PARAMS), unpack(combine.params, COMBINE_PARAMS)
    assert (p["partial_out"], p["partial_lse"]) == (c["partial_out"], c["partial_lse"])
    assert p["partial_out"] == SCRATCH
    assert p["partial_lse"] == SCRATCH + 5 * 24 * 64 * 4
    assert (p["partial_rows"], p["partial_stride_batch"], p["partial_stride_head"]) == (24, 24, 3)
    assert (c["out"], c["lse"], c["batch"], c["heads"], c["seqlen"]) == (0x40000, 0x50000, 1, 8, 3)


def test_a_window_is_not_split_by_keys_that_nobody_sees():
    assert forward_shape(dense(1, 1, 100_000), SmArch.SM80, SM80).num_splits > 1
    windowed = dense(1, 1, 100_000, mask=MaskKind.sliding_causal(200))
    assert forward_shape(windowed, SmArch.SM80, SM80).num_splits == 1


@pytest.mark.parametrize("others", [0, 1, 7, 300])
@pytest.mark.parametrize("arch", SmArch)
def test_invariant_plans_do_not_know_the_batch(others, arch):
    def cut(batch):
        shape = forward_shape(dense(batch, 1, 9000, batch_invariant=True), arch, SM80)
        return shape.spec, shape.pack, shape.q_tiles, shape.num_splits, shape.blocks_per_split

    assert cut(1 + others) == cut(1)
    splits = {forward_shape(dense(n, 1, 9000), arch, SM80).num_splits for n in (1, 8, 300)}
    assert len(splits) > 1, "without the option the batch decides"


@pytest.mark.parametrize("make", [dense, packed, paged], ids=lambda make: make.__name__)
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_plan_is_a_pure_function(make, batch_invariant):
    request = make(batch_invariant=batch_invariant)
    assert planned(request) == planned(request)
    # Another request of the same arrays, planned elsewhere, differs in addresses alone.
    moved = planned(request, workspace=SCRATCH + 0x10000)
    for step, other in zip(planned(request), moved, strict=True):
        assert (step.spec, step.grid) == (other.spec, other.grid)
        layout = FWD_PARAMS if step.spec.kind == "fwd" else COMBINE_PARAMS
        one, two = unpack(step.params, layout), unpack(other.params, layout)
        assert {name for name in one if one[name] != two[name]} <= {"partial_out", "partial_lse"}


def without_addresses(request):
    """The launches with pointers blanked."""
    found = []
    for step in planned(request):
        layout = FWD_PARAMS if step.spec.kind == "fwd" else COMBINE_PARAMS
        pointers = {name for name, kind in layout.fields if kind == "pointer"}
        values = unpack(step.params, layout)
        found.append((step.spec, step.grid, {name: values[name] for name in values if name not in pointers}))
    return found


def test_lengths_and_pages_are_read_on_the_device_alone():
    """What a captured graph replays: new contents of the same arrays change nothing in the plan."""
    fixed = {"max_seqlen_q": 70, "max_seqlen_k": 90, "batch_invariant": False}
    plans = [
        without_addresses(packed(lengths_q=q, lengths_k=k, seqused_q=ints(*u), seqused_k=ints(*u), **fixed))
        for q, k, u in product(((30, 70), (70, 30), (50, 50)), ((50, 70), (90, 30)), ((1, 2), (30, 30)))
    ]
    assert all(other == plans[0] for other in plans)
    tables = ((1, 2, 3), (4, 5, 6)), ((0, 0, 0), (8, 8, 8))
    plans = [without_addresses(paged(table=t, lens=n)) for t, n in product(tables, ((40, 33), (1, 48)))]
    assert all(other == plans[0] for other in plans)
    assert without_addresses(paged(table=((1, 2), (3, 4)), lens=(20, 20))) != plans[0]


def test_a_plan_changes_no_array():
    request = paged()
    before = {name: (x.shape, x.strides, x.pointer) for name, x in request.arrays().items()}
    table = request.arrays()["page_table"].to_numpy().copy()
    planned(request)
    assert {name: (x.shape, x.strides, x.pointer) for name, x in request.arrays().items()} == before
    np.testing.assert_array_equal(request.arrays()["page_table"].to_numpy(), table)


def test_a_batch_beyond_65535_fits_the_grid():
    assert planned(dense(100_000, 1, 1, 4, 4))[0].grid == (400_000, 1, 1)


def test_a_grid_that_no_device_has():
    with pytest.raises(LaunchError, match="split the batch"):
        planned(dense(2**24, 1, 1, 128, 128))
