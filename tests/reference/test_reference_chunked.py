"""A prefill in chunks is one prefill, however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_attention import attention_of, leaf, mask

from flashactor.reference import AttentionParams, forward_chunked, gather

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
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
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
