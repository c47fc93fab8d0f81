"""Checks of paged caches: the geometry of a pool, and the tables that point into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashactor.array_checks import check_array, check_contiguous
from flashactor.arrays import ArrayView
from flashactor.errors import InvalidPagedBlockSizeError, OperandError, SeqlenOverflowError
from flashactor.requests.operands import KvLayout, PageTable

BLOCK_SIZES = (8, 16, 32, 64, 128, 256)


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
    lengths: Sequence[int] = (),
    guard: bool = False,
) -> PageTable:
    """A page table whose entries lie in the pool, as far as the host can read them.

    Lengths come from ``seq_lens``, or are ``lengths`` where the request fixes them. Only the entries that a
    sequence's length reaches are checked: engines fill the rest with anything. With ``guard`` no entry is
    checked, for the device does it.

    Raises:
        OperandError: wrong shape, dtype, device, or a page outside the pool;
        SeqlenOverflowError: a sequence longer than its row of pages.
    """
    table = ArrayView.of(page_table, "page_table")
    check_array("page_table", table, rank=2, dtypes=("int32",), device=q.device)
    check_array("page_table", table, shape=(num_seqs, table.shape[1]))
    check_contiguous("page_table", table)
    seq_lens_view = None
    if seq_lens is not None:
        seq_lens_view = ArrayView.of(seq_lens, "seq_lens")
        check_array("seq_lens", seq_lens_view, shape=(num_seqs,), dtypes=("int32",), device=q.device)
        check_contiguous("seq_lens", seq_lens_view)
        if seq_lens_view.on_host:
            lengths = seq_lens_view.to_numpy().tolist()
    _check_lengths(lengths, table.shape[1] * block_size)
    if table.on_host and not guard:
        _check_pages(table.to_numpy().tolist(), lengths, num_blocks, block_size)
    return PageTable(page_table=table, seq_lens=seq_lens_view, layout=layout)


def _check_lengths(lengths: Sequence[int], capacity: int) -> None:
    for sequence, length in enumerate(lengths):
        if not 0 <= length <= capacity:
            raise SeqlenOverflowError(
                field=f"seq_lens[{sequence}]",
                got=length,
                expected=f"0 to {capacity}, what its row of pages holds",
                remedy="give the sequence more pages",
            )


def _check_pages(table: list[list[int]], lengths: Sequence[int], num_blocks: int, block_size: int) -> None:
    for sequence, (pages, length) in enumerate(zip(table, lengths, strict=True)):
        for slot, page in enumerate(pages[: -(-length // block_size)]):
            if not 0 <= page < num_blocks:
                raise OperandError(
                    field=f"page_table[{sequence}][{slot}]",
                    got=page,
                    expected=f"a block of the pool, 0 to {num_blocks - 1}",
                    remedy="free and reuse pages through one allocator",
                )
