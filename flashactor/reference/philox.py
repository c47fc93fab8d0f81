"""Dropout's random bits: Philox4x32-10, counter-based, so any weight's fate can be had on its own.

J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC'11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10 of counter [..., 4] under key [..., 2]; the leading axes broadcast.

    Returns:
        uint32 [..., 4] random words.
    """
    # uint64 throughout: 32 × 32 bit products need it, and unlike uint32 scalars its sums never overflow here.
    c0, c1, c2, c3 = (counter[..., word].astype(np.uint64) for word in range(4))
    key0, key1 = (key[..., word].astype(np.uint64) for word in range(2))
    for turn in range(_ROUNDS):
        round0 = (key0 + np.uint64(turn * _KEY_INCREMENTS[0])) & _LOW_32
        round1 = (key1 + np.uint64(turn * _KEY_INCREMENTS[1])) & _LOW_32
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ round0,
            product1 & _LOW_32,
            (product0 >> _HALF) ^ c3 ^ round1,
            product0 & _LOW_32,
        )
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def keep_mask(
    seed: int,
    offset: int,
    batch_index: int,
    head_index: int,
    num_heads: int,
    rows: NDArray[Any],
    cols: NDArray[Any],
    p: float,
) -> NDArray[np.bool_]:
    """Which attention weights of one query head survive dropout.

    One Philox call decides four weights: rows i and i + 8 by columns j and j + 1 (j even), just the four
    accumulators that a thread holds of an m16n8 tensor-core fragment. For row i and column j::

        key     = (seed's low 32 bits, seed's high 32 bits)
        counter = (j >> 1, ((i >> 4) << 3) | (i & 7), batch_index * num_heads + head_index,
                   offset's low 32 bits)
        word    = philox4x32(counter, key)[((i >> 3) & 1) * 2 + (j & 1)]
        keep iff word >= floor(p * 2**32)

    Args:
        seed: 64 bits.
        offset: separates calls under one seed; its low 32 bits count.
        batch_index: index of the batch entry, or of the sequence in a varlen or paged batch.
        head_index: query head, from 0.
        num_heads: query heads.
        rows: [rows] indices of queries within their sequence, from 0, in any order.
        cols: [cols] indices of keys within their sequence, from 0, in any order.
        p: probability with which a weight is dropped.

    Returns:
        bool [rows, cols], True where the weight is kept.
    """
    row_groups, row_of = np.unique(((rows >> 4) << 3) | (rows & 7), return_inverse=True)
    col_pairs, col_of = np.unique(cols >> 1, return_inverse=True)
    counter = np.empty((row_groups.size, col_pairs.size, 4), dtype=np.uint32)
    counter[..., 0] = col_pairs
    counter[..., 1] = row_groups[:, None]
    counter[..., 2] = (batch_index * num_heads + head_index) & 0xFFFFFFFF
    counter[..., 3] = offset & 0xFFFFFFFF
    key = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], dtype=np.uint32)
    kept = philox4x32(counter, key) >= np.uint64(int(p * 2**32))
    word = ((rows >> 3) & 1)[:, None] * 2 + (cols & 1)
    selected: NDArray[np.bool_] = kept[row_of[:, None], col_of, word]
    return selected
