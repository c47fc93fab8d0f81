"""Chunked prefill: a chunk's keys and values join the cache, then its queries attend over all of it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

from flashactor.array_checks import check_array
from flashactor.arrays import ArrayView
from flashactor.errors import ChunkIndexOutOfRangeError, OperandError, RequestError, SeqlenOverflowError
from flashactor.requests import checks
from flashactor.requests.base import AttentionRequest, RequestOptions, merge_fields, require_type
from flashactor.requests.lengths import view_prefix_lens
from flashactor.requests.operands import KvCacheAppend, KvLayout, PageTable, Rotary
from flashactor.requests.pages import page_geometry, view_layout, view_pages
from flashactor.requests.scaled import CachedKvRequest, view_cache, view_scale
from flashactor.requests.varlen import CumulativeSeqlens, PackedRequest
from flashactor.types import DType, is_count, settle_counts


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
        SeqlenOverflowError: a negative prefix, or more than 2**30 tokens with the chunk.
    """

    chunk_q_tokens: int
    prefix_kv_tokens: int
    total_chunks: int = 1
    chunk_index: int = 0

    def __post_init__(self) -> None:
        checks.require_positive("chunk_q_tokens", self.chunk_q_tokens)
        checks.require_positive("total_chunks", self.total_chunks)
        settle_counts(self, "chunk_q_tokens", "total_chunks")
        if not is_count(self.chunk_index, 0) or operator.index(self.chunk_index) >= self.total_chunks:
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
        settle_counts(self, "chunk_index", "prefix_kv_tokens")
        checks.require_countable(
            "prefix_kv_tokens + chunk_q_tokens", self.prefix_kv_tokens + self.chunk_q_tokens
        )

    @property
    def is_final(self) -> bool:
        """Whether this is the last chunk of its sequence."""
        return self.chunk_index + 1 == self.total_chunks


@dataclass(frozen=True)
class ChunkedPrefillRequest(CachedKvRequest, PackedRequest):
    """One chunk of a long prefill, or with chunks of one token a decode step that appends to the cache.

    Attributes:
        chunk: where the chunk lies.
        append: the cache that the chunk's k and v are written into; None for a bare cell.
    """

    chunk: ChunkLayout = field(kw_only=True)
    append: KvCacheAppend | None = field(default=None, kw_only=True)

    WRITES: ClassVar[tuple[str, ...]] = (*AttentionRequest.WRITES, "k_cache", "v_cache")

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
        prefix_lens: Any = None,
        rotary_cos: Any = None,
        rotary_sin: Any = None,
        rotary_interleaved: bool = False,
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
        """A request that appends k and v to the cache behind each sequence's prefix and attends over both.

        Args:
            q: ``[batch, chunk_q_tokens, heads_q, head_dim]``.
            k, v: the chunk's own, ``[batch, chunk_q_tokens, heads_kv, head_dim]``; v's head_dim, which is
                out's, may be another.
            k_cache, v_cache: ``[batch, capacity, heads_kv, head_dim]``; with ``page_table`` a pool of pages,
                ``[num_blocks, block_size, heads_kv, head_dim]`` (or as ``layout`` says). Written in place. Of
                q's type, or both of one fp8 type: what is stored is then ``x / scale``, rounded and
                saturated.
            chunk: where the chunk lies; with ``prefix_lens`` its prefix_kv_tokens is the longest prefix.
            page_table: int32 ``[batch, max_blocks_per_seq]`` of a paged cache.
            layout: order of a paged cache's dimensions; HND only with ``page_table``.
            prefix_lens: int32 ``[batch]``, keys that each sequence already has; all as many when absent.
            rotary_cos, rotary_sin: ``[positions, rotary_dim / 2]``, of q's type or float32, rotary_dim a
                multiple of 16 up to head_dim, with a row for every position of the prefix and the chunk. They
                turn q and the new k, at the position that each has in its sequence, before k is stored.
            rotary_interleaved: whether neighbours are turned as a pair; else an element of the first half of
                rotary_dim with that of the second.
            k_scale, v_scale: descales of the cache; a number, or a float32 array of one element or
                ``[heads_kv]``.
            guard: whether the device checks the page table, only with one. Then no page is checked here; the
                keys of a page outside the pool read as zeros.
            alibi_slopes: float32 ``[heads_q]`` or ``[batch, heads_q]``.
            sink_logits: float32 ``[heads_q]``.
            workspace: contiguous uint8 ``[bytes]``, 16-byte aligned: scratch for kernels that need some.
            out: like q, with v's head_dim; lse: float32 ``[batch, heads_q, chunk_q_tokens]``; allocated when
                absent.
            options: the fields of the request: mask, softmax_scale, softcap, sink_tokens, arch, ...

        Raises:
            OperandError: which array is off, and how; SeqlenOverflowError: the cache is too small, or a
            prefix longer than the chunk's; RequestError, DispatchError: an option.
        """
        require_type("chunk", chunk, ChunkLayout)
        if page_table is None:
            _refuse_page_options(view_layout(layout), guard)
        q_view, k_view, v_view = checks.view_qkv(q, k, v, rank=4, dtypes=checks.SIXTEEN_BIT)
        checks.check_dense(q_view, k_view, v_view)
        batch, tokens, heads_q, head_dim = q_view.shape
        heads_kv = k_view.shape[2]
        check_array("q", q_view, shape=(batch, chunk.chunk_q_tokens, heads_q, head_dim))
        check_array("k", k_view, shape=(batch, tokens, heads_kv, head_dim))
        total = chunk.prefix_kv_tokens + tokens
        prefixes, known = None, [chunk.prefix_kv_tokens] * batch
        if prefix_lens is not None:
            prefixes = view_prefix_lens(
                prefix_lens, q=q_view, batch=batch, longest_prefix=chunk.prefix_kv_tokens
            )
            known = prefixes.to_numpy().tolist() if prefixes.on_host else known
        k_pool, v_pool = view_cache(k_cache, v_cache, q=q_view)
        append = KvCacheAppend(
            pages=_view_pages(
                k_pool, k_view, page_table, view_layout(layout), [length + tokens for length in known], guard
            ),
            k_cache=k_pool,
            v_cache=v_pool,
            prefix_lens=prefixes,
            rotary=_view_rotary(rotary_cos, rotary_sin, rotary_interleaved, q=q_view, positions=total),
        )
        check_array("v_cache", v_pool, shape=(*k_pool.shape[:-1], v_view.shape[-1]))
        checks.require_writable("k_cache", k_pool)
        checks.require_writable("v_cache", v_pool)
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
            workspace=workspace,
        )
        return cls(
            **merge_fields(views, options),
            chunk=chunk,
            append=append,
            seqlens=CumulativeSeqlens(batch, tokens, total, batch * tokens, batch * total),
            kv_dtype=DType.parse(append.k_cache.dtype),
            k_scale=view_scale("k_scale", k_scale, heads=heads_kv, like=q_view),
            v_scale=view_scale("v_scale", v_scale, heads=heads_kv, like=q_view),
            guard=guard,
        )


def _refuse_page_options(layout: KvLayout, guard: bool) -> None:
    """Raises RequestError for what only a paged cache has."""
    require_type("guard", guard, bool)
    for name, got, default in (("layout", layout, KvLayout.NHD), ("guard", guard, False)):
        if got is not default:
            raise RequestError(
                field=name,
                got=got,
                expected=f"{default} without page_table",
                remedy=f"pass page_table, or drop {name}",
            )


def _view_pages(
    k_cache: ArrayView, k: ArrayView, page_table: Any, layout: KvLayout, lengths: list[int], guard: bool
) -> PageTable | None:
    """The page table of a cache that takes k, with room for sequences of some lengths; None without pages.

    Raises:
        OperandError: the cache is not k's, or the table is off; SeqlenOverflowError: there is no room.
    """
    batch, _, heads_kv, head_dim = k.shape
    if page_table is None:
        capacity = k_cache.shape[1]
        check_array("k_cache", k_cache, shape=(batch, capacity, heads_kv, head_dim))
        if max(lengths) > capacity:
            raise SeqlenOverflowError(
                field="k_cache",
                got=f"a capacity of {capacity}",
                expected=f"at least {max(lengths)}, the prefix and the chunk",
                remedy="allocate the cache for the whole sequence",
            )
        return None
    num_blocks, block_size, _, _ = page_geometry(k_cache, layout)
    nhd = layout is KvLayout.NHD
    sizes = (num_blocks, block_size, heads_kv) if nhd else (num_blocks, heads_kv, block_size)
    check_array("k_cache", k_cache, shape=(*sizes, head_dim))
    return view_pages(
        page_table,
        None,
        q=k,
        layout=layout,
        num_seqs=batch,
        num_blocks=num_blocks,
        block_size=block_size,
        lengths=lengths,
        guard=guard,
    )


def _view_rotary(cos: Any, sin: Any, interleaved: bool, *, q: ArrayView, positions: int) -> Rotary | None:
    """The tables of a rotary embedding that go with q; None where there are none.

    Raises:
        OperandError: one table without the other, or a wrong shape, dtype, device or alignment;
        SeqlenOverflowError: fewer positions than the sequences have; RequestError: ``interleaved`` without
            tables.
    """
    require_type("rotary_interleaved", interleaved, bool)
    if cos is None and sin is None:
        if interleaved:
            raise RequestError(
                field="rotary_interleaved",
                got=interleaved,
                expected="False without rotary_cos and rotary_sin",
                remedy="pass both tables, or drop rotary_interleaved",
            )
        return None
    for name, table in (("rotary_cos", cos), ("rotary_sin", sin)):
        if table is None:
            raise OperandError(
                field=name,
                got="nothing",
                expected="rotary_cos and rotary_sin, or neither",
                remedy=f"pass {name}, too",
            )
    cos_view = checks.view_operand("rotary_cos", cos, rank=2, dtypes=(q.dtype, "float32"), device=q.device)
    sin_view = checks.view_operand("rotary_sin", sin, rank=2, dtypes=(cos_view.dtype,), device=q.device)
    check_array("rotary_sin", sin_view, shape=cos_view.shape)
    rows, half = cos_view.shape
    if not 0 < 2 * half <= q.shape[-1] or half % 8:
        raise OperandError(
            field="rotary_cos.shape",
            got=cos_view.shape,
            expected=f"half of a multiple of 16 up to {q.shape[-1]} (head_dim) as the last dimension",
            remedy="turn a number of elements that is a multiple of 16",
        )
    if rows < positions:
        raise SeqlenOverflowError(
            field="rotary_cos",
            got=f"{rows} positions",
            expected=f"at least {positions}, the prefix and the chunk",
            remedy="compute the tables for the longest sequence",
        )
    return Rotary(cos=cos_view, sin=sin_view, interleaved=interleaved)
