"""Checks of the lengths of sequences: offsets of packed ones, used parts, prefixes in a cache."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from flashactor.array_checks import check_array, check_contiguous
from flashactor.arrays import ArrayView
from flashactor.errors import OperandError, SeqlenOverflowError
from flashactor.requests.checks import require_batch, require_positive
from flashactor.requests.operands import SequenceOffsets


def view_offsets(
    cu_seqlens_q: Any, cu_seqlens_k: Any, seqused_q: Any, seqused_k: Any, *, q: ArrayView, k: ArrayView
) -> tuple[SequenceOffsets, int]:
    """Offsets of packed q and k with what is used of each sequence, and the batch size.

    Values are checked when the host can read them: offsets from 0, never falling, to the number of tokens;
    used lengths from 0 to the sequence's.

    Raises:
        OperandError, EmptyBatchError, SeqlenOverflowError: which offsets are off, and how.
    """
    q_offsets = view_cu_seqlens("cu_seqlens_q", cu_seqlens_q, like=q)
    k_offsets = view_cu_seqlens("cu_seqlens_k", cu_seqlens_k, like=k, shape=q_offsets.shape)
    offsets = SequenceOffsets(
        cu_seqlens_q=q_offsets,
        cu_seqlens_k=k_offsets,
        seqused_q=_view_used("seqused_q", seqused_q, q_offsets),
        seqused_k=_view_used("seqused_k", seqused_k, k_offsets),
    )
    return offsets, q_offsets.shape[0] - 1


def view_cu_seqlens(
    name: str, cu_seqlens: Any, *, like: ArrayView, shape: tuple[int, ...] | None = None
) -> ArrayView:
    """Offsets of the sequences that are packed along the first dimension of ``like``.

    Raises:
        OperandError, EmptyBatchError, SeqlenOverflowError: how they are off.
    """
    offsets = ArrayView.of(cu_seqlens, name)
    check_array(name, offsets, rank=1, shape=shape, dtypes=("int32",), device=like.device)
    check_contiguous(name, offsets)
    require_batch(offsets.shape[0] - 1)
    if offsets.on_host:
        _check_offsets(name, offsets.to_numpy().tolist(), like.shape[0])
    return offsets


def _view_used(name: str, used: Any, offsets: ArrayView) -> ArrayView | None:
    if used is None:
        return None
    view = ArrayView.of(used, name)
    shape = (offsets.shape[0] - 1,)
    check_array(name, view, rank=1, shape=shape, dtypes=("int32",), device=offsets.device)
    check_contiguous(name, view)
    if view.on_host:
        lengths = (end - start for start, end in pairwise(offsets.to_numpy().tolist()))
        require_within(name, view.to_numpy().tolist(), lengths, "the sequence's length by its offsets")
    return view


def require_within(name: str, values: Iterable[int], limits: Iterable[int], meaning: str) -> None:
    """Raises SeqlenOverflowError unless each value is from 0 to the limit beside it, which has a meaning."""
    for index, (value, limit) in enumerate(zip(values, limits, strict=True)):
        if not 0 <= value <= limit:
            raise SeqlenOverflowError(
                field=f"{name}[{index}]",
                got=value,
                expected=f"0 to {limit}, {meaning}",
                remedy=f"correct {name}",
            )


def view_prefix_lens(prefix_lens: Any, *, q: ArrayView, batch: int, longest_prefix: int) -> ArrayView:
    """The number of keys that each sequence of a cache already has.

    Raises:
        OperandError: wrong shape, dtype or device; SeqlenOverflowError: a readable one beyond the longest.
    """
    view = ArrayView.of(prefix_lens, "prefix_lens")
    check_array("prefix_lens", view, shape=(batch,), dtypes=("int32",), device=q.device)
    check_contiguous("prefix_lens", view)
    if view.on_host:
        values = view.to_numpy().tolist()
        require_within("prefix_lens", values, [longest_prefix] * batch, "the chunk's prefix_kv_tokens")
    return view


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


def longest_of(offsets: ArrayView, name: str, given: int | None) -> int:
    """The longest packed sequence: as given, or read from offsets that the host can read.

    Raises:
        OperandError: not given and not readable; SeqlenOverflowError: given, but too small.
    """
    if given is not None:
        require_positive(name, given)
        given = operator.index(given)
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
