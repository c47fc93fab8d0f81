"""Rotary position embedding (RoFormer, arXiv:2104.09864, section 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import OperandError
from flashactor.reference.operands import check_rank, check_same_shape


def rotate(
    x: NDArray[Any],
    cos: NDArray[Any],
    sin: NDArray[Any],
    positions: NDArray[Any],
    interleaved: bool = False,
) -> NDArray[np.float64]:
    """Turn each pair of a head's first rotary_dim elements by its position's angle, in float64.

    A pair (a, b) becomes (a cos - b sin, a sin + b cos). Pairs are (x[j], x[j + rotary_dim / 2]), or
    (x[2j], x[2j + 1]) when interleaved; elements from rotary_dim on stay.

    Args:
        x: [..., tokens, heads, head_dim], any float type.
        cos: [table_length, rotary_dim / 2], any float type.
        sin: shape of cos.
        positions: [..., tokens] integers, rows of the tables; the leading axes broadcast to those of x.
        interleaved: which elements make a pair.

    Raises:
        OperandError: the shapes contradict each other, or a position is not in the tables.
    """
    check_rank("rotary_cos", cos, "[table_length, rotary_dim / 2]")
    check_same_shape("rotary_sin", sin, cos.shape)
    table_length, half = cos.shape
    if 2 * half > x.shape[-1]:
        raise OperandError(
            field="rotary_cos",
            got=f"shape {cos.shape}, a rotary_dim of {2 * half}",
            expected=f"a rotary_dim of at most {x.shape[-1]}, the head_dim",
            remedy="pass one column for each pair of elements to turn",
        )
    if positions.size and not 0 <= positions.min() <= positions.max() < table_length:
        raise OperandError(
            field="rotary_cos",
            got=f"{table_length} positions, asked for {positions.min()} to {positions.max()}",
            expected="a row for every position",
            remedy="make the tables as long as the longest sequence",
        )
    turned = x.astype(np.float64)
    pairs = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(half), slice(half, 2 * half))
    )
    a, b = turned[..., pairs[0]].copy(), turned[..., pairs[1]].copy()
    c, s = (table.astype(np.float64)[positions][..., None, :] for table in (cos, sin))
    turned[..., pairs[0]] = a * c - b * s
    turned[..., pairs[1]] = a * s + b * c
    return turned
