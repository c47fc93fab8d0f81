"""Prefill in chunks and decode with append: new keys join a cache, then their queries attend to all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import RequestError
from flashactor.reference.operands import BATCHED, check_rank, check_same_shape
from flashactor.reference.paged import as_nhd, does_not_fit, forward_paged, locate
from flashactor.reference.params import AttentionParams
from flashactor.reference.quantization import scale_per_head, store_as
from flashactor.reference.rotary import rotate


def append(
    cache: NDArray[Any],
    new: NDArray[Any],
    position: int | NDArray[Any],
    page_table: NDArray[Any] | None = None,
    layout: str = "NHD",
    *,
    scale: float | NDArray[Any] = 1.0,
    guard: bool = False,
) -> None:
    """Write new keys (or values) into a cache, in place, each sequence's first one at its ``position``.

    What is stored is new / scale, rounded to the cache's type, in an fp8 cache saturated.

    Args:
        cache: [batch, capacity, heads_kv, head_dim], or with a page table the pool as in `gather`.
        new: [batch, tokens, heads_kv, head_dim], any float type.
        position: keys that each sequence already has: one number for all, or [batch].
        page_table: [batch, max_blocks_per_seq] integers, or None for a contiguous cache.
        layout: "NHD" or "HND", of the pool.
        scale: one value or [heads_kv].
        guard: do not store the keys of a block that is not in the pool.

    Raises:
        OperandError: the shapes contradict each other, the new keys do not fit, or a block is out of range
            without guard.
        RequestError: a position is negative.
    """
    check_rank("new", new, BATCHED)
    batch, tokens = new.shape[:2]
    positions = _starts(position, batch)[:, None] + np.arange(tokens)
    values = store_as(new.astype(np.float64) / scale_per_head(scale, new), cache.dtype)
    if page_table is None:
        check_same_shape("cache", cache, (batch, *cache.shape[1:2], *new.shape[2:]))
        if positions.max(initial=-1) >= cache.shape[1]:
            raise does_not_fit("cache", cache.shape[1], int(positions.max()) + 1)
        cache[np.arange(batch)[:, None], positions] = values
        return
    pages = as_nhd(cache, layout)
    check_same_shape("cache", pages, (*pages.shape[:2], *new.shape[2:]))
    check_same_shape("page_table", page_table, (batch, *page_table.shape[1:]))
    blocks, slots, inside = locate(pages, page_table, positions, guard)
    pages[blocks[inside], slots[inside]] = values[inside]


def forward_chunked(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    k_cache: NDArray[Any],
    v_cache: NDArray[Any],
    prefix: int | NDArray[Any],
    params: AttentionParams,
    page_table: NDArray[Any] | None = None,
    layout: str = "NHD",
    *,
    rotary_cos: NDArray[Any] | None = None,
    rotary_sin: NDArray[Any] | None = None,
    rotary_interleaved: bool = False,
    k_scale: float | NDArray[Any] = 1.0,
    v_scale: float | NDArray[Any] = 1.0,
    guard: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One chunk of a prefill: append its keys and values to the caches, then attend to prefix and chunk.

    With rotary tables q and the new k are turned first, token i of a chunk at position prefix + i; the keys
    attended to are those that the cache holds, rounded to its type.

    Args:
        q: [batch, tokens, heads_q, head_dim_qk].
        k: [batch, tokens, heads_kv, head_dim_qk], written to k_cache.
        v: [batch, tokens, heads_kv, head_dim_v], written to v_cache.
        k_cache: as in `append`.
        v_cache: as in `append`.
        prefix: keys that each sequence already has in the caches: one number for all, or [batch].
        params: as in `forward`; dropout counts rows from the chunk's first.
        page_table: [batch, max_blocks_per_seq] integers, or None for contiguous caches.
        layout: "NHD" or "HND", of the pools.
        rotary_cos: as in `rotate`, or None for no rotation.
        rotary_sin: as in `rotate`; given exactly if rotary_cos is.
        rotary_interleaved: as in `rotate`.
        k_scale: what a stored key is multiplied by, one value or [heads_kv].
        v_scale: the same for values.
        guard: leave the keys of a block that is not in the pool unstored, and read them as zeros.

    Returns:
        out [batch, tokens, heads_q, head_dim_v] and lse [batch, heads_q, tokens].

    Raises:
        OperandError, RequestError: as in `append`, `rotate` and `forward_paged`.
    """
    check_rank("k", k, BATCHED)
    check_same_shape("q", q, (*k.shape[:2], *q.shape[2:]))
    batch, tokens = k.shape[:2]
    starts = _starts(prefix, batch)
    if rotary_cos is not None and rotary_sin is not None:
        positions = starts[:, None] + np.arange(tokens)
        # What is turned has the type of what it was: q is rounded to it, k when the cache takes it.
        q_type = q.dtype
        q, k = (rotate(x, rotary_cos, rotary_sin, positions, rotary_interleaved) for x in (q, k))
        q = q.astype(q_type)
    append(k_cache, k, starts, page_table, layout, scale=k_scale, guard=guard)
    append(v_cache, v, starts, page_table, layout, scale=v_scale, guard=guard)
    if page_table is None:  # a contiguous cache is a pool with one page for each sequence
        page_table, layout = np.arange(batch)[:, None], "NHD"
    return forward_paged(
        q,
        k_cache,
        v_cache,
        page_table,
        starts + tokens,
        params,
        layout,
        k_scale=k_scale,
        v_scale=v_scale,
        guard=guard,
    )


def _starts(position: int | NDArray[Any], batch: int) -> NDArray[np.int64]:
    """The position of each sequence's first new key, [batch]."""
    starts = np.asarray(position, dtype=np.int64)
    if starts.ndim > 0:
        check_same_shape("position", starts, (batch,))
    if starts.min(initial=0) < 0:
        raise RequestError(
            field="position",
            got=int(starts.min()),
            expected="0 or more",
            remedy="pass the number of keys that each sequence already has",
        )
    return np.broadcast_to(starts, (batch,))
