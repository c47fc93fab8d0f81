"""K/V caches, paged (PagedAttention, arXiv:2309.06180) or contiguous, and prefill in chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import OperandError, RequestError
from flashactor.reference.forward import forward, forward_sequence
from flashactor.reference.operands import BATCHED, check_heads, check_per_head, check_rank, check_same_shape
from flashactor.reference.params import AttentionParams


def gather(
    cache: NDArray[Any], page_table_row: NDArray[Any], seq_len: int, layout: str = "NHD"
) -> NDArray[Any]:
    """The first ``seq_len`` keys (or values) of one sequence, copied from its pages.

    Args:
        cache: [num_blocks, block_size, heads_kv, head_dim] (NHD) or
            [num_blocks, heads_kv, block_size, head_dim] (HND).
        page_table_row: [max_blocks_per_seq] indices of its blocks; those past seq_len are not read.
        seq_len: keys in the cache.
        layout: "NHD" or "HND".

    Returns:
        [seq_len, heads_kv, head_dim] of the cache's type.

    Raises:
        OperandError: an unknown layout, a row too short for seq_len, or a block out of range.
    """
    pages = _as_nhd(cache, layout)
    blocks, slots = _locate(pages, page_table_row[None], np.arange(seq_len))
    return np.asarray(pages[blocks[0], slots])


def forward_paged(
    q: NDArray[Any],
    k_cache: NDArray[Any],
    v_cache: NDArray[Any],
    page_table: NDArray[Any],
    seq_lens: NDArray[Any],
    params: AttentionParams,
    layout: str = "NHD",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Attention of each sequence's last tokens to all its keys in a paged cache, in float64.

    Args:
        q: [num_seqs, q_tokens, heads_q, head_dim_qk]; the last token is aligned with the last key.
        k_cache: the pool of K pages, laid out as in `gather`.
        v_cache: the pool of V pages; head_dim may differ.
        page_table: [num_seqs, max_blocks_per_seq] integers.
        seq_lens: [num_seqs] integers, keys of each sequence.
        params: as in `forward`; 2-d slopes and dropout count sequences as batch entries.
        layout: "NHD" or "HND".

    Returns:
        out [num_seqs, q_tokens, heads_q, head_dim_v] and lse [num_seqs, heads_q, q_tokens].

    Raises:
        OperandError: the shapes contradict each other, or a block is out of range.
    """
    check_rank("q", q, BATCHED)
    num_seqs, q_tokens, heads_q, _ = q.shape
    k_pages, v_pages = _as_nhd(k_cache, layout), _as_nhd(v_cache, layout)
    check_same_shape("v_cache", v_pages, (*k_pages.shape[:3], v_pages.shape[3]))
    check_heads(q, k_pages)
    check_per_head(params, num_seqs, heads_q)
    check_rank("page_table", page_table, "[num_seqs, max_blocks_per_seq]")
    check_same_shape("page_table", page_table, (num_seqs, page_table.shape[1]))
    check_same_shape("seq_lens", seq_lens, (num_seqs,))
    out = np.zeros((num_seqs, q_tokens, heads_q, v_pages.shape[3]))
    lse = np.zeros((num_seqs, heads_q, q_tokens))
    for index, seq_len in enumerate(seq_lens):
        k = gather(k_pages, page_table[index], int(seq_len))
        v = gather(v_pages, page_table[index], int(seq_len))
        out[index], lse[index] = forward_sequence(q[index], k, v, params, index)
    return out, lse


def append(
    cache: NDArray[Any],
    new: NDArray[Any],
    position: int,
    page_table: NDArray[Any] | None = None,
    layout: str = "NHD",
) -> None:
    """Write new keys (or values) into a cache, in place, each sequence's first one at ``position``.

    Args:
        cache: [batch, capacity, heads_kv, head_dim], or with a page table the pool as in `gather`.
        new: [batch, tokens, heads_kv, head_dim]; rounded to the cache's type.
        position: keys that each sequence already has.
        page_table: [batch, max_blocks_per_seq] integers, or None for a contiguous cache.
        layout: "NHD" or "HND", of the pool.

    Raises:
        OperandError: the shapes contradict each other, the new keys do not fit, or a block is out of range.
        RequestError: position is negative.
    """
    check_rank("new", new, BATCHED)
    if position < 0:
        raise RequestError(
            field="position",
            got=position,
            expected="0 or more",
            remedy="pass the number of keys that each sequence already has",
        )
    batch, tokens = new.shape[:2]
    if page_table is None:
        check_same_shape("cache", cache, (batch, *cache.shape[1:2], *new.shape[2:]))
        if position + tokens > cache.shape[1]:
            raise _does_not_fit("cache", cache.shape[1], position + tokens)
        cache[:, position : position + tokens] = new
        return
    pages = _as_nhd(cache, layout)
    check_same_shape("cache", pages, (*pages.shape[:2], *new.shape[2:]))
    check_same_shape("page_table", page_table, (batch, *page_table.shape[1:]))
    pages[_locate(pages, page_table, np.arange(position, position + tokens))] = new


def forward_chunked(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    k_cache: NDArray[Any],
    v_cache: NDArray[Any],
    prefix: int,
    params: AttentionParams,
    page_table: NDArray[Any] | None = None,
    layout: str = "NHD",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One chunk of a prefill: append its keys and values to the caches, then attend to prefix and chunk.

    Args:
        q: [batch, tokens, heads_q, head_dim_qk].
        k: [batch, tokens, heads_kv, head_dim_qk], written to k_cache.
        v: [batch, tokens, heads_kv, head_dim_v], written to v_cache.
        k_cache: as in `append`.
        v_cache: as in `append`.
        prefix: keys that each sequence already has in the caches.
        params: as in `forward`; dropout counts rows from the chunk's first.
        page_table: [batch, max_blocks_per_seq] integers, or None for contiguous caches.
        layout: "NHD" or "HND", of the pools.

    Returns:
        out [batch, tokens, heads_q, head_dim_v] and lse [batch, heads_q, tokens].

    Raises:
        OperandError, RequestError: as in `append` and `forward`.
    """
    append(k_cache, k, prefix, page_table, layout)
    append(v_cache, v, prefix, page_table, layout)
    total = prefix + k.shape[1]
    if page_table is None:
        return forward(q, k_cache[:, :total], v_cache[:, :total], params)
    seq_lens = np.full(q.shape[0], total)
    return forward_paged(q, k_cache, v_cache, page_table, seq_lens, params, layout)


def _as_nhd(cache: NDArray[Any], layout: str) -> NDArray[Any]:
    """A view [num_blocks, block_size, heads_kv, head_dim] of a pool in either layout."""
    if layout not in ("NHD", "HND"):
        raise OperandError(
            field="layout",
            got=layout,
            expected="NHD or HND",
            remedy="name the order of a page's axes: block slot N, head H, element D",
        )
    check_rank("cache", cache, "[num_blocks, block_size, heads_kv, head_dim]")
    return cache if layout == "NHD" else cache.transpose(0, 2, 1, 3)


def _locate(
    pages: NDArray[Any], page_table: NDArray[Any], positions: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Block [batch, tokens] and slot [tokens] of the given positions [tokens] of every sequence."""
    num_blocks, block_size = pages.shape[:2]
    needed = -(-(int(positions[-1]) + 1) // block_size) if positions.size else 0
    if needed > page_table.shape[1]:
        raise _does_not_fit("page_table", page_table.shape[1] * block_size, int(positions[-1]) + 1)
    blocks = page_table[:, positions // block_size]
    if ((blocks < 0) | (blocks >= num_blocks)).any():
        raise OperandError(
            field="page_table",
            got=f"blocks {blocks.min()} to {blocks.max()}",
            expected=f"blocks from 0 to {num_blocks - 1}",
            remedy="allocate a block for every key that the sequence holds",
        )
    return blocks, positions % block_size


def _does_not_fit(field: str, room: int, needed: int) -> OperandError:
    return OperandError(
        field=field,
        got=f"room for {room} keys",
        expected=f"room for {needed}",
        remedy="give each sequence a larger cache, or drop keys",
    )
