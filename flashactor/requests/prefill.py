"""Chunked prefill: a chunk's keys and values join the cache, then its queries attend over all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, Unpack

from flashactor.arrays import check_array
from flashactor.errors import ChunkIndexOutOfRangeError, SeqlenOverflowError
from flashactor.requests import checks
from flashactor.requests.base import RequestOptions, merge_fields, require_type
from flashactor.requests.operands import KvCacheAppend, KvLayout
from flashactor.requests.varlen import CumulativeSeqlens, PackedRequest
from flashactor.types import is_count


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """Where a chunk lies in its sequence.

    Attributes:
        chunk_q_tokens: tokens of this chunk.
        prefix_kv_tokens: tokens that the cache already holds; the chunk is appended after them.
        total_chunks: chunks of the sequence.
        chunk_index: this chunk, from 0.

    Raises:
        ZeroSeqlenError: no token or no chunk; ChunkIndexOutOfRangeError: no such chunk;
        SeqlenOverflowError: a negative prefix.
    """

    chunk_q_tokens: int
    prefix_kv_tokens: int
    total_chunks: int = 1
    chunk_index: int = 0

    def __post_init__(self) -> None:
        checks.require_positive("chunk_q_tokens", self.chunk_q_tokens)
        checks.require_positive("total_chunks", self.total_chunks)
        if not is_count(self.chunk_index, 0) or self.chunk_index >= self.total_chunks:
            raise ChunkIndexOutOfRangeError(
                field="chunk_index",
                got=self.chunk_index,
                expected=f"0 to {self.total_chunks - 1}",
                remedy="count chunks from 0",
            )
        if not is_count(self.prefix_kv_tokens, 0):
            raise SeqlenOverflowError(
                field="prefix_kv_tokens",
                got=self.prefix_kv_tokens,
                expected="at least 0",
                remedy="pass the number of tokens that the cache already holds",
            )

    @property
    def is_final(self) -> bool:
        """Whether this is the last chunk of its sequence."""
        return self.chunk_index + 1 == self.total_chunks


@dataclass(frozen=True)
class ChunkedPrefillRequest(PackedRequest):
    """One chunk of a long prefill.

    Attributes:
        chunk: where the chunk lies.
        append: the cache that the chunk's k and v are written into; None for a bare cell.
    """

    chunk: ChunkLayout = field(kw_only=True)
    append: KvCacheAppend | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_type("chunk", self.chunk, ChunkLayout)
        super().__post_init__()

    @property
    def paged(self) -> bool:
        """Whether the cache is a pool of pages."""
        return self.append is not None and self.append.pages is not None

    @classmethod
    def from_arrays(
        cls,
        q: Any,
        k: Any,
        v: Any,
        k_cache: Any,
        v_cache: Any,
        *,
        chunk: ChunkLayout,
        page_table: Any = None,
        layout: KvLayout | str = KvLayout.NHD,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request that appends k and v to the cache at ``chunk.prefix_kv_tokens`` and attends over both.

        Args:
            q: ``[batch, chunk_q_tokens, heads_q, head_dim]``.
            k, v: the chunk's own, ``[batch, chunk_q_tokens, heads_kv, head_dim]``.
            k_cache, v_cache: ``[batch, capacity, heads_kv, head_dim]``; with ``page_table`` a pool of pages,
                ``[num_blocks, block_size, heads_kv, head_dim]`` (or as ``layout`` says). Written in place.
            chunk: where the chunk lies; all sequences of the batch are at the same place.
            page_table: int32 ``[batch, max_blocks_per_seq]`` of a paged cache.
            out: like q; lse: float32 ``[batch, heads_q, chunk_q_tokens]``; allocated when absent.
            options: the fields of the request: mask, softmax_scale, softcap, sink_tokens, arch, ...

        Raises:
            OperandError: which array is off, and how; SeqlenOverflowError: the cache is too small.
        """
        require_type("chunk", chunk, ChunkLayout)
        q_view, k_view, v_view = checks.view_qkv(q, k, v, rank=4, dtypes=checks.SIXTEEN_BIT)
        checks.check_dense(q_view, k_view, v_view)
        batch, tokens, heads_q, head_dim = q_view.shape
        heads_kv = k_view.shape[2]
        check_array("q", q_view, shape=(batch, chunk.chunk_q_tokens, heads_q, head_dim))
        check_array("k", k_view, shape=(batch, chunk.chunk_q_tokens, heads_kv, head_dim))
        total = chunk.prefix_kv_tokens + tokens
        k_pool = checks.writable_view("k_cache", k_cache, like=k_view, shape=None, dtypes=(k_view.dtype,))
        v_pool = checks.writable_view(
            "v_cache", v_cache, like=k_view, shape=k_pool.shape, dtypes=(k_view.dtype,)
        )
        check_array("k_cache", k_pool, rank=4)
        pages = None
        if page_table is None:
            capacity = k_pool.shape[1]
            check_array("k_cache", k_pool, shape=(batch, capacity, heads_kv, head_dim))
            if total > capacity:
                raise SeqlenOverflowError(
                    field="k_cache",
                    got=f"a capacity of {capacity}",
                    expected=f"at least {total}, the prefix and the chunk",
                    remedy="allocate the cache for the whole sequence",
                )
        else:
            kv_layout = checks.view_layout(layout)
            num_blocks, block_size, pool_heads, pool_head_dim = checks.page_geometry(k_pool, kv_layout)
            expected = (num_blocks, block_size, heads_kv, head_dim)
            if (pool_heads, pool_head_dim) != (heads_kv, head_dim):
                nhd_or_hnd = (
                    expected if kv_layout is KvLayout.NHD else (num_blocks, heads_kv, block_size, head_dim)
                )
                check_array("k_cache", k_pool, shape=nhd_or_hnd)
            pages = checks.view_pages(
                page_table,
                None,
                q=q_view,
                layout=kv_layout,
                num_seqs=batch,
                num_blocks=num_blocks,
                block_size=block_size,
                seq_len=total,
            )
        views = checks.operands(
            q_view,
            k_view,
            v_view,
            batch=batch,
            heads_q=heads_q,
            lse_shape=(batch, heads_q, tokens),
            out=out,
            lse=lse,
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
        )
        return cls(
            **merge_fields(views, options),
            chunk=chunk,
            append=KvCacheAppend(k_cache=k_pool, v_cache=v_pool, pages=pages),
            seqlens=CumulativeSeqlens(batch, tokens, total, batch * tokens, batch * total),
        )
