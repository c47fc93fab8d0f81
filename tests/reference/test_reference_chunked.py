"""A prefill in chunks is one prefill, however it is cut."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_attention import attention_of, leaf, mask

from flashactor.errors import OperandError
from flashactor.reference import (
    AttentionParams,
    append,
    dequantize,
    forward,
    forward_chunked,
    gather,
    rotate,
)

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
BATCH, HEADS_Q, HEADS_KV, HEAD_DIM, HEAD_DIM_V, BLOCK = 2, 4, 2, 8, 16, 8

MASKS = {
    "causal": ({"window_right": 0}, lambda d, j: d >= 0),
    "sliding": ({"window_left": 4, "window_right": 0}, lambda d, j: 0 <= d < 5),
    "sinks": (
        {"window_left": 4, "window_right": 0, "sink_tokens": 3},
        lambda d, j: d >= 0 and (d < 5 or j < 3),
    ),
}


@pytest.mark.parametrize("cache", ["contiguous", "NHD", "HND"])
@pytest.mark.parametrize(("extra", "sees"), MASKS.values(), ids=MASKS.keys())
@settings(max_examples=15)
@given(chunks=st.lists(st.integers(0, 13), min_size=1, max_size=5))
def test_chunks_of_any_size_make_one_prefill(
    extra: dict[str, int], sees, cache: str, chunks: list[int]
) -> None:
    rng = np.random.default_rng(41)
    total = sum(chunks)
    q = rng.standard_normal((BATCH, total, HEADS_Q, HEAD_DIM))
    k = rng.standard_normal((BATCH, total, HEADS_KV, HEAD_DIM))
    v = rng.standard_normal((BATCH, total, HEADS_KV, HEAD_DIM_V))
    slopes, sinks = rng.uniform(0.1, 1.0, HEADS_Q), rng.standard_normal(HEADS_Q)
    params = AttentionParams(0.3, softcap=4.0, alibi_slopes=slopes, sink_logits=sinks, **extra)
    k_cache, v_cache, page_table = caches(cache)
    outs, lses = [], []
    prefix = 0
    for size in chunks:
        part = slice(prefix, prefix + size)
        out, lse = forward_chunked(
            q[:, part],
            k[:, part],
            v[:, part],
            k_cache,
            v_cache,
            prefix,
            params,
            page_table,
            "NHD" if page_table is None else cache,
        )
        outs.append(out)
        lses.append(lse)
        prefix += size

    out, lse = np.concatenate(outs, axis=1), np.concatenate(lses, axis=2)
    assert out.shape == (BATCH, total, HEADS_Q, HEAD_DIM_V)
    stored = (
        k_cache[:, :total]
        if page_table is None
        else np.stack([gather(k_cache, row, total, cache) for row in page_table])
    )
    np.testing.assert_array_equal(stored, k)
    if total:
        expected, expected_lse = attention_of(
            params, mask(sees, total, total), leaf(q), leaf(k), leaf(v), leaf(slopes), leaf(sinks)
        )
        np.testing.assert_allclose(out, expected.detach().numpy(), **TIGHT)
        np.testing.assert_allclose(lse, expected_lse.detach().numpy(), **TIGHT)


def chunk(seed: int, tokens: int = 5, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (HEADS_Q, HEAD_DIM), (HEADS_KV, HEAD_DIM), (HEADS_KV, HEAD_DIM_V)
    return tuple(rng.standard_normal((BATCH, tokens, *shape)).astype(dtype) for shape in shapes)


@pytest.mark.parametrize("cache", ["contiguous", "NHD", "HND"])
@pytest.mark.parametrize("tokens", [1, 9])
def test_sequences_may_have_prefixes_of_their_own(cache: str, tokens: int) -> None:
    """What lies beyond a sequence's own keys is NaN, and nobody sees it."""
    k_cache, v_cache, page_table = caches(cache)
    layout = "NHD" if page_table is None else cache
    slopes = np.random.default_rng(43).uniform(0.1, 1.0, (BATCH, HEADS_Q))
    params = AttentionParams(0.3, window_right=0, alibi_slopes=slopes)
    prefixes = np.array([3, 20], np.int32)
    _, old_k, old_v = chunk(1, 20)
    q, k, v = chunk(2, tokens)
    append(k_cache, old_k, 0, page_table, layout)
    append(v_cache, old_v, 0, page_table, layout)
    out, lse = forward_chunked(q, k, v, k_cache, v_cache, prefixes, params, page_table, layout)
    for index, prefix in enumerate(prefixes):
        own_k, own_v = (
            np.concatenate([old[index, :prefix], new[index]])[None] for old, new in ((old_k, k), (old_v, v))
        )
        own = AttentionParams(0.3, window_right=0, alibi_slopes=slopes[index])
        want, want_lse = forward(q[index][None], own_k, own_v, own)
        np.testing.assert_array_equal(out[index], want[0])
        np.testing.assert_array_equal(lse[index], want_lse[0])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("cache", ["contiguous", "NHD"])
def test_rotated_chunks_are_the_rotated_prefill(cache: str, interleaved: bool) -> None:
    params = AttentionParams(0.3, window_right=0)
    angle = np.random.default_rng(44).uniform(0, 6, (30, 3))
    tables = {"rotary_cos": np.cos(angle), "rotary_sin": np.sin(angle), "rotary_interleaved": interleaved}
    q, k, v = chunk(3, 12)
    k_cache, v_cache, page_table = caches(cache)
    outs = []
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        new = (x[:, part] for x in (q, k, v))
        out, _ = forward_chunked(*new, k_cache, v_cache, part.start, params, page_table, **tables)
        outs.append(out)
    turned = [rotate(x, np.cos(angle), np.sin(angle), np.arange(12), interleaved) for x in (q, k)]
    np.testing.assert_allclose(np.concatenate(outs, axis=1), forward(*turned, v, params)[0], **TIGHT)


@pytest.mark.parametrize("cache", ["contiguous", "NHD", "HND"])
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_caches_hold_what_was_stored_over_the_scale(name: str, cache: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    limit = float(ml_dtypes.finfo(dtype).max)
    k_cache, v_cache, page_table = caches(cache)
    k_cache, v_cache = np.zeros_like(k_cache, dtype), np.zeros_like(v_cache, dtype)
    layout = "NHD" if page_table is None else cache
    q, k, v = chunk(4, 5, ml_dtypes.bfloat16)
    k[0, 0, :, 0], v[0, 1, 0, :2] = 3e38, -3e38
    k_scale, v_scale = np.array([0.5, 3.0], np.float32), 0.25
    params = AttentionParams(0.01, window_right=0)
    out, lse = forward_chunked(
        q, k, v, k_cache, v_cache, 2, params, page_table, layout, k_scale=k_scale, v_scale=v_scale
    )
    stored_k = np.clip(k.astype(np.float64) / k_scale[:, None], -limit, limit).astype(dtype)
    stored_v = np.clip(v.astype(np.float64) / v_scale, -limit, limit).astype(dtype)
    assert np.isfinite(stored_k.astype(np.float64)).all()
    for pool, stored in ((k_cache, stored_k), (v_cache, stored_v)):
        rows = pool if page_table is None else [gather(pool, row, 7, layout) for row in page_table]
        np.testing.assert_array_equal(np.stack([row[2:7] for row in rows]), stored)
    full = [np.zeros((BATCH, 7, *x.shape[2:])) for x in (k, v)]
    full[0][:, 2:], full[1][:, 2:] = dequantize(stored_k, k_scale), dequantize(stored_v, v_scale)
    want, want_lse = forward(q, *full, params)
    np.testing.assert_allclose(out, want, **TIGHT)
    np.testing.assert_allclose(lse, want_lse, **TIGHT)


def test_guarded_chunks_are_not_stored_where_no_page_is() -> None:
    k_cache, v_cache, page_table = caches("NHD")
    k_cache[:], v_cache[:] = 0.0, 0.0
    page_table[0, 0], page_table[1, 0] = -1, 24
    q, k, v = chunk(5, 3)
    params = AttentionParams(0.3, window_right=0)
    with pytest.raises(OperandError, match="page_table"):
        forward_chunked(q, k, v, k_cache, v_cache, 6, params, page_table)
    out, _ = forward_chunked(q, k, v, k_cache, v_cache, 6, params, page_table, guard=True)
    assert np.count_nonzero(k_cache) == k[:, 2:].size  # two of three keys fall into the missing page
    full = [np.zeros((BATCH, 9, *x.shape[2:])) for x in (k, v)]
    full[0][:, 8:], full[1][:, 8:] = k[:, 2:], v[:, 2:]
    np.testing.assert_allclose(out, forward(q, *full, params)[0], **TIGHT)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("q", {"q": np.ones((BATCH, 4, HEADS_Q, HEAD_DIM))}),
        ("k", {"q": np.ones((BATCH, 5, 3, HEAD_DIM))}),
        ("cache", {"v": np.ones((BATCH, 5, HEADS_KV, HEAD_DIM))}),
        ("position", {"prefix": np.zeros(3, np.int32)}),
        ("rotary_cos", {"rotary_cos": np.ones((4, 2)), "rotary_sin": np.ones((4, 2))}),
    ],
)
def test_chunks_that_contradict_each_other(field: str, changes: dict[str, np.ndarray]) -> None:
    q, k, v = chunk(6)
    k_cache, v_cache, _ = caches("contiguous")
    operands = {"q": q, "k": k, "v": v, "k_cache": k_cache, "v_cache": v_cache, "prefix": 0} | changes
    with pytest.raises(OperandError) as caught:
        forward_chunked(**operands, params=AttentionParams(0.3))
    assert caught.value.field == field


def caches(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """K and V caches full of NaN with room for 72 keys, and the page table of a pool."""
    if kind == "contiguous":
        shapes = [(BATCH, 72, HEADS_KV, dim) for dim in (HEAD_DIM, HEAD_DIM_V)]
        return np.full(shapes[0], np.nan), np.full(shapes[1], np.nan), None
    page_table = np.random.default_rng(42).permutation(24)[:18].reshape(BATCH, 9).astype(np.int32)
    pools = [np.full((24, BLOCK, HEADS_KV, dim), np.nan) for dim in (HEAD_DIM, HEAD_DIM_V)]
    if kind == "HND":
        pools = [np.ascontiguousarray(pool.transpose(0, 2, 1, 3)) for pool in pools]
    return pools[0], pools[1], page_table
