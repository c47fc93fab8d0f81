"""What the arrays of cases hold, and the options that take turns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.check.layouts import UNWRITTEN, Layout, placed, unwritten_lse
from flashactor.kernels.spec import Scores
from flashactor.reference.quantization import numpy_dtype
from flashactor.types import DType

SPARE_ROWS = 3
"""Rows of packed arrays behind the last sequence, which belong to none."""


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, std: float = 1.0) -> NDArray[Any]:
    """Normally distributed numbers of a type."""
    return (std * rng.standard_normal(shape, np.float32)).astype(numpy_dtype(dtype))


def rows_of(lengths: tuple[int, ...], *, packed: bool) -> tuple[int, ...]:
    """The leading extents of sequences of some lengths: (rows,) with spare ones, or (batch, length)."""
    return (sum(lengths) + SPARE_ROWS,) if packed else (len(lengths), lengths[0])


def sequences(
    rng: np.random.Generator,
    lengths: tuple[int, ...],
    heads: int,
    head_dim: int,
    dtype: DType,
    *,
    packed: bool,
    layout: Layout = Layout.CONTIGUOUS,
    std: float = 1.0,
) -> NDArray[Any]:
    """Random ``[batch, length, heads, head_dim]``, or packed ``[rows, heads, head_dim]`` with NaN in spare
    rows."""
    values = normal(rng, (*rows_of(lengths, packed=packed), heads, head_dim), dtype, std)
    if packed:
        values[sum(lengths) :] = np.nan
    return placed(values, layout)


def poison_behind(values: NDArray[Any], lengths: tuple[int, ...], used: tuple[int, ...]) -> None:
    """NaN in the rows of packed ``[rows, heads, head_dim]`` that belong to a sequence and are not used."""
    begin = 0
    for length, count in zip(lengths, used, strict=True):
        values[begin + count : begin + length] = np.nan
        begin += length


def unwritten_outputs(
    rows: tuple[int, ...], heads: int, head_dim: int, dtype: DType, *, layout: Layout, strided_lse: bool
) -> dict[str, Any]:
    """Room for out ``[*rows, heads, head_dim]`` and lse ``[..., heads, rows]``."""
    out = np.full((*rows, heads, head_dim), UNWRITTEN, np.float32).astype(numpy_dtype(dtype))
    lse = (*rows[:-1], heads, rows[-1])
    return {"out": placed(out, layout), "lse": unwritten_lse(lse, strided=strided_lse)}


def score_options(
    rng: np.random.Generator, scores: Scores, index: int, *, batch: int, heads: int
) -> dict[str, Any]:
    """Softcap, slopes and dropout of a request, in another combination for each index."""
    options: dict[str, Any] = {}
    if scores is not Scores.PLAIN and index % 3 != 1:
        options["softcap"] = 1.5
    if scores is not Scores.PLAIN and index % 3 != 2:
        slopes = (batch, heads) if index % 2 else (heads,)
        options["alibi_slopes"] = rng.uniform(0.02, 0.5, slopes).astype(np.float32)
    if scores is Scores.DROPOUT:
        options["dropout_p"] = 0.2 + 0.1 * (index % 3)
        options["dropout_seed"], options["dropout_offset"] = 2**40 + 977 * index, 2**31 + index
    return options


def sink_logits(rng: np.random.Generator, heads: int) -> NDArray[np.float32]:
    """Learned sinks that take a good part of the softmax of some hundred keys."""
    return rng.uniform(3.0, 6.0, heads).astype(np.float32)


def descales(rng: np.random.Generator, index: int, heads_kv: int) -> dict[str, Any]:
    """k_scale and v_scale, each in another of its three forms for each index."""

    def scale(turn: int) -> float | NDArray[np.float32]:
        if turn % 3 == 0:
            return 0.75
        return rng.uniform(0.5, 1.5, 1 if turn % 3 == 1 else heads_kv).astype(np.float32)

    return {"k_scale": scale(index), "v_scale": scale(index + 1)}


def offsets_of(lengths: tuple[int, ...]) -> NDArray[np.int32]:
    """cu_seqlens of lengths, ``[batch + 1]``."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def int32(values: tuple[int, ...] | None) -> NDArray[np.int32] | None:
    """An int32 array, or None."""
    return None if values is None else np.array(values, np.int32)
