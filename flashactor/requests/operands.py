"""The arrays of a request, as checked views. Shapes are those of the request that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from flashactor.arrays import ArrayView


class KvLayout(Enum):
    """Order of a paged cache's dimensions."""

    NHD = "NHD"
    """``[num_blocks, block_size, num_kv_heads, head_dim]``, as vLLM and FlashAttention keep it."""
    HND = "HND"
    """``[num_blocks, num_kv_heads, block_size, head_dim]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """What every computation reads, and where it writes if the caller said so.

    ``out`` and ``lse`` are None when the executor is to allocate them.
    """

    q: ArrayView
    k: ArrayView
    v: ArrayView
    out: ArrayView | None = None
    lse: ArrayView | None = None
    alibi_slopes: ArrayView | None = None
    sink_logits: ArrayView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """The incoming gradients, and where the outgoing ones go if the caller said so."""

    dout: ArrayView
    dlse: ArrayView | None = None
    dq: ArrayView | None = None
    dk: ArrayView | None = None
    dv: ArrayView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOffsets:
    """Offsets of packed sequences: int32 ``[batch_size + 1]`` each, from 0 to the number of tokens."""

    cu_seqlens_q: ArrayView
    cu_seqlens_k: ArrayView


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """Where the pages of each sequence are.

    Attributes:
        page_table: int32 ``[num_seqs, max_blocks_per_seq]``, indices of blocks in the pool.
        seq_lens: int32 ``[num_seqs]``, keys of each sequence; None where the request fixes the length.
        layout: order of the pool's dimensions.
    """

    page_table: ArrayView
    seq_lens: ArrayView | None
    layout: KvLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCacheAppend:
    """A cache that the request's own k and v are written into before they are attended.

    Attributes:
        k_cache, v_cache: ``[batch, capacity, heads_kv, head_dim]``, or a pool of pages with ``pages``.
        pages: the page table of a paged cache.
    """

    k_cache: ArrayView
    v_cache: ArrayView
    pages: PageTable | None = None
