"""The append kernel in the emulator, against the reference."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from device_memory import Device, strided, wasted
from samples import normal

from flashactor.errors import MemoryAccessError
from flashactor.kernels.append import (
    THREADS,
    Pairs,
    append_launch,
    append_spec,
    append_specs,
)
from flashactor.reference import append, rotate
from flashactor.reference.quantization import store_as
from flashactor.requests.operands import KvLayout, PageTable, Rotary
from flashactor.requests.pages import BLOCK_SIZES
from flashactor.types import DType, SmArch

BFLOAT16 = ml_dtypes.bfloat16
DTYPES = {DType.F16: np.float16, DType.BF16: BFLOAT16}
FP8 = {DType.F8E4M3: ml_dtypes.float8_e4m3fn, DType.F8E5M2: ml_dtypes.float8_e5m2}
NUMPY = DTYPES | FP8
SLACK = 3e-7
"""What float32 may lose of a rotation, relative to the numbers that it adds."""


def table(rng, rows, half, dtype):
    """cos and sin of any angles, in gaps of poison that differ."""
    angles = rng.uniform(0, 2 * np.pi, (rows, half))
    sin = np.sin(angles).astype(dtype)
    return strided(np.cos(angles).astype(dtype)), strided(sin, 32 // sin.itemsize)


def pages_for(rng, prefix_lens, tokens, page_size, extra=2):
    """A table with distinct pages in any order, and the size of the pool."""
    columns = -(-(max(prefix_lens) + tokens) // page_size) + 1
    pool = len(prefix_lens) * columns + extra
    return rng.permutation(pool)[: len(prefix_lens) * columns].reshape(-1, columns).astype(np.int32), pool


class Case:
    """New keys and values, and the caches that they join."""

    def __init__(
        self,
        seed=0,
        *,
        dtype=DType.F16,
        cache_dtype=None,
        tokens=5,
        heads_q=4,
        heads=2,
        head_dim=32,
        head_dim_v=None,
        prefix_lens=(3, 0, 9),
        page_size=None,
        layout="NHD",
        gaps=True,
    ):
        rng = np.random.default_rng(seed)
        self.rng, self.dtype, self.cache_dtype = rng, dtype, cache_dtype or dtype
        self.tokens, self.layout, self.prefix_lens = tokens, layout, np.array(prefix_lens, np.int32)
        batch, dims = len(prefix_lens), (head_dim, head_dim if head_dim_v is None else head_dim_v)
        spread = strided if gaps else np.ascontiguousarray
        self.q = spread(normal(rng, batch, tokens, heads_q, head_dim, dtype=DTYPES[dtype]))
        self.k, self.v = (spread(normal(rng, batch, tokens, heads, d, dtype=DTYPES[dtype])) for d in dims)
        self.page_table = None
        shape = (batch, max(prefix_lens) + tokens + 2, heads)
        if page_size is not None:
            self.page_table, pool = pages_for(rng, prefix_lens, tokens, page_size)
            shape = (pool, page_size, heads) if layout == "NHD" else (pool, heads, page_size)
        self.caches = tuple(
            spread(normal(rng, *shape, d, dtype=np.float32).astype(NUMPY[self.cache_dtype])) for d in dims
        )
        self.rotary = self.interleaved = None
        self.q_rotated = np.zeros(self.q.shape, self.q.dtype)
        self.scales = (1.0, 1.0)

    def turned(self, rotary_dim, *, interleaved, floats=False):
        """The same with a rotary embedding."""
        rows = int(self.prefix_lens.max()) + self.tokens
        dtype = np.float32 if floats else DTYPES[self.dtype]
        self.rotary, self.interleaved = table(self.rng, rows, rotary_dim // 2, dtype), interleaved
        return self

    def expected(self, x):
        """k or q in float64, turned."""
        if self.rotary is None:
            return x.astype(np.float64)
        positions = self.prefix_lens[:, None] + np.arange(self.tokens)
        return rotate(x, *self.rotary, positions, bool(self.interleaved))

    def appended(self, cache, new, scale=1.0, guard=False):
        """What a cache should be."""
        want = cache.copy()
        append(want, new, self.prefix_lens, self.page_table, self.layout, scale=scale, guard=guard)
        return want

    def run(self, *, arch=SmArch.SM80, scalar_prefix=False, guard=False, report=False):
        """Write into the caches and q_rotated."""
        device = Device()
        rotary = pages = None
        if self.rotary is not None:
            cos, sin = (device.view(x, n) for x, n in zip(self.rotary, ("cos", "sin"), strict=True))
            rotary = Rotary(cos=cos, sin=sin, interleaved=self.interleaved)
        if self.page_table is not None:
            view = device.view(self.page_table, "page_table")
            pages = PageTable(page_table=view, seq_lens=None, layout=KvLayout(self.layout))
        q, k, v = (device.view(x, n) for x, n in ((self.q, "q"), (self.k, "k"), (self.v, "v")))
        k_cache, v_cache = (
            device.view(x, n, read_only=False)
            for x, n in zip(self.caches, ("k_cache", "v_cache"), strict=True)
        )
        scales = [
            device.view(x, f"{n}_scale") if isinstance(x, np.ndarray) else x
            for n, x in zip("kv", self.scales, strict=True)
        ]
        target = device.view(self.q_rotated, "q_rotated", out=True).pointer if rotary is not None else 0
        launch = append_launch(
            append_spec(arch, self.dtype, self.cache_dtype, Pairs.of(rotary)),
            q,
            k,
            v,
            k_cache,
            v_cache,
            q_rotated=target,
            prefix=int(self.prefix_lens[0]) if scalar_prefix else 0,
            prefix_lens=None if scalar_prefix else device.view(self.prefix_lens, "prefix_lens"),
            pages=pages,
            rotary=rotary,
            k_scale=scales[0],
            v_scale=scales[1],
            guard=guard,
        )
        return device.run(launch, report=report)


def bits(x):
    return np.ascontiguousarray(x).view(f"u{x.itemsize}")


def expect_same(got, want):
    np.testing.assert_array_equal(bits(got), bits(want))


def expect_rounded(got, exact, slack):
    """``got`` is the nearest number of its type to something within ``slack`` of ``exact``."""
    values = got.astype(np.float64)
    assert (store_as(exact - slack, got.dtype).astype(np.float64) <= values).all()
    assert (values <= store_as(exact + slack, got.dtype).astype(np.float64)).all()


def expect_turned(case, before, k_scale=1.0):
    """Caches and q_rotated are what they should be, given the caches from before."""
    largest = float(max(np.abs(case.q.astype(np.float64)).max(), np.abs(case.k.astype(np.float64)).max()))
    slack = 2 * SLACK * largest
    expect_rounded(case.q_rotated, case.expected(case.q), slack)
    exact = case.expected(case.k)
    low, high = (case.appended(before[0], exact + side * slack, k_scale) for side in (-1, 1))
    got = case.caches[0].astype(np.float64)
    assert (low.astype(np.float64) <= got).all()
    assert (got <= high.astype(np.float64)).all()
    expect_same(case.caches[1], case.appended(before[1], case.v))


def expect_appended(case, before):
    """The same where there may be no rotary embedding: then keys are moved as they are."""
    if case.rotary is not None:
        expect_turned(case, before)
        return
    for cache, old, new in zip(case.caches, before, (case.k, case.v), strict=True):
        expect_same(cache, case.appended(old, new))


def copies(case):
    return tuple(cache.copy() for cache in case.caches)


def gaps_are_poison(view):
    base = view.base.astype(np.float32)
    return np.isnan(base).sum() == base.size - view.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("page_size", "layout"),
    [(None, "NHD"), *((size, layout) for size in BLOCK_SIZES for layout in ("NHD", "HND"))],
    ids=str,
)
def test_new_keys_join_every_cache(dtype, page_size, layout):
    size = page_size or 8
    case = Case(
        size,
        dtype=dtype,
        prefix_lens=(size - 2, 0, size // 2, 2 * size),
        tokens=4,
        page_size=page_size,
        layout=layout,
        head_dim=24,
        head_dim_v=40,
    )
    before = copies(case)
    case.run()
    expect_appended(case, before)
    assert all(map(gaps_are_poison, case.caches))


@pytest.mark.parametrize("arch", SmArch)
def test_every_architecture(arch):
    for dtype, cache_dtype, interleaved in (
        (DType.F16, DType.F16, None),
        (DType.BF16, DType.BF16, False),
        (DType.F16, DType.F8E4M3, True),
        (DType.BF16, DType.F8E5M2, None),
        (DType.F16, DType.F8E5M2, False),
    ):
        case = Case(1, dtype=dtype, cache_dtype=cache_dtype, tokens=2, prefix_lens=(1, 4))
        if interleaved is not None:
            case.turned(32, interleaved=interleaved)
        before = copies(case)
        case.run(arch=arch)
        expect_appended(case, before)


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 1, "heads_q": 1, "head_dim": 8, "tokens": 70, "prefix_lens": (1, 2)},  # rows share a block
        {"heads": 3, "heads_q": 12, "head_dim": 256, "head_dim_v": 128, "tokens": 1},  # a row takes several
        {"heads": 8, "heads_q": 8, "head_dim": 128, "head_dim_v": 128, "tokens": 3},
        {"heads": 1, "heads_q": 9, "head_dim": 16, "head_dim_v": 8, "tokens": 33},
    ],
    ids=str,
)
@pytest.mark.parametrize("interleaved", [None, False, True])
def test_every_shape(shape, interleaved):
    case = Case(2, **shape)
    if interleaved is not None and case.q.shape[-1] >= 16:
        case.turned(16, interleaved=interleaved)
    before = copies(case)
    case.run(arch=SmArch.SM90A)
    expect_appended(case, before)


def test_one_prefix_serves_all_sequences():
    case = Case(3, prefix_lens=(6, 6), page_size=8).turned(32, interleaved=False)
    before = copies(case)
    case.run(scalar_prefix=True)
    expect_turned(case, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("floats", [False, True], ids=["16bit", "float32"])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 64), (64, 16), (80, 48)], ids=str)
def test_rotation(dtype, interleaved, floats, head_dim, rotary_dim):
    case = Case(4, dtype=dtype, head_dim=head_dim, page_size=16, layout="HND")
    case.turned(rotary_dim, interleaved=interleaved, floats=floats)
    before = copies(case)
    case.run()
    expect_turned(case, before)
    expect_same(case.q_rotated[..., rotary_dim:], case.q[..., rotary_dim:])
    assert (bits(case.q_rotated[..., :rotary_dim]) != bits(case.q[..., :rotary_dim])).any()


@pytest.mark.parametrize("arch", [SmArch.SM80, SmArch.SM89])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cache_dtype", FP8)
def test_every_16_bit_number_becomes_fp8(arch, dtype, cache_dtype):
    """Both ways to convert, with integers and with the instruction."""
    case = Case(
        5,
        dtype=dtype,
        cache_dtype=cache_dtype,
        tokens=64,
        heads=4,
        head_dim=256,
        head_dim_v=8,
        prefix_lens=(0,),
        gaps=False,
    )
    everything = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype])
    case.k = everything.reshape(1, 64, 4, 256)
    case.run(arch=arch)
    got = case.caches[0][0, :64].reshape(-1)
    limit = float(ml_dtypes.finfo(FP8[cache_dtype]).max)
    with np.errstate(invalid="ignore"):
        nan = np.isnan(everything)
        want = np.clip(everything.astype(np.float32), -limit, limit).astype(FP8[cache_dtype])
    expect_same(got[~nan], want[~nan])
    assert (bits(got)[nan] == 0x7F).all()
    assert np.isnan(got[nan].astype(np.float32)).all()


@pytest.mark.parametrize("arch", [SmArch.SM86, SmArch.SM100])
@pytest.mark.parametrize("cache_dtype", FP8)
@pytest.mark.parametrize("interleaved", [None, False, True])
@pytest.mark.parametrize("scale", ["number", "one", "per head"])
def test_scales(arch, cache_dtype, interleaved, scale):
    case = Case(6, dtype=DType.BF16, cache_dtype=cache_dtype, heads=3, page_size=8, head_dim=48)
    per_head = strided(np.array([[0.3], [2.5], [1e-4]], np.float32), 3)[:, 0]  # the last one saturates
    k_scale, v_scale = {
        "number": (0.37, 1.7),
        "one": (np.array([[0.37]], np.float32), np.array(1.7, np.float32)),
        "per head": (per_head, per_head[::-1].copy()),
    }[scale]
    case.scales = (k_scale, v_scale)
    if interleaved is not None:
        case.turned(32, interleaved=interleaved, floats=True)
    before = copies(case)
    case.run(arch=arch)
    for cache, old, new, descale in (
        (case.caches[0], before[0], case.expected(case.k), k_scale),
        (case.caches[1], before[1], case.v.astype(np.float64), v_scale),
    ):
        factor = np.float32(descale) if isinstance(descale, float) else descale
        slack = 2 * SLACK * np.abs(new).max()
        low, high = (case.appended(old, new + side * slack, factor) for side in (-1, 1))
        got = cache.astype(np.float64)
        assert (low.astype(np.float64) <= got).all()
        assert (got <= high.astype(np.float64)).all()


def test_scales_do_not_change_16_bit_caches():
    case = Case(7)
    case.scales = (0.5, np.array([3.0], np.float32))
    before = copies(case)
    case.run()
    expect_appended(case, before)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_the_guard_keeps_out_of_pages_that_are_not_in_the_pool(layout):
    case = Case(8, page_size=8, layout=layout, tokens=12, prefix_lens=(3, 0, 9)).turned(16, interleaved=False)
    pool = case.caches[0].shape[0]
    case.page_table[0, 0], case.page_table[1, 1], case.page_table[2, 2] = -1, pool, 2**31 - 1
    before = copies(case)
    case.run(guard=True)
    want = case.appended(before[0], case.expected(case.k), guard=True)
    np.testing.assert_allclose(case.caches[0].astype(float), want.astype(float), rtol=2e-3, atol=1e-4)
    expect_same(case.caches[1], case.appended(before[1], case.v, guard=True))
    expect_rounded(case.q_rotated, case.expected(case.q), 1e-5)


def test_the_guard_reads_no_page_behind_the_table():
    case = Case(9, page_size=8, tokens=12, prefix_lens=(5, 0))
    case.page_table = np.ascontiguousarray(case.page_table[:, :1])
    before = copies(case)
    case.run(guard=True)
    want = before[1].copy()
    for b, start in enumerate(case.prefix_lens):
        want[case.page_table[b, 0], start:8] = case.v[b, : 8 - start]
    expect_same(case.caches[1], want)


def test_without_the_guard_such_a_page_is_a_fault():
    case = Case(10, page_size=8)
    case.page_table[1, 0] = case.caches[0].shape[0] + 100
    with pytest.raises(MemoryAccessError):
        case.run()


@pytest.mark.parametrize("interleaved", [None, False, True])
@pytest.mark.parametrize("cache_dtype", [None, DType.F8E4M3])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_no_sector_is_wasted(interleaved, cache_dtype, layout):
    case = Case(
        11,
        cache_dtype=cache_dtype,
        head_dim=128,
        head_dim_v=64,
        page_size=16,
        tokens=4,
        gaps=False,
        layout=layout,
    )
    if interleaved is not None:
        case.turned(128, interleaved=interleaved)
        case.rotary = tuple(np.ascontiguousarray(x) for x in case.rotary)
    lines = case.run(report=True)
    stores = [line for line in lines if line.space == "global" and re.match(r"st\.", line.instruction)]
    assert len(stores) == 2 + (interleaved is not None)
    assert wasted(lines) == []


def test_tiles_hold_whole_rows():
    for heads, head_dim in ((1, 8), (2, 64), (8, 128), (64, 256)):
        case = Case(heads=heads, head_dim=head_dim, gaps=False)
        device = Device()
        views = [device.view(x, n) for x, n in ((case.k, "k"), (case.v, "v"))]
        caches = [device.view(x, n) for x, n in zip(case.caches, ("k_cache", "v_cache"), strict=True)]
        plan = append_launch(append_spec(SmArch.SM80, DType.F16), None, *views, *caches, prefix=2)
        chunks, rows = 2 * heads * head_dim // 8, case.k.shape[0] * case.k.shape[1]
        assert plan.block == (THREADS, 1, 1)
        assert plan.grid[0] * THREADS >= rows * chunks
        assert plan.grid[0] <= 1 + 2 * rows * chunks / THREADS


def test_specs_and_labels():
    assert len(set(append_specs(SmArch.SM80))) == 18
    spec = append_spec(SmArch.SM90A, DType.BF16, DType.F8E4M3)
    assert spec.label == "common.append.bf16.e4m3.sm_90a"
    assert replace(spec, fp8=None) == append_spec(SmArch.SM90A, DType.BF16, DType.BF16)
    assert replace(spec, pairs=Pairs.HALVES).label == "common.append.bf16.e4m3.rotary.sm_90a"
