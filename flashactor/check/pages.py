"""Pools of pages: keys in random pages, and poison in all that no sequence holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE_SIZES = (16, 8, 64, 256, 32, 128)
"""BLOCK_SIZES, in an order of their own: which case has which page decides the faults that it shows."""

NO_PAGE = 2**30
"""What entries of a page table hold that no length reaches."""

BEFORE_POOL = -(2**20)
"""A page so far before the pool that no other array lies there."""


def page_table(
    lengths: tuple[int, ...], page: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], int]:
    """(table ``[batch, pages]``, pages of the pool): pages in random order, one column that is not used."""
    counts = [-(-length // page) for length in lengths]
    pool = sum(counts) + 2
    order = iter(rng.permutation(pool))
    table = np.full((len(lengths), max(counts) + 1), NO_PAGE, np.int32)
    for row, count in zip(table, counts, strict=True):
        row[:count] = [next(order) for _ in range(count)]
    return table, pool


def poison_unused(pool: NDArray[Any], table: NDArray[np.int32], lengths: tuple[int, ...]) -> None:
    """NaN in every slot of ``[pages, page, ...]`` that holds no key of a sequence."""
    page = pool.shape[1]
    used = np.zeros(pool.shape[:2], np.bool_)
    for row, length in zip(table, lengths, strict=True):
        keys = np.arange(length)
        used[row[keys // page], keys % page] = True
    pool[~used] = np.nan


def out_of_the_pool(
    table: NDArray[np.int32], lengths: tuple[int, ...], page: int, pool: int
) -> NDArray[np.int32]:
    """The table with a page before the pool and one behind it, among those of the longest sequence."""
    changed = table.copy()
    longest = int(np.argmax(lengths))
    changed[longest, 0] = BEFORE_POOL
    changed[longest, (lengths[longest] - 1) // page] = pool
    return changed
