"""Checks of a request's arrays, shared by the request types. Each returns the views that it checked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from flashactor.arrays import ArrayView, check_array, check_vector_access
from flashactor.errors import (
    EmptyBatchError,
    InvalidPagedBlockSizeError,
    OperandError,
    SeqlenOverflowError,
    ZeroSeqlenError,
)
from flashactor.requests.operands import KvLayout, Operands, PageTable, SequenceOffsets
from flashactor.types import DType, is_count

SIXTEEN_BIT = (DType.F16.numpy_name, DType.BF16.numpy_name)
EIGHT_BIT = (DType.F8E4M3.numpy_name, DType.F8E5M2.numpy_name)
BLOCK_SIZES = (8, 16, 32, 64, 128, 256)


def view_qkv(q: Any, k: Any, v: Any, *, rank: int, dtypes: Sequence[str]) -> tuple[ArrayView, ...]:
    """q, k, v of one rank, dtype and device, with rows that kernels can load.

    Raises:
        OperandError: which argument is off, and how.
    """
    q_view = check_array("q", ArrayView.of(q, "q"), rank=rank, dtypes=dtypes)
    # k and v of fp8 may differ from q in type (e4m3 with e5m2), 16-bit ones may not.
    kv_dtypes = EIGHT_BIT if q_view.dtype in EIGHT_BIT else (q_view.dtype,)
    views = [q_view]
    for name, array in (("k", k), ("v", v)):
        view = ArrayView.of(array, name)
        views.append(check_array(name, view, rank=rank, dtypes=kv_dtypes, device=q_view.device))
    for name, view in zip("qkv", views, strict=True):
        check_vector_access(name, view)
    return tuple(views)


def check_heads(q_heads: int, kv_heads: int) -> int:
    """The GQA ratio.

    Raises:
        OperandError: there is no head, or the query heads do not divide evenly.
    """
    if kv_heads == 0 or q_heads == 0 or q_heads % kv_heads:
        raise OperandError(
            field="heads",
            got=f"{q_heads} query heads with {kv_heads} key/value heads",
            expected="a positive multiple of the key/value heads",
            remedy="give q a number of heads that is a multiple of k's",
        )
    return q_heads // kv_heads


def require_batch(batch: int) -> None:
    """Raises EmptyBatchError unless there is a sequence."""
    if not is_count(batch, 1):
        raise EmptyBatchError(
            field="batch",
            got=batch,
            expected="at least one sequence",
            remedy="skip the request for an empty batch",
        )


def require_positive(name: str, value: int) -> None:
    """Raises ZeroSeqlenError unless a length is a positive integer."""
    if not is_count(value, 1):
        raise ZeroSeqlenError(
            field=name, got=value, expected="an integer of at least 1", remedy="skip empty sequences"
        )


def check_dense(q: ArrayView, k: ArrayView, v: ArrayView) -> int:
    """Shapes ``[batch, seqlen, heads, head_dim]``: equal batch, k and v alike; returns the GQA ratio.

    Raises:
        OperandError, EmptyBatchError, ZeroSeqlenError: the first mismatch.
    """
    batch, seqlen_q, heads_q, head_dim = q.shape
    _, seqlen_k, heads_kv, _ = k.shape
    require_batch(batch)
    check_array("k", k, shape=(batch, seqlen_k, heads_kv, head_dim))
    check_array("v", v, shape=(batch, seqlen_k, heads_kv, head_dim))
    require_positive("seqlen_q", seqlen_q)
    require_positive("seqlen_k", seqlen_k)
    return check_heads(heads_q, heads_kv)


def operands(
    q: ArrayView,
    k: ArrayView,
    v: ArrayView,
    *,
    batch: int,
    heads_q: int,
    lse_shape: tuple[int, ...],
    out: Any,
    lse: Any,
    alibi_slopes: Any,
    sink_logits: Any,
) -> Operands:
    """The common operands with the optional ones checked against q.

    Raises:
        OperandError: which argument is off, and how.
    """
    out_view = lse_view = slopes = logits = None
    if out is not None:
        dtypes = SIXTEEN_BIT if q.dtype in EIGHT_BIT else (q.dtype,)
        out_view = writable_view("out", out, like=q, shape=q.shape, dtypes=dtypes)
        check_vector_access("out", out_view)
    if lse is not None:
        lse_view = writable_view("lse", lse, like=q, shape=lse_shape, dtypes=("float32",))
    if alibi_slopes is not None:
        slopes = ArrayView.of(alibi_slopes, "alibi_slopes")
        check_array("alibi_slopes", slopes, rank=(1, 2), dtypes=("float32",), device=q.device)
        shape = (heads_q,) if len(slopes.shape) == 1 else (batch, heads_q)
        check_array("alibi_slopes", slopes, shape=shape)
    if sink_logits is not None:
        logits = ArrayView.of(sink_logits, "sink_logits")
        check_array("sink_logits", logits, shape=(heads_q,), dtypes=("float32",), device=q.device)
    return Operands(q=q, k=k, v=v, out=out_view, lse=lse_view, alibi_slopes=slopes, sink_logits=logits)


def writable_view(
    name: str, array: Any, *, like: ArrayView, shape: Sequence[int] | None, dtypes: Sequence[str]
) -> ArrayView:
    """A view of an array that results are written into.

    Raises:
        OperandError: wrong shape, dtype or device, read-only memory, or elements that share memory.
    """
    view = check_array(name, ArrayView.of(array, name), shape=shape, dtypes=dtypes, device=like.device)
    if any(n > 1 and stride == 0 for n, stride in zip(view.shape, view.strides, strict=True)):
        raise OperandError(
            field=f"{name}.strides",
            got=f"{view.strides}: a broadcast array",
            expected="one address for each element that is written",
            remedy=f"pass {name} as an array of its own",
        )
    if not view.writable:
        raise OperandError(
            field=name,
            got="a read-only array",
            expected="writable memory",
            remedy=f"allocate {name}, or leave it out and let the executor allocate it",
        )
    return view


def view_offsets(
    cu_seqlens_q: Any, cu_seqlens_k: Any, *, q: ArrayView, k: ArrayView
) -> tuple[SequenceOffsets, int]:
    """Offsets of packed q and k, and the batch size.

    Values are checked when the host can read them: from 0, never falling, to the number of tokens.

    Raises:
        OperandError, EmptyBatchError, SeqlenOverflowError: which offsets are off, and how.
    """
    q_offsets = ArrayView.of(cu_seqlens_q, "cu_seqlens_q")
    k_offsets = ArrayView.of(cu_seqlens_k, "cu_seqlens_k")
    check_array("cu_seqlens_q", q_offsets, rank=1, dtypes=("int32",), device=q.device)
    check_array("cu_seqlens_k", k_offsets, shape=q_offsets.shape, dtypes=("int32",), device=q.device)
    batch = q_offsets.shape[0] - 1
    require_batch(batch)
    for name, offsets, tokens in (
        ("cu_seqlens_q", q_offsets, q.shape[0]),
        ("cu_seqlens_k", k_offsets, k.shape[0]),
    ):
        if offsets.on_host:
            _check_offsets(name, offsets.to_numpy().tolist(), tokens)
    return SequenceOffsets(cu_seqlens_q=q_offsets, cu_seqlens_k=k_offsets), batch


def _check_offsets(name: str, offsets: list[int], tokens: int) -> None:
    if offsets[0] != 0 or any(a > b for a, b in pairwise(offsets)):
        raise OperandError(
            field=name,
            got=offsets if len(offsets) <= 8 else f"{offsets[:8]}...",
            expected="offsets that start at 0 and never fall",
            remedy="pass the cumulative sum of the lengths with a leading 0",
        )
    if offsets[-1] > tokens:
        raise SeqlenOverflowError(
            field=name,
            got=f"a last offset of {offsets[-1]}",
            expected=f"at most the {tokens} tokens of the array",
            remedy="pass the offsets that belong to this array",
        )


def longest(offsets: ArrayView, name: str, given: int | None) -> int:
    """The longest packed sequence: as given, or read from offsets that the host can read.

    Raises:
        OperandError: not given and not readable; SeqlenOverflowError: given, but too small.
    """
    if given is not None:
        require_positive(name, given)
    if not offsets.on_host:
        if given is None:
            raise OperandError(
                field=name,
                got="nothing",
                expected="the longest length, since the offsets are on the device",
                remedy=f"pass {name}; flashactor never synchronises to read it",
            )
        return given
    values = offsets.to_numpy()
    actual = int((values[1:] - values[:-1]).max())
    if given is None:
        return max(actual, 1)
    if given < actual:
        raise SeqlenOverflowError(
            field=name,
            got=given,
            expected=f"at least {actual}, the longest sequence in the offsets",
            remedy=f"pass the right {name}, or leave it out",
        )
    return given


def page_geometry(pool: ArrayView, layout: KvLayout) -> tuple[int, int, int, int]:
    """(num_blocks, block_size, num_kv_heads, head_dim) of a pool of pages.

    Raises:
        InvalidPagedBlockSizeError: kernels do not take pages of this size.
    """
    blocks, second, third, head_dim = pool.shape
    block_size, heads = (second, third) if layout is KvLayout.NHD else (third, second)
    require_block_size(block_size)
    return blocks, block_size, heads, head_dim


def require_block_size(block_size: int) -> None:
    """Raises InvalidPagedBlockSizeError unless kernels take pages of this size."""
    if block_size not in BLOCK_SIZES:
        raise InvalidPagedBlockSizeError(
            field="block_size",
            got=block_size,
            expected="one of " + ", ".join(map(str, BLOCK_SIZES)),
            remedy="allocate the cache with one of these page sizes",
        )


def view_layout(layout: KvLayout | str) -> KvLayout:
    """The layout of a name.

    Raises:
        OperandError: no such layout.
    """
    try:
        return KvLayout(layout)
    except ValueError:
        raise OperandError(
            field="layout",
            got=layout,
            expected=" or ".join(member.value for member in KvLayout),
            remedy="name the order of the cache's dimensions",
        ) from None


def view_pages(
    page_table: Any,
    seq_lens: Any | None,
    *,
    q: ArrayView,
    layout: KvLayout,
    num_seqs: int,
    num_blocks: int,
    block_size: int,
    seq_len: int | None = None,
) -> PageTable:
    """A page table whose entries lie in the pool, as far as the host can read them.

    Lengths come from ``seq_lens``, or are ``seq_len`` for every sequence. Only the entries that a sequence's
    length reaches are checked: engines fill the rest with anything.

    Raises:
        OperandError: wrong shape, dtype, device, or a page outside the pool;
        SeqlenOverflowError: a sequence longer than its row of pages.
    """
    table = ArrayView.of(page_table, "page_table")
    check_array("page_table", table, rank=2, dtypes=("int32",), device=q.device)
    check_array("page_table", table, shape=(num_seqs, table.shape[1]))
    lengths = None
    if seq_lens is not None:
        lengths = ArrayView.of(seq_lens, "seq_lens")
        check_array("seq_lens", lengths, shape=(num_seqs,), dtypes=("int32",), device=q.device)
    if table.on_host:
        known = [seq_len or 0] * num_seqs if lengths is None else lengths.to_numpy().tolist()
        _check_pages(table.to_numpy().tolist(), known, num_blocks, block_size)
    return PageTable(page_table=table, seq_lens=lengths, layout=layout)


def _check_pages(table: list[list[int]], lengths: list[int], num_blocks: int, block_size: int) -> None:
    for sequence, (pages, length) in enumerate(zip(table, lengths, strict=True)):
        if not 0 <= length <= len(pages) * block_size:
            raise SeqlenOverflowError(
                field=f"seq_lens[{sequence}]",
                got=length,
                expected=f"0 to {len(pages) * block_size}, what its row of pages holds",
                remedy="give the sequence more pages",
            )
        for slot, page in enumerate(pages[: -(-length // block_size)]):
            if not 0 <= page < num_blocks:
                raise OperandError(
                    field=f"page_table[{sequence}][{slot}]",
                    got=page,
                    expected=f"a block of the pool, 0 to {num_blocks - 1}",
                    remedy="free and reuse pages through one allocator",
                )
