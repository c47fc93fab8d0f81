"""Checks of the arrays that the reference computes on, and their common working layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import OperandError
from flashactor.reference.params import AttentionParams

BATCHED = "[batch, seqlen, heads, head_dim]"
VARLEN = "[total_tokens, heads, head_dim]"


def heads_first(x: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """[seqlen, heads, head_dim] of any float type as contiguous [heads, seqlen, head_dim] of ``dtype``."""
    return np.ascontiguousarray(x.transpose(1, 0, 2), dtype=dtype)


def check_rank(field: str, x: NDArray[Any], axes: str) -> None:
    """Require as many axes as the comma-separated names in ``axes``.

    Raises:
        OperandError: x has more or fewer.
    """
    if x.ndim != axes.count(",") + 1:
        raise _mismatch(field, x, axes, "give the array one axis for each name")


def check_operands(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], axes: str) -> None:
    """Require q, k and v of the same layout ``axes`` whose heads and head_dim go together.

    Raises:
        OperandError: a rank is wrong, or q, k and v contradict each other.
    """
    for field, x in (("q", q), ("k", k), ("v", v)):
        check_rank(field, x, axes)
    if k.shape[:-1] != v.shape[:-1]:
        raise _mismatch(
            "v", v, f"{axes} as k has up to head_dim: {k.shape[:-1]}", "pass k and v of one length"
        )
    check_heads(q, k)


def check_heads(q: NDArray[Any], k: NDArray[Any]) -> None:
    """Require that k's last two axes (heads_kv, head_dim) go with q's (heads_q, head_dim).

    Raises:
        OperandError: another head_dim, or heads_q is no multiple of heads_kv.
    """
    if k.shape[-1] != q.shape[-1]:
        raise _mismatch("k", k, f"head_dim {q.shape[-1]} as in q", "pass q and k of one head_dim")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2] != 0:
        raise _mismatch("k", k, f"a number of heads that divides q's {q.shape[-2]}", "repeat or drop heads")


def check_same_shape(field: str, x: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Require exactly this shape.

    Raises:
        OperandError: x has another.
    """
    if x.shape != shape:
        raise _mismatch(field, x, f"shape {shape}", "match it to the other operands")


def check_per_head(params: AttentionParams, batch: int, heads_q: int) -> None:
    """Require that slopes and sink logits have one value per query head.

    Raises:
        OperandError: they have another length.
    """
    if params.alibi_slopes is not None and params.alibi_slopes.shape not in ((heads_q,), (batch, heads_q)):
        expected = f"shape ({heads_q},) or ({batch}, {heads_q})"
        raise _mismatch("alibi_slopes", params.alibi_slopes, expected, "pass one slope per query head")
    if params.sink_logits is not None:
        check_same_shape("sink_logits", params.sink_logits, (heads_q,))


def _mismatch(field: str, x: NDArray[Any], expected: str, remedy: str) -> OperandError:
    return OperandError(field=field, got=f"shape {x.shape}", expected=expected, remedy=remedy)
