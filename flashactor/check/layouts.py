"""Arrays in memory of every order, with NaN where no element lies."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

PADDING_BYTES = 16


class Layout(Enum):
    """Where the elements of a ``[..., rows, heads, head_dim]`` array lie in memory."""

    CONTIGUOUS = "contiguous"
    PADDED = "padded"
    """Rows of head_dim and 16 bytes that belong to nobody."""
    HEADS_FIRST = "heads first"
    """``[..., heads, rows, head_dim]`` in memory, as PyTorch's SDPA keeps it."""


Layouts = tuple[Layout, Layout, Layout, Layout]
"""Of q, k, v and out."""

CONTIGUOUS: Layouts = (Layout.CONTIGUOUS,) * 4
HEADS_FIRST: Layouts = (Layout.HEADS_FIRST,) * 4
MIXED: Layouts = (Layout.HEADS_FIRST, Layout.PADDED, Layout.CONTIGUOUS, Layout.PADDED)
"""No array's strides serve for another's. Where layouts are mixed, lse is strided as well."""


def placed(values: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The values ``[..., rows, heads, head_dim]`` in memory of a layout."""
    *outer, rows, heads, head_dim = values.shape
    if layout is Layout.HEADS_FIRST:
        view = poison((*outer, heads, rows, head_dim), values.dtype).swapaxes(-3, -2)
    elif layout is Layout.PADDED:
        padded = head_dim + PADDING_BYTES // values.dtype.itemsize
        view = poison((*outer, rows, heads, padded), values.dtype)[..., :head_dim]
    else:
        view = poison(values.shape, values.dtype)
    view[...] = values
    return view


def poison(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of NaN, in any float type."""
    return np.full(shape, np.nan, np.float32).astype(dtype)


def unwritten_lse(rows: tuple[int, ...], *, strided: bool) -> NDArray[np.float32]:
    """Room for lse ``[..., heads, rows]``.

    Args:
        rows: its shape.
        strided: whether the heads of a row are neighbours in memory, and not the rows of a head.
    """
    if strided:
        *outer, heads, extent = rows
        return np.full((*outer, extent, heads), UNWRITTEN, np.float32).swapaxes(-1, -2)
    return np.full(rows, UNWRITTEN, np.float32)


UNWRITTEN = 0.5
"""What outputs hold before: rows that belong to no sequence keep it."""
