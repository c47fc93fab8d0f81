"""The arrays of a request, as checked views. Shapes are those of the request that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

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

    ``out`` and ``lse`` are None when the executor is to allocate them. ``workspace`` is contiguous uint8
    scratch memory, 16-byte aligned, that kernels may use instead of allocating.
    """

    q: ArrayView
    k: ArrayView
    v: ArrayView
    out: ArrayView | None = None
    lse: ArrayView | None = None
    alibi_slopes: ArrayView | None = None
    sink_logits: ArrayView | None = None
    workspace: ArrayView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """The incoming gradients, and where the outgoing ones go if the caller said so.

    ``dsink_logits`` (float32 ``[heads_q]``) and ``dalibi_slopes`` (float32, shape of the slopes) are computed
    whenever the request has sink_logits and alibi_slopes, also where these are None.
    """

    dout: ArrayView
    dlse: ArrayView | None = None
    dq: ArrayView | None = None
    dk: ArrayView | None = None
    dv: ArrayView | None = None
    dsink_logits: ArrayView | None = None
    dalibi_slopes: ArrayView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOffsets:
    """Where packed sequences lie, and how much of each is used.

    Attributes:
        cu_seqlens_q, cu_seqlens_k: int32 ``[batch_size + 1]`` each, from 0 to the number of tokens.
        seqused_q, seqused_k: int32 ``[batch_size]``: sequence b has only its first ``seqused_q[b]`` queries
            and ``seqused_k[b]`` keys, and the mask is aligned by these. None: all of them.
    """

    cu_seqlens_q: ArrayView
    cu_seqlens_k: ArrayView
    seqused_q: ArrayView | None = None
    seqused_k: ArrayView | None = None


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
class Rotary:
    """Rotary position embedding (Su et al., arXiv:2104.09864) of the first ``rotary_dim`` elements of a head.

    The pair (x, y) at position p becomes ``x cos[p, j] - y sin[p, j]`` and ``x sin[p, j] + y cos[p, j]``.

    Attributes:
        cos, sin: ``[positions, rotary_dim / 2]``, of q's type or float32.
        interleaved: pair j is elements (2j, 2j + 1); else (j, j + rotary_dim / 2).
    """

    cos: ArrayView = field(metadata={"argument": "rotary_cos"})
    sin: ArrayView = field(metadata={"argument": "rotary_sin"})
    interleaved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCacheAppend:
    """A cache that the request's own k and v are written into before they are attended.

    Attributes:
        pages: the page table of a paged cache.
        k_cache, v_cache: ``[batch, capacity, heads_kv, head_dim]``, or a pool of pages with ``pages``.
        prefix_lens: int32 ``[batch]``, keys that each sequence already has; None where all have as many.
        rotary: applied to q and to the new k, before k is stored.
    """

    pages: PageTable | None = None
    k_cache: ArrayView
    v_cache: ArrayView
    prefix_lens: ArrayView | None = None
    rotary: Rotary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOperands:
    """Two attention states over the same queries, and where the merged one goes if the caller said so.

    Attributes:
        out_a, out_b, out: ``[batch, seqlen, heads, head_dim]``, or packed ``[total, heads, head_dim]``.
        lse_a, lse_b, lse: float32 ``[batch, heads, seqlen]``, or packed ``[heads, total]``.
    """

    out_a: ArrayView
    lse_a: ArrayView
    out_b: ArrayView
    lse_b: ArrayView
    out: ArrayView | None = None
    lse: ArrayView | None = None


# (field, argument) of the fields that may hold an array, or another of these dataclasses.
_FIELDS: dict[type[Any], tuple[tuple[str, str], ...]] = {
    holder: tuple((field.name, field.metadata.get("argument", field.name)) for field in fields(holder))
    for holder in (Operands, Gradients, SequenceOffsets, PageTable, Rotary, KvCacheAppend, MergeOperands)
}


def named_arrays(holder: Any) -> dict[str, ArrayView]:
    """The arrays among the fields of one of these dataclasses, by the argument's name; {} for the rest."""
    found: dict[str, ArrayView] = {}
    for name, argument in _FIELDS.get(type(holder), ()):
        value = getattr(holder, name)
        if isinstance(value, ArrayView):
            found[argument] = value
        else:
            found |= named_arrays(value)
    return found
