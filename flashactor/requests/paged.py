"""Requests whose keys and values lie in the pages of a shared pool (PagedAttention, arXiv:2309.06180)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, Unpack

from flashactor.arrays import check_array
from flashactor.errors import EmptyPagedCacheError, PagedHeadDimMismatchError
from flashactor.requests import checks
from flashactor.requests.base import AttentionRequest, RequestOptions, merge_fields, require_type
from flashactor.requests.operands import KvLayout, PageTable
from flashactor.types import is_count


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
        EmptyPagedCacheError: a count of 0; InvalidPagedBlockSizeError: another page size.
    """

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    max_blocks_per_seq: int

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "num_kv_heads", "max_blocks_per_seq"):
            if not is_count(getattr(self, name), 1):
                raise EmptyPagedCacheError(
                    field=name,
                    got=getattr(self, name),
                    expected="at least 1",
                    remedy="allocate the cache before the first request",
                )
        checks.require_block_size(self.block_size)


@dataclass(frozen=True)
class PagedAttentionRequest(AttentionRequest):
    """Attention of a few query tokens per sequence over a paged cache: decode, speculation, chunks.

    The last query token of a sequence is aligned with its last key.

    Attributes:
        cache: geometry of the pool.
        num_seqs: sequences in the batch.
        q_tokens_per_seq: query tokens of each sequence.
        pages: the page table; None for a bare cell.

    Raises:
        EmptyBatchError, ZeroSeqlenError: no sequence or no query token;
        PagedHeadDimMismatchError: the cache holds heads of another size.
    """

    cache: PagedKvCache = field(kw_only=True)
    num_seqs: int = field(kw_only=True)
    q_tokens_per_seq: int = field(default=1, kw_only=True)
    pages: PageTable | None = field(default=None, kw_only=True)

    @property
    def paged(self) -> bool:
        """Always: that is what the type is for."""
        return True

    def __post_init__(self) -> None:
        require_type("cache", self.cache, PagedKvCache)
        checks.require_batch(self.num_seqs)
        checks.require_batch(self.q_tokens_per_seq)
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
        """Whether each sequence asks for one token."""
        return self.q_tokens_per_seq == 1

    @classmethod
    def from_arrays(
        cls,
        q: Any,
        k_cache: Any,
        v_cache: Any,
        page_table: Any,
        seq_lens: Any,
        *,
        layout: KvLayout | str = KvLayout.NHD,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request over a paged cache.

        Args:
            q: ``[num_seqs, q_tokens_per_seq, heads_q, head_dim]``.
            k_cache, v_cache: ``[num_blocks, block_size, num_kv_heads, head_dim]``, with ``layout="HND"``
                ``[num_blocks, num_kv_heads, block_size, head_dim]``.
            page_table: int32 ``[num_seqs, max_blocks_per_seq]``.
            seq_lens: int32 ``[num_seqs]``, keys of each sequence, the query tokens' own included.
            layout: order of the cache's dimensions.
            alibi_slopes: float32 ``[heads_q]`` or ``[num_seqs, heads_q]``.
            sink_logits: float32 ``[heads_q]``.
            out: like q; lse: float32 ``[num_seqs, heads_q, q_tokens_per_seq]``; allocated when absent.
            options: the fields of the request: mask, softmax_scale, softcap, sink_tokens, arch, ...

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        q_view, k_view, v_view = checks.view_qkv(q, k_cache, v_cache, rank=4, dtypes=checks.SIXTEEN_BIT)
        check_array("v_cache", v_view, shape=k_view.shape)
        kv_layout = checks.view_layout(layout)
        num_blocks, block_size, num_kv_heads, cache_head_dim = checks.page_geometry(k_view, kv_layout)
        num_seqs, q_tokens, heads_q, _ = q_view.shape
        checks.check_heads(heads_q, num_kv_heads)
        pages = checks.view_pages(
            page_table,
            seq_lens,
            q=q_view,
            layout=kv_layout,
            num_seqs=num_seqs,
            num_blocks=num_blocks,
            block_size=block_size,
        )
        cache = PagedKvCache(num_blocks, block_size, num_kv_heads, cache_head_dim, pages.page_table.shape[1])
        views = checks.operands(
            q_view,
            k_view,
            v_view,
            batch=num_seqs,
            heads_q=heads_q,
            lse_shape=(num_seqs, heads_q, q_tokens),
            out=out,
            lse=lse,
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
        )
        return cls(
            **merge_fields(views, options, heads_kv=num_kv_heads),
            cache=cache,
            num_seqs=num_seqs,
            q_tokens_per_seq=q_tokens,
            pages=pages,
        )
