"""The sizes of an attention problem, and what forward and backward kernels are told of it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flashactor.array_checks import check_contiguous
from flashactor.arrays import ArrayView
from flashactor.kernels.params import Value
from flashactor.kernels.spec import Scores
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.requests.operands import KvLayout, PageTable
from flashactor.types import PositionBias

UNLIMITED = 0x3FFFFFFF
"""kUnlimited of common/params.cuh."""

Arrays = Mapping[str, ArrayView]


@dataclass(frozen=True, slots=True)
class Extent:
    """Sizes of a problem.

    Attributes:
        batch: sequences.
        seqlen_q, seqlen_k: the longest sequence's, or the longest that there may be.
        rows: rows of q, over the batch.
        heads_q, heads_kv: heads.
        packed: whether the queries of all sequences lie one after the other, found by cu_seqlens_q.
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    rows: int
    heads_q: int
    heads_kv: int
    packed: bool

    @property
    def gqa_ratio(self) -> int:
        """Query heads for each key/value head."""
        return self.heads_q // self.heads_kv

    def longest_may_decide(self, request: AttentionRequest) -> bool:
        """Whether a sequence's tile may depend on the longest one's length: where sequences are packed, that
        one would decide for the others."""
        return not (request.batch_invariant and self.packed)


def extent_of(request: AttentionRequest) -> Extent:
    """The sizes of a request with arrays.

    Raises:
        MissingOperandsError: a bare cell.
    """
    q, k = request.require_operands().q, request.require_operands().k
    heads_q, heads_kv = q.shape[-2], k.shape[-2]
    rows = math.prod(q.shape[:-2])
    packed = False
    if isinstance(request, PagedAttentionRequest):
        cache = request.cache
        heads_kv = cache.num_kv_heads
        batch, seqlen_q = request.num_seqs, request.q_tokens_per_seq
        seqlen_k = cache.max_blocks_per_seq * cache.block_size
        packed = request.varlen
    elif isinstance(request, ChunkedPrefillRequest):
        batch, seqlen_q = q.shape[:2]
        seqlen_k = request.chunk.prefix_kv_tokens + seqlen_q
    elif isinstance(request, VarlenFwdRequest | VarlenBwdRequest):
        batch, packed = request.seqlens.batch_size, True
        seqlen_q, seqlen_k = request.seqlens.max_seqlen_q, request.seqlens.max_seqlen_kv
    else:
        batch, seqlen_q, seqlen_k = *q.shape[:2], k.shape[1]
    return Extent(batch, seqlen_q, seqlen_k, rows, heads_q, heads_kv, packed)


def scores_of(request: AttentionRequest) -> Scores:
    """What the request does with its scores."""
    if request.dropout_p:
        return Scores.DROPOUT
    return Scores.MODIFIED if request.softcap or request.bias is PositionBias.ALIBI else Scores.PLAIN


def problem_values(request: AttentionRequest, extent: Extent, arrays: Arrays) -> dict[str, Value]:
    """The fields of ``Problem``.

    Raises:
        OperandError: a small array that is not contiguous.
    """
    slopes = arrays.get("alibi_slopes")
    mask, cap = request.mask, request.softcap
    seqused_k = "seq_lens" if "seq_lens" in arrays else "seqused_k"
    appended = 0
    if "prefix_lens" in arrays:
        seqused_k, appended = "prefix_lens", extent.seqlen_q
    return {
        "cu_seqlens_q": contiguous(arrays, "cu_seqlens_q"),
        "cu_seqlens_k": contiguous(arrays, "cu_seqlens_k"),
        "seqused_q": contiguous(arrays, "seqused_q"),
        "seqused_k": contiguous(arrays, seqused_k),
        "alibi_slopes": contiguous(arrays, "alibi_slopes"),
        "sink_logits": contiguous(arrays, "sink_logits"),
        "alibi_stride_batch": slopes.strides[0] if slopes is not None and len(slopes.shape) == 2 else 0,
        "batch": extent.batch,
        "appended": appended,
        "seqlen_q": extent.seqlen_q,
        "seqlen_k": extent.seqlen_k,
        "heads_q": extent.heads_q,
        "gqa_ratio": extent.heads_q // extent.heads_kv,
        "head_dim": request.head_dim,
        "head_dim_v": request.head_dim_v,
        "window_left": UNLIMITED if mask.window_left < 0 else min(mask.window_left, UNLIMITED),
        "window_right": UNLIMITED if mask.window_right < 0 else min(mask.window_right, UNLIMITED),
        "sink_tokens": min(request.sink_tokens, UNLIMITED),
        "scale_log2": request.scale * math.log2(math.e),
        "softcap_log2": cap * math.log2(math.e),
        "softcap_inverse": request.scale / cap if cap else 0.0,
        "dropout_threshold": int(request.dropout_p * 2**32),
        "dropout_scale": 1.0 / (1.0 - request.dropout_p),
        "dropout_seed_low": request.dropout_seed & 0xFFFFFFFF,
        "dropout_seed_high": request.dropout_seed >> 32 & 0xFFFFFFFF,
        "dropout_offset": request.dropout_offset & 0xFFFFFFFF,
        "reserved": 0,
    }


def contiguous(arrays: Arrays, name: str) -> int:
    """Address of an array whose last dimension is contiguous; 0 where there is none.

    Raises:
        OperandError: it is strided.
    """
    view = arrays.get(name)
    return 0 if view is None else check_contiguous(name, view).pointer


def row_strides(name: str, view: ArrayView, *, heads_first: bool = False) -> dict[str, Value]:
    """The stride fields of ``[batch, row, head, dim]``, of packed ``[row, head, dim]``, or of pages.

    Args:
        name: of the fields.
        view: the array.
        heads_first: whether the dimensions are ``[page, head, row, dim]``.
    """
    batch, row, head = view.strides[:3] if len(view.shape) == 4 else (0, *view.strides[:2])
    if heads_first:
        row, head = head, row
    return {f"{name}_stride_batch": batch, f"{name}_stride_row": row, f"{name}_stride_head": head}


def lse_strides(view: ArrayView, name: str = "lse") -> dict[str, Value]:
    """The stride fields of ``[batch, head, row]``, or of packed ``[head, row]``."""
    batch, head, row = view.strides if len(view.shape) == 3 else (0, *view.strides)
    return {f"{name}_stride_batch": batch, f"{name}_stride_head": head, f"{name}_stride_row": row}


def page_values(pool: ArrayView, pages: PageTable | None, *, guard: bool) -> dict[str, Value]:
    """The fields of a paged cache, all 0 where keys do not lie in pages.

    Args:
        pool: the keys' cache, in the layout that ``pages`` names.
        pages: where the pages are.
        guard: whether a page is left out that is not in the pool.

    Raises:
        OperandError: a page table whose rows are not contiguous.
    """
    if pages is None:
        return dict.fromkeys(("page_table", "page_table_stride", "page_shift", "num_pages", "table_pages"), 0)
    page_size = pool.shape[2 if pages.layout is KvLayout.HND else 1]
    return {
        "page_table": contiguous({"page_table": pages.page_table}, "page_table"),
        "page_table_stride": pages.page_table.strides[0],
        "page_shift": page_size.bit_length() - 1,
        "num_pages": pool.shape[0] if guard else 0,
        "table_pages": pages.page_table.shape[1],
    }


def scale_values(name: str, scale: float | ArrayView) -> dict[str, Value]:
    """The fields of a tensor's descale: a number of the host, or an array ``[1]`` or ``[heads]``, strided or
    not."""
    if not isinstance(scale, ArrayView):
        return {f"{name}_scale": 0, f"{name}_scale_stride": 0, f"{name}_descale": scale}
    stride = scale.strides[0] if scale.size > 1 else 0
    return {f"{name}_scale": scale.pointer, f"{name}_scale_stride": stride, f"{name}_descale": 1.0}
