"""Attention over K/V caches in pages (PagedAttention, arXiv:2309.06180)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import OperandError
from flashactor.reference.forward import forward_sequence
from flashactor.reference.operands import (
    BATCHED,
    VARLEN,
    check_heads,
    check_per_head,
    check_rank,
    check_same_shape,
)
from flashactor.reference.params import AttentionParams
from flashactor.reference.quantization import dequantize
from flashactor.reference.varlen import cut


def gather(
    cache: NDArray[Any],
    page_table_row: NDArray[Any],
    seq_len: int,
    layout: str = "NHD",
    guard: bool = False,
) -> NDArray[Any]:
    """The first ``seq_len`` keys (or values) of one sequence, copied from its pages.

    Args:
        cache: [num_blocks, block_size, heads_kv, head_dim] (NHD) or
            [num_blocks, heads_kv, block_size, head_dim] (HND).
        page_table_row: [max_blocks_per_seq] indices of its blocks; those past seq_len are not read.
        seq_len: keys in the cache.
        layout: "NHD" or "HND".
        guard: read the keys of a block that is not in the pool as zeros.

    Returns:
        [seq_len, heads_kv, head_dim] of the cache's type.

    Raises:
        OperandError: an unknown layout, a row too short for seq_len, or a block out of range without guard.
    """
    pages = as_nhd(cache, layout)
    blocks, slots, inside = locate(pages, page_table_row[None], np.arange(seq_len)[None], guard)
    keys = np.zeros((seq_len, *pages.shape[2:]), dtype=pages.dtype)
    keys[inside[0]] = pages[blocks[inside], slots[inside]]
    return keys


def forward_paged(
    q: NDArray[Any],
    k_cache: NDArray[Any],
    v_cache: NDArray[Any],
    page_table: NDArray[Any],
    seq_lens: NDArray[Any],
    params: AttentionParams,
    layout: str = "NHD",
    *,
    cu_seqlens_q: NDArray[Any] | None = None,
    k_scale: float | NDArray[Any] = 1.0,
    v_scale: float | NDArray[Any] = 1.0,
    guard: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Attention of each sequence's last tokens to all its keys in a paged cache, in float64.

    Args:
        q: [num_seqs, q_tokens, heads_q, head_dim_qk], or with cu_seqlens_q [total_q, heads_q, head_dim_qk];
            a sequence's last token is aligned with its last key.
        k_cache: the pool of K pages, laid out as in `gather`.
        v_cache: the pool of V pages; head_dim may differ.
        page_table: [num_seqs, max_blocks_per_seq] integers.
        seq_lens: [num_seqs] integers, keys of each sequence.
        params: as in `forward`; 2-d slopes and dropout count sequences as batch entries.
        layout: "NHD" or "HND".
        cu_seqlens_q: [num_seqs + 1] integers; where each sequence's queries start, and total_q.
        k_scale: what a stored key is multiplied by, one value or [heads_kv].
        v_scale: the same for values.
        guard: read the keys of a block that is not in the pool as zeros.

    Returns:
        out [num_seqs, q_tokens, heads_q, head_dim_v] and lse [num_seqs, heads_q, q_tokens], or for packed
        queries [total_q, heads_q, head_dim_v] and [heads_q, total_q].

    Raises:
        OperandError: the shapes contradict each other, or a block is out of range without guard.
    """
    check_rank("q", q, BATCHED if cu_seqlens_q is None else VARLEN)
    if cu_seqlens_q is None:
        num_seqs = q.shape[0]
        parts: list[tuple[Any, Any]] = [(index, index) for index in range(num_seqs)]
        lse = np.zeros((num_seqs, q.shape[2], q.shape[1]))
    else:
        parts = [(rows, (slice(None), rows)) for rows in cut("cu_seqlens_q", cu_seqlens_q, q.shape[0])]
        num_seqs = len(parts)
        lse = np.zeros((q.shape[1], q.shape[0]))
    k_pages, v_pages = as_nhd(k_cache, layout), as_nhd(v_cache, layout)
    check_same_shape("v_cache", v_pages, (*k_pages.shape[:3], v_pages.shape[3]))
    check_heads(q, k_pages)
    check_per_head(params, num_seqs, q.shape[-2])
    check_rank("page_table", page_table, "[num_seqs, max_blocks_per_seq]")
    check_same_shape("page_table", page_table, (num_seqs, page_table.shape[1]))
    check_same_shape("seq_lens", seq_lens, (num_seqs,))
    out = np.zeros((*q.shape[:-1], v_pages.shape[3]))
    for index, (rows, lse_rows) in enumerate(parts):
        k, v = (
            dequantize(gather(pages, page_table[index], int(seq_lens[index]), guard=guard), scale)
            for pages, scale in ((k_pages, k_scale), (v_pages, v_scale))
        )
        out[rows], lse[lse_rows] = forward_sequence(q[rows], k, v, params, index)
    return out, lse


def as_nhd(cache: NDArray[Any], layout: str) -> NDArray[Any]:
    """A view [num_blocks, block_size, heads_kv, head_dim] of a pool in either layout.

    Raises:
        OperandError: another layout, or another number of axes.
    """
    if layout not in ("NHD", "HND"):
        raise OperandError(
            field="layout",
            got=layout,
            expected="NHD or HND",
            remedy="name the order of a page's axes: block slot N, head H, element D",
        )
    check_rank("cache", cache, "[num_blocks, block_size, heads_kv, head_dim]")
    return cache if layout == "NHD" else cache.transpose(0, 2, 1, 3)


def locate(
    pages: NDArray[Any], page_table: NDArray[Any], positions: NDArray[Any], guard: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Block, slot, and whether the pool has that block, of positions [batch, tokens]; each of that shape.

    Raises:
        OperandError: a row of the table is too short, or without guard a block is not in the pool.
    """
    num_blocks, block_size = pages.shape[:2]
    last = int(positions.max(initial=-1))
    if last >= page_table.shape[1] * block_size:
        raise does_not_fit("page_table", page_table.shape[1] * block_size, last + 1)
    columns, slots = np.divmod(positions, max(1, block_size))
    blocks = np.take_along_axis(page_table, columns, axis=1)
    inside = (blocks >= 0) & (blocks < num_blocks)
    if not (guard or inside.all()):
        raise OperandError(
            field="page_table",
            got=f"blocks {blocks.min()} to {blocks.max()}",
            expected=f"blocks from 0 to {num_blocks - 1}",
            remedy="allocate a block for every key that the sequence holds",
        )
    return blocks, slots, inside


def does_not_fit(field: str, room: int, needed: int) -> OperandError:
    """The error of a cache that is too small for the keys that a sequence has, or gets."""
    return OperandError(
        field=field,
        got=f"room for {room} keys",
        expected=f"room for {needed}",
        remedy="give each sequence a larger cache, or drop keys",
    )
