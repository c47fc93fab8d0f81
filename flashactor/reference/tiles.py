"""The attention matrix of one sequence cut into tiles: some query rows of the heads that share a K/V head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.masks import distances, visible_at, visible_span
from flashactor.reference.params import AttentionParams
from flashactor.reference.philox import keep_mask

# Scores held at once: bounds the memory for long sequences, and keeps a tile in the last-level cache.
TILE_ELEMENTS = 1 << 18

# Rows i and i + 8 of a group of 16 share their Philox calls.
_ROW_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Tile:
    """Query rows of one group of heads against the keys that any of these rows can see.

    Attributes:
        head_kv: the K/V head.
        heads: the query heads that read it, ``group`` of them.
        rows: the queries.
        cols: the keys.
        distance: |i + offset - j|, float64 [rows, cols]; None without ALiBi.
        hidden: bool [rows, cols], True where a key is not visible; None where all are.
        keep: bool [group, rows, cols], True where dropout keeps the weight; None without dropout.
        slopes: [group] ALiBi slopes or None.
        sink_logits: [group] or None.
    """

    head_kv: int
    heads: slice
    rows: slice
    cols: slice
    distance: NDArray[np.float64] | None
    hidden: NDArray[np.bool_] | None
    keep: NDArray[np.bool_] | None
    slopes: NDArray[Any] | None
    sink_logits: NDArray[Any] | None


def tiles(q: NDArray[Any], k: NDArray[Any], params: AttentionParams, batch_index: int) -> Iterator[Tile]:
    """All tiles of one sequence, in order of rows.

    Args:
        q: [heads_q, seqlen_q, head_dim]; only its shape is read.
        k: [heads_kv, seqlen_k, head_dim]; only its shape is read.
        params: the computation.
        batch_index: the sequence's index, for 2-d slopes and dropout.
    """
    heads_q, seqlen_q = q.shape[:2]
    heads_kv, seqlen_k = k.shape[:2]
    group = heads_q // heads_kv
    slopes = params.slopes_of(batch_index)
    fitting = TILE_ELEMENTS // max(1, group * seqlen_k)
    step = max(_ROW_MULTIPLE, fitting // _ROW_MULTIPLE * _ROW_MULTIPLE)
    for start in range(0, seqlen_q, step):
        rows = slice(start, min(start + step, seqlen_q))
        cols = visible_span(rows, seqlen_q, seqlen_k, params)
        row_indices, col_indices = np.arange(rows.start, rows.stop), np.arange(cols.start, cols.stop)
        distance = distances(row_indices, col_indices, seqlen_k - seqlen_q)
        seen = visible_at(distance, col_indices, params)
        hidden = None if seen.all() else ~seen
        for head_kv in range(heads_kv):
            heads = slice(head_kv * group, (head_kv + 1) * group)
            yield Tile(
                head_kv=head_kv,
                heads=heads,
                rows=rows,
                cols=cols,
                distance=None if slopes is None else np.abs(distance).astype(np.float64),
                hidden=hidden,
                keep=_kept(params, batch_index, heads, heads_q, row_indices, col_indices),
                slopes=None if slopes is None else slopes[heads],
                sink_logits=None if params.sink_logits is None else params.sink_logits[heads],
            )


def _kept(
    params: AttentionParams,
    batch_index: int,
    heads: slice,
    heads_q: int,
    rows: NDArray[Any],
    cols: NDArray[Any],
) -> NDArray[np.bool_] | None:
    if params.dropout_p == 0.0:
        return None
    seed, offset = params.dropout_seed, params.dropout_offset
    return np.stack(
        [
            keep_mask(seed, offset, batch_index, head, heads_q, rows, cols, params.dropout_p)
            for head in range(heads.start, heads.stop)
        ]
    )
