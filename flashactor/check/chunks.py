"""Chunks of queries whose keys join a cache: requests for append kernels and for what reads the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flashactor.check.case import Case
from flashactor.check.layouts import CONTIGUOUS, HEADS_FIRST, MIXED, Layout, Layouts, placed
from flashactor.check.pages import out_of_the_pool, page_table, poison_unused
from flashactor.check.shapes import CAUSAL
from flashactor.check.values import descales, int32, normal, score_options, sequences, unwritten_outputs
from flashactor.kernels.append import AppendSpec, Pairs
from flashactor.kernels.spec import Scores
from flashactor.reference.quantization import numpy_dtype
from flashactor.requests import ChunkedPrefillRequest, ChunkLayout
from flashactor.types import DType, MaskKind

CAPACITY = 7
"""Rows of a cache behind the longest sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk and its cache.

    Attributes:
        name: what it is there to find.
        tokens: new ones of each sequence.
        prefixes: keys that each sequence has.
        head_dims: of q and k, and of v.
        heads: of queries, and of keys and values.
        page: keys of a page; 0 for a cache of one run of rows for each sequence.
        hnd: whether heads come before the keys of a page.
        guard: whether some pages lie outside of the pool.
        rotary_dim: elements that an embedding turns, if there is one.
        interleaved: whether it turns neighbours.
        float_tables: whether its tables are float32.
        layouts: of q, k, v (and of their caches) and out.
        one_prefix: whether a number says the prefix of all.
        mask: as of a request.
    """

    name: str
    tokens: int
    prefixes: tuple[int, ...]
    head_dims: tuple[int, ...] = (64, 64)
    heads: tuple[int, int] = (2, 2)
    page: int = 0
    hnd: bool = False
    guard: bool = False
    rotary_dim: int = 0
    interleaved: bool = False
    float_tables: bool = False
    layouts: Layouts = CONTIGUOUS
    one_prefix: bool = False
    mask: MaskKind = CAUSAL
    whole_tiles: bool = False
    every_schedule: bool = False


def append_cases(spec: AppendSpec) -> tuple[Case, ...]:
    """Chunks of every kind for one kernel."""
    turned: dict[str, Any] = {}
    if spec.pairs is not Pairs.NONE:
        turned = {"rotary_dim": 64, "interleaved": spec.pairs is Pairs.INTERLEAVED}
    partly = {**turned, "rotary_dim": 16} if turned else {}
    chunks = (
        Chunk(name="whole rows", tokens=16, prefixes=(0, 16), page=16, whole_tiles=True, **turned),
        Chunk(name="one token", tokens=1, prefixes=(15, 0, 32), page=16, heads=(4, 2), **turned),
        Chunk(name="over page ends", tokens=21, prefixes=(6, 0, 8), page=8, hnd=True, **turned),
        Chunk(name="large pages", tokens=3, prefixes=(254, 70), page=256, heads=(2, 1), **turned),
        Chunk(name="pages outside of the pool", tokens=20, prefixes=(30, 3), page=16, guard=True, **turned),
        Chunk(name="one run of rows", tokens=5, prefixes=(3, 0, 9), heads=(4, 2), **turned),
        Chunk(name="one prefix", tokens=5, prefixes=(6, 6), one_prefix=True, **turned),
        Chunk(name="part of a head", tokens=4, prefixes=(2, 5), head_dims=(80, 48), **partly),
        Chunk(name="wide rows", tokens=2, prefixes=(1, 2), head_dims=(256, 256), heads=(6, 3), **turned),
        Chunk(name="float tables", tokens=4, prefixes=(2, 5), float_tables=True, **turned),
        Chunk(name="mixed strides", tokens=4, prefixes=(2, 5), layouts=MIXED, heads=(4, 2), **turned),
        Chunk(name="heads first", tokens=4, prefixes=(2, 5), layouts=HEADS_FIRST, **turned),
        Chunk(name="every schedule", tokens=3, prefixes=(7, 1), page=8, every_schedule=True, **turned),
    )
    cache = spec.dtype if spec.fp8 is None else spec.fp8
    return tuple(
        Case(
            spec,
            chunk.name,
            partial(chunk_request, chunk, index, spec.dtype, cache),
            whole_tiles=chunk.whole_tiles,
            every_schedule=chunk.every_schedule,
        )
        for index, chunk in enumerate(chunks)
    )


def chunk_request(
    chunk: Chunk, index: int, dtype: DType, cache_dtype: DType, *, scores: Scores = Scores.PLAIN
) -> ChunkedPrefillRequest:
    """The request of a chunk.

    Args:
        chunk: the chunk.
        index: what can be done in several forms takes turns by it.
        dtype: element type of q, k and v.
        cache_dtype: that, or an fp8 type.
        scores: what happens to scores.
    """
    rng = np.random.default_rng(index)
    batch, (heads_q, heads_kv) = len(chunk.prefixes), chunk.heads
    head_dim, head_dim_v = chunk.head_dims
    tokens = (chunk.tokens,) * batch
    q, k, v = (
        sequences(rng, tokens, heads, size, dtype, packed=False, layout=layout)
        for heads, size, layout in zip(
            (heads_q, heads_kv, heads_kv), (head_dim, head_dim, head_dim_v), chunk.layouts[:3], strict=True
        )
    )
    return ChunkedPrefillRequest.from_arrays(
        q,
        k,
        v,
        **_caches(chunk, cache_dtype, rng),
        **_rotary(chunk, dtype, rng),
        **(descales(rng, index, heads_kv) if cache_dtype.is_fp8 else {}),
        chunk=ChunkLayout(chunk.tokens, max(chunk.prefixes)),
        prefix_lens=None if chunk.one_prefix else int32(chunk.prefixes),
        mask=chunk.mask,
        **score_options(rng, scores, index, batch=batch, heads=heads_q),
        **unwritten_outputs(
            (batch, chunk.tokens),
            heads_q,
            head_dim_v,
            dtype,
            layout=chunk.layouts[3],
            strided_lse=chunk.layouts == MIXED,
        ),
    )


def _caches(chunk: Chunk, dtype: DType, rng: np.random.Generator) -> dict[str, Any]:
    """The arguments that say where the keys go: all but the prefixes is NaN."""
    lengths = tuple(prefix + chunk.tokens for prefix in chunk.prefixes)
    if chunk.page:
        table, pool = page_table(lengths, chunk.page, rng)
        rows = pool, chunk.page
    else:
        table = np.arange(len(lengths), dtype=np.int32)[:, None]
        rows = len(lengths), max(lengths) + CAPACITY
    caches = {}
    for name, head_dim, layout in zip(
        ("k_cache", "v_cache"), chunk.head_dims, chunk.layouts[1:3], strict=True
    ):
        values = normal(rng, (*rows, chunk.heads[1], head_dim), dtype)
        poison_unused(values, table, chunk.prefixes)
        caches[name] = placed(values.swapaxes(1, 2) if chunk.hnd else values, layout)
    if not chunk.page:
        return caches
    if chunk.guard:
        table = out_of_the_pool(table, lengths, *rows[::-1])
    return {
        **caches,
        "page_table": table,
        "layout": "HND" if chunk.hnd else "NHD",
        "guard": chunk.guard,
    }


def _rotary(chunk: Chunk, dtype: DType, rng: np.random.Generator) -> dict[str, Any]:
    if not chunk.rotary_dim:
        return {}
    positions = max(chunk.prefixes) + chunk.tokens
    angles = rng.uniform(0, 2 * np.pi, (positions, chunk.rotary_dim // 2))
    kind = np.dtype(np.float32) if chunk.float_tables else numpy_dtype(dtype)
    # Rows ``[positions, pairs]`` with poison between them.
    layout = Layout.CONTIGUOUS if chunk.whole_tiles else Layout.PADDED
    return {
        "rotary_cos": placed(np.cos(angles).astype(kind)[None], layout)[0],
        "rotary_sin": placed(np.sin(angles).astype(kind)[None], layout)[0],
        "rotary_interleaved": chunk.interleaved,
    }
