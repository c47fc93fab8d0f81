"""A prefill in chunks is the prefill: the same out, lse and cache as of one pass, whatever the chunks are."""

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flashactor import ChunkedPrefillRequest, ChunkLayout, Fa2FwdRequest, KvLayout, MaskKind, SmArch
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import with_outputs
from flashactor.kernels.sm80_forward import SM80

BATCH, HEADS, HEADS_KV, HEAD_DIM = 2, 4, 2, 64
PAGE = 8
CAUSAL = {"mask": MaskKind.causal()}


def compute(request):
    """out and lse of a request, by the kernels."""
    arrays = with_outputs(request, request.arrays())
    emulate(request, SmArch.SM80, SM80, arrays)
    return arrays["out"].to_numpy(), arrays["lse"].to_numpy()


@st.composite
def chunkings(draw):
    """Lengths of the chunks of one sequence: single tokens, a few, and more than a tile has rows."""
    lengths = draw(st.lists(st.sampled_from([1, 2, 3, 8, 17, 40, 130]), min_size=1, max_size=5))
    return lengths if sum(lengths) <= 200 else lengths[:1]


def tensors(length):
    rng = np.random.default_rng(length)
    heads = (HEADS, HEADS_KV, HEADS_KV)
    return [rng.standard_normal((BATCH, length, n, HEAD_DIM)).astype(np.float16) for n in heads]


def caches_of(length, layout):
    """Caches with room for more than the sequences, and the page table: pages are dealt out backwards."""
    if layout is None:
        return [np.full((BATCH, length + 9, HEADS_KV, HEAD_DIM), np.nan, np.float16) for _ in "kv"], None
    pages = -(-length // PAGE) + 1
    table = np.arange(BATCH * pages, 0, -1, dtype=np.int32).reshape(BATCH, pages)
    page = (HEADS_KV, PAGE) if layout is KvLayout.HND else (PAGE, HEADS_KV)
    return [np.full((BATCH * pages + 2, *page, HEAD_DIM), np.nan, np.float16) for _ in "kv"], table


def rows_of(cache, table, layout, length):
    """The first keys of each sequence, ``[batch, length, heads_kv, head_dim]``."""
    if table is not None:
        pages = cache.swapaxes(1, 2) if layout is KvLayout.HND else cache
        cache = pages[table].reshape(BATCH, -1, HEADS_KV, HEAD_DIM)
    return cache[:, :length]


@settings(
    max_examples=12,
    phases=[Phase.generate],  # shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(lengths=chunkings(), layout=st.sampled_from([None, KvLayout.NHD, KvLayout.HND]))
def test_chunks_of_any_length_are_one_prefill(lengths, layout):
    length = sum(lengths)
    q, k, v = tensors(length)
    (k_cache, v_cache), table = caches_of(length, layout)
    paged = {} if table is None else {"page_table": table, "layout": layout}
    outs, lses, done = [], [], 0
    for index, tokens in enumerate(lengths):
        rows = slice(done, done + tokens)
        chunk = ChunkLayout(tokens, done, total_chunks=len(lengths), chunk_index=index)
        out, lse = compute(
            ChunkedPrefillRequest.from_arrays(
                *(x[:, rows] for x in (q, k, v)), k_cache, v_cache, chunk=chunk, **paged, **CAUSAL
            )
        )
        outs.append(out)
        lses.append(lse)
        done += tokens
    whole_out, whole_lse = compute(Fa2FwdRequest.from_arrays(q, k, v, **CAUSAL))
    np.testing.assert_allclose(
        np.concatenate(outs, 1).astype(np.float32), whole_out.astype(np.float32), atol=2e-3, rtol=0
    )
    np.testing.assert_allclose(np.concatenate(lses, 2), whole_lse, atol=2e-6, rtol=1e-6)
    for cache, x in ((k_cache, k), (v_cache, v)):
        np.testing.assert_array_equal(rows_of(cache, table, layout, length), x)
        # What nobody appended is untouched.
        assert np.isnan(cache).sum() == cache.size - x.size
