"""Paged caches with shuffled pages against PyTorch on the keys in their order."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from torch_attention import attention_of, leaf, mask

from flashactor.errors import OperandError, RequestError
from flashactor.reference import (
    AttentionParams,
    append,
    dequantize,
    forward_paged,
    forward_varlen,
    gather,
    quantize,
)

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
LAYOUTS = ["NHD", "HND"]


@dataclass(frozen=True)
class Pool:
    """Keys of some sequences scattered over a pool of pages, the unused ones full of NaN."""

    cache: np.ndarray
    page_table: np.ndarray


def scatter(sequences: list[np.ndarray], layout: str, block_size: int) -> Pool:
    rng = np.random.default_rng(31)
    per_seq = max(-(-len(x) // block_size) for x in sequences) + 1
    heads, dim = sequences[0].shape[1:]
    num_blocks = per_seq * len(sequences) + 3
    cache = np.full((num_blocks, block_size, heads, dim), np.nan)
    free = list(rng.permutation(num_blocks))
    page_table = np.full((len(sequences), per_seq), -1, dtype=np.int32)
    for row, keys in zip(page_table, sequences, strict=True):
        for page in range(-(-len(keys) // block_size)):
            row[page] = free.pop()
            part = keys[page * block_size : (page + 1) * block_size]
            cache[row[page], : len(part)] = part
    return Pool(cache if layout == "NHD" else np.ascontiguousarray(cache.transpose(0, 2, 1, 3)), page_table)


def sequences(lengths: list[int], heads: int, dim: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, heads, dim)) for length in lengths]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block_size", [8, 16])
def test_gather_puts_the_keys_in_their_order(layout: str, block_size: int) -> None:
    keys = sequences([1, 8, 23, 0, 32], 3, 4, seed=1)
    pool = scatter(keys, layout, block_size)
    for row, expected in zip(pool.page_table, keys, strict=True):
        np.testing.assert_array_equal(gather(pool.cache, row, len(expected), layout), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("q_tokens", [1, 5])
@pytest.mark.parametrize(
    ("extra", "sees"),
    [
        ({}, lambda d, j: True),
        ({"window_right": 0}, lambda d, j: d >= 0),
        (
            {"window_left": 6, "window_right": 0, "sink_tokens": 3},
            lambda d, j: d >= 0 and (d < 7 or j < 3),
        ),
    ],
    ids=["full", "causal", "window-and-sinks"],
)
def test_paged_matches_torch(layout: str, q_tokens: int, extra: dict[str, int], sees) -> None:
    rng = np.random.default_rng(32)
    lengths = [3, 16, 41, 64, 0]
    keys, values = sequences(lengths, 2, 16, seed=2), sequences(lengths, 2, 8, seed=3)
    k_pool, v_pool = scatter(keys, layout, 16), scatter(values, layout, 16)
    q = rng.standard_normal((5, q_tokens, 4, 16))
    slopes = rng.uniform(0.1, 1.0, (5, 4))
    sinks = rng.standard_normal(4)
    params = AttentionParams(0.25, alibi_slopes=slopes, sink_logits=sinks, **extra)
    out, lse = forward_paged(
        q, k_pool.cache, v_pool.cache, k_pool.page_table, np.array(lengths, np.int32), params, layout
    )
    assert out.shape == (5, q_tokens, 4, 8)
    assert lse.shape == (5, 4, q_tokens)
    for s, length in enumerate(lengths[:-1]):
        expected, expected_lse = attention_of(
            params,
            mask(sees, q_tokens, length),
            *(leaf(x[None]) for x in (q[s], keys[s], values[s])),
            slopes=leaf(slopes[s]),
            sink_logits=leaf(sinks),
        )
        np.testing.assert_allclose(out[s], expected.detach().numpy()[0], **TIGHT)
        np.testing.assert_allclose(lse[s], expected_lse.detach().numpy()[0], **TIGHT)
    assert not out[-1].any()
    assert np.isneginf(lse[-1]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp8_pages_with_a_descale(layout: str) -> None:
    keys = sequences([20, 33], 2, 16, seed=4)
    quantized, descale = quantize(np.concatenate(keys), "e4m3")
    pool = scatter([quantized[:20].astype(np.float64), quantized[20:].astype(np.float64)], layout, 8)
    cache = pool.cache.astype(ml_dtypes.float8_e4m3fn)
    row = pool.page_table[1]
    np.testing.assert_array_equal(
        gather(dequantize(cache, descale), row, 33, layout), dequantize(quantized[20:], descale)
    )


def random_pools(layout: str, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """A K and a V pool of 6 pages of 8 keys, 2 heads, head_dims 16 and 24."""
    rng = np.random.default_rng(33)
    shapes = [(6, 8, 2, dim) if layout == "NHD" else (6, 2, 8, dim) for dim in (16, 24)]
    return rng.standard_normal(shapes[0]).astype(dtype), rng.standard_normal(shapes[1]).astype(dtype)


TABLE, SEQ_LENS = np.array([[4, 1], [3, 5], [0, 2]], np.int32), np.array([11, 16, 4], np.int32)
CAUSAL = AttentionParams(0.25, window_right=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_queries_are_each_sequences_own(layout: str) -> None:
    """A sequence may also have no query, or more queries than keys."""
    rng = np.random.default_rng(34)
    q, pools, bounds = rng.standard_normal((9, 4, 16)), random_pools(layout), np.array([0, 3, 3, 9])
    params = AttentionParams(
        0.25, window_right=0, alibi_slopes=rng.uniform(0.1, 1.0, (3, 4)), dropout_p=0.3, dropout_seed=4
    )
    out, lse = forward_paged(q, *pools, TABLE, SEQ_LENS, params, layout, cu_seqlens_q=bounds)
    assert out.shape == (9, 4, 24)
    assert lse.shape == (4, 9)
    for index, (start, stop) in enumerate([(0, 3), (3, 3), (3, 9)]):
        k, v = (gather(pool, TABLE[index], SEQ_LENS[index], layout) for pool in pools)
        keys, rows = np.array([0, 0, 0, 0]), np.array([0, 0, 0, 0])
        keys[index + 1 :], rows[index + 1 :] = len(k), stop - start
        want, want_lse = forward_varlen(q[start:stop], k, v, rows, keys, params)
        np.testing.assert_array_equal(out[start:stop], want)
        np.testing.assert_array_equal(lse[:, start:stop], want_lse)


@pytest.mark.parametrize("per_head", [False, True], ids=["per-tensor", "per-head"])
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_caches_stand_for_their_values_times_the_scale(name: str, per_head: bool) -> None:
    q = np.random.default_rng(35).standard_normal((3, 2, 4, 16)).astype(ml_dtypes.bfloat16)
    k_pool, v_pool = random_pools("NHD", getattr(ml_dtypes, name))
    k_scale = np.array([0.5, 2.0], np.float32) if per_head else np.full((1, 1), 0.5, np.float32)
    v_scale = np.array([3.0, 0.25], np.float32) if per_head else 0.125
    got = forward_paged(q, k_pool, v_pool, TABLE, SEQ_LENS, CAUSAL, k_scale=k_scale, v_scale=v_scale)
    exact = [
        pool.astype(np.float64) * np.broadcast_to(np.asarray(scale), (1, 2) if per_head else (1, 1)).T
        for pool, scale in ((k_pool, k_scale), (v_pool, v_scale))
    ]
    for actual, want in zip(got, forward_paged(q, *exact, TABLE, SEQ_LENS, CAUSAL), strict=True):
        np.testing.assert_allclose(actual, want, **TIGHT)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("outside", [-1, 6, 1 << 30])
def test_guarded_blocks_outside_of_the_pool_read_as_zeros(layout: str, outside: int) -> None:
    q = np.random.default_rng(36).standard_normal((3, 2, 4, 16))
    k_pool, v_pool = random_pools(layout)
    table = TABLE.copy()
    table[1, 0] = outside
    with pytest.raises(OperandError, match="page_table"):
        forward_paged(q, k_pool, v_pool, table, SEQ_LENS, CAUSAL, layout)
    got = forward_paged(q, k_pool, v_pool, table, SEQ_LENS, CAUSAL, layout, guard=True)
    k_pool[TABLE[1, 0]] = v_pool[TABLE[1, 0]] = 0.0
    for actual, want in zip(
        got, forward_paged(q, k_pool, v_pool, TABLE, SEQ_LENS, CAUSAL, layout), strict=True
    ):
        np.testing.assert_array_equal(actual, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("position", [0, 3, 8, 13])
def test_append_writes_these_tokens_and_nothing_else(layout: str, position: int) -> None:
    old = sequences([position, position], 2, 4, seed=5)
    pool = scatter([*old, np.ones((30, 2, 4))], layout, 8)
    new = np.stack(sequences([9, 9], 2, 4, seed=6))
    table = np.array([[0, 3, 5], [2, 1, 7]], dtype=np.int32)
    cache = np.zeros_like(pool.cache[:8])
    append(cache, new, position, table, layout)
    for row, tokens in zip(table, new, strict=True):
        np.testing.assert_array_equal(gather(cache, row, position + 9, layout)[position:], tokens)
    assert np.count_nonzero(cache) == new.size


def test_append_to_a_contiguous_cache_rounds_to_its_type() -> None:
    cache = np.zeros((2, 12, 2, 4), dtype=ml_dtypes.bfloat16)
    new = np.stack(sequences([5, 5], 2, 4, seed=7))
    append(cache, new, 4)
    np.testing.assert_array_equal(cache[:, 4:9], new.astype(ml_dtypes.bfloat16))
    assert not cache[:, :4].any()
    assert not cache[:, 9:].any()


CACHE, NEW = np.zeros((4, 8, 2, 4)), np.zeros((1, 5, 2, 4))


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: gather(CACHE, np.array([0]), 9), "page_table"),
        (lambda: gather(CACHE, np.array([0, 4]), 9), "page_table"),
        (lambda: gather(CACHE, np.array([-1]), 1), "page_table"),
        (lambda: gather(CACHE, np.array([0]), 1, "NDH"), "layout"),
        (lambda: append(CACHE[:1], NEW, 4), "cache"),
        (lambda: append(CACHE, NEW, 0), "cache"),
        (lambda: append(CACHE, NEW[..., :3], 0, np.array([[0]])), "cache"),
        (lambda: append(CACHE, NEW, 4, np.array([[0]])), "page_table"),
        (lambda: append(CACHE, NEW, 0, np.array([[0], [1]])), "page_table"),
        (lambda: paged(q=np.ones((1, 1, 2, 8))), "k"),
        (lambda: paged(q=np.ones((1, 1, 3, 4))), "k"),
        (lambda: paged(v_cache=np.ones((4, 4, 2, 4))), "v_cache"),
        (lambda: paged(page_table=np.array([0])), "page_table"),
        (lambda: paged(page_table=np.array([[0], [1]])), "page_table"),
        (lambda: paged(seq_lens=np.array([1, 2])), "seq_lens"),
        (lambda: paged(cu_seqlens_q=np.array([0, 1])), "q"),
        (lambda: paged(q=np.ones((3, 2, 4)), cu_seqlens_q=np.array([0, 2])), "cu_seqlens_q"),
        (lambda: paged(q=np.ones((3, 2, 4)), cu_seqlens_q=np.array([0, 1, 3])), "page_table"),
        (lambda: paged(k_scale=np.ones(3)), "descale"),
        (lambda: paged(guard=True, seq_lens=np.array([9])), "page_table"),
        (lambda: append(CACHE, NEW, np.array([0, 0]), np.array([[0]])), "position"),
    ],
)
def test_operands_that_contradict_each_other(call, field: str) -> None:
    with pytest.raises(OperandError) as caught:
        call()
    assert caught.value.field == field


def test_negative_position() -> None:
    with pytest.raises(RequestError, match="position"):
        append(CACHE, NEW, -1, np.array([[0]]))


def paged(**changes: Any) -> None:
    operands = {
        "q": np.ones((1, 1, 2, 4)),
        "k_cache": CACHE,
        "v_cache": CACHE,
        "page_table": np.array([[0]]),
        "seq_lens": np.array([3]),
    }
    forward_paged(**(operands | changes), params=AttentionParams(1.0))
