"""Requests whose keys and values lie in the pages of a shared pool (PagedAttention, arXiv:2309.06180)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, Unpack

from flashactor.arrays import ArrayView
from flashactor.errors import EmptyPagedCacheError, OperandError, PagedHeadDimMismatchError
from flashactor.requests import checks
from flashactor.requests.base import RequestOptions, merge_fields, require_type
from flashactor.requests.lengths import longest_of, view_cu_seqlens
from flashactor.requests.operands import KvLayout, PageTable
from flashactor.requests.pages import page_geometry, require_block_size, view_layout, view_pages
from flashactor.requests.scaled import CachedKvRequest, view_cache, view_scale
from flashactor.types import DType, is_count, settle_counts


@dataclass(frozen=True, slots=True)
class PagedKvCache:
    """Geometry of a pool of pages.

    Attributes:
        num_blocks: pages in the pool.
        block_size: keys in a page: 8, 16, 32, 64, 128 or 256.
        num_kv_heads: key/value heads.
        head_dim: elements of one head.
        max_blocks_per_seq: columns of the page table.

    Raises:
        EmptyPagedCacheError: a count of 0; InvalidPagedBlockSizeError: another page size;
        SeqlenOverflowError: a row of the page table holds more than 2**30 keys.
    """

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    max_blocks_per_seq: int

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "num_kv_heads", "head_dim", "max_blocks_per_seq"):
            if not is_count(getattr(self, name), 1):
                raise EmptyPagedCacheError(
                    field=name,
                    got=getattr(self, name),
                    expected="at least 1",
                    remedy="allocate the cache before the first request",
                )
            settle_counts(self, name)
        require_block_size(self.block_size)
        checks.require_countable("max_blocks_per_seq * block_size", self.max_blocks_per_seq * self.block_size)


@dataclass(frozen=True)
class PagedAttentionRequest(CachedKvRequest):
    """Attention of a few query tokens per sequence over a paged cache: decode, speculation, chunks.

    The last query token of a sequence is aligned with its last key.

    Attributes:
        cache: geometry of the pool.
        num_seqs: sequences in the batch.
        q_tokens_per_seq: query tokens of each sequence; where they are packed, the most that one has.
        pages: the page table; None for a bare cell.
        cu_seqlens_q: int32 ``[num_seqs + 1]``, where each sequence's query tokens are in a packed q; else
            None.

    Raises:
        EmptyBatchError, ZeroSeqlenError: no sequence or no query token;
        PagedHeadDimMismatchError: the cache holds heads of another size.
    """

    cache: PagedKvCache = field(kw_only=True)
    num_seqs: int = field(kw_only=True)
    q_tokens_per_seq: int = field(default=1, kw_only=True)
    pages: PageTable | None = field(default=None, kw_only=True)
    cu_seqlens_q: ArrayView | None = field(default=None, kw_only=True)

    @property
    def paged(self) -> bool:
        """Always: that is what the type is for."""
        return True

    @property
    def varlen(self) -> bool:
        """Whether the query tokens are packed by cu_seqlens_q."""
        return self.cu_seqlens_q is not None

    def __post_init__(self) -> None:
        require_type("cache", self.cache, PagedKvCache)
        checks.require_batch(self.num_seqs)
        checks.require_length("q_tokens_per_seq", self.q_tokens_per_seq)
        settle_counts(self, "num_seqs", "q_tokens_per_seq")
        if self.cache.head_dim != self.head_dim:
            raise PagedHeadDimMismatchError(
                field="head_dim",
                got=self.head_dim,
                expected=f"{self.cache.head_dim}, the cache's",
                remedy="use the cache of this layer",
            )
        super().__post_init__()

    @property
    def is_pure_decode(self) -> bool:
        """Whether no sequence asks for more than one token."""
        return self.q_tokens_per_seq == 1

    def arrays(self) -> dict[str, ArrayView]:
        """As of every request; k and v are called k_cache and v_cache, as in ``from_arrays``."""
        caches = {"k": "k_cache", "v": "v_cache"}
        return {caches.get(name, name): view for name, view in super().arrays().items()}

    @classmethod
    def from_arrays(
        cls,
        q: Any,
        k_cache: Any,
        v_cache: Any,
        page_table: Any,
        seq_lens: Any,
        *,
        cu_seqlens_q: Any = None,
        max_seqlen_q: int | None = None,
        layout: KvLayout | str = KvLayout.NHD,
        k_scale: Any = 1.0,
        v_scale: Any = 1.0,
        guard: bool = False,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        workspace: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request over a paged cache.

        Args:
            q: ``[num_seqs, q_tokens_per_seq, heads_q, head_dim]``; with ``cu_seqlens_q`` packed,
                ``[total_q, heads_q, head_dim]``.
            k_cache, v_cache: ``[num_blocks, block_size, num_kv_heads, head_dim]``, with ``layout="HND"``
                ``[num_blocks, num_kv_heads, block_size, head_dim]``. Of q's type, or both of one fp8 type;
                v's head_dim, which is out's, may be another.
            page_table: int32 ``[num_seqs, max_blocks_per_seq]``.
            seq_lens: int32 ``[num_seqs]``, keys of each sequence, the query tokens' own included.
            cu_seqlens_q: int32 ``[num_seqs + 1]``; sequence b has rows cu[b] to cu[b + 1] of q.
            max_seqlen_q: the most query tokens of a sequence; needed only when cu_seqlens_q is on a device.
            layout: order of the cache's dimensions.
            k_scale, v_scale: descales of the cache; a number, or a float32 array of one element or
                ``[num_kv_heads]`` on q's device.
            guard: whether the device checks the page table. Then no page is checked here, and the keys of a
                page outside the pool read as zeros.
            alibi_slopes: float32 ``[heads_q]`` or ``[num_seqs, heads_q]``.
            sink_logits: float32 ``[heads_q]``.
            out: like q, with v's head_dim; lse: float32 ``[num_seqs, heads_q, q_tokens_per_seq]``, for a
                packed q ``[heads_q, total_q]``; allocated when absent.
            workspace: contiguous uint8 ``[bytes]``, 16-byte aligned: scratch for kernels that need some.
            options: the fields of the request: mask, softmax_scale, softcap, sink_tokens, arch, ...

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        rank = 4 if cu_seqlens_q is None else 3
        q_view = checks.view_operand("q", q, rank=rank, dtypes=checks.SIXTEEN_BIT)
        k_view, v_view = view_cache(k_cache, v_cache, q=q_view)
        kv_layout = view_layout(layout)
        num_blocks, block_size, num_kv_heads, cache_head_dim = page_geometry(k_view, kv_layout)
        rows, heads_q, _ = q_view.shape[-3:]
        checks.check_heads(heads_q, num_kv_heads)
        offsets, num_seqs, q_tokens = _query_extent(q_view, cu_seqlens_q, max_seqlen_q)
        pages = view_pages(
            page_table,
            seq_lens,
            q=q_view,
            layout=kv_layout,
            num_seqs=num_seqs,
            num_blocks=num_blocks,
            block_size=block_size,
            guard=guard,
        )
        views = checks.operands(
            q_view,
            k_view,
            v_view,
            batch=num_seqs,
            heads_q=heads_q,
            lse_shape=(num_seqs, heads_q, q_tokens) if offsets is None else (heads_q, rows),
            out=out,
            lse=lse,
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
            workspace=workspace,
        )
        return cls(
            **merge_fields(views, options, heads_kv=num_kv_heads),
            cache=PagedKvCache(
                num_blocks, block_size, num_kv_heads, cache_head_dim, pages.page_table.shape[1]
            ),
            num_seqs=num_seqs,
            q_tokens_per_seq=q_tokens,
            pages=pages,
            cu_seqlens_q=offsets,
            kv_dtype=DType.parse(k_view.dtype),
            k_scale=view_scale("k_scale", k_scale, heads=num_kv_heads, like=q_view),
            v_scale=view_scale("v_scale", v_scale, heads=num_kv_heads, like=q_view),
            guard=guard,
        )


def _query_extent(
    q: ArrayView, cu_seqlens_q: Any, max_seqlen_q: int | None
) -> tuple[ArrayView | None, int, int]:
    """(offsets of a packed q, sequences, the most query tokens of one).

    Raises:
        OperandError, EmptyBatchError, SeqlenOverflowError: the offsets or the length are off.
    """
    if cu_seqlens_q is not None:
        offsets = view_cu_seqlens("cu_seqlens_q", cu_seqlens_q, like=q)
        return offsets, offsets.shape[0] - 1, longest_of(offsets, "max_seqlen_q", max_seqlen_q)
    if max_seqlen_q is not None:
        raise OperandError(
            field="max_seqlen_q",
            got=max_seqlen_q,
            expected="nothing without cu_seqlens_q: q's shape says it",
            remedy="drop max_seqlen_q, or pack q and pass cu_seqlens_q",
        )
    return None, q.shape[0], q.shape[1]
