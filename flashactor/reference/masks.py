"""Which keys a query sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.params import AttentionParams


def visible(seqlen_q: int, seqlen_k: int, params: AttentionParams) -> NDArray[np.bool_]:
    """Visibility of every key to every query, aligned bottom-right as in FlashAttention-2 (arXiv:2307.08691).

    Returns:
        bool [seqlen_q, seqlen_k], True where query i sees key j.
    """
    keys = np.arange(seqlen_k)
    return visible_at(distances(np.arange(seqlen_q), keys, seqlen_k - seqlen_q), keys, params)


def distances(rows: NDArray[Any], cols: NDArray[Any], offset: int) -> NDArray[np.int64]:
    """How far key j lies to the left of query i: ``d = i + offset - j``, int64 [rows, cols]."""
    distance: NDArray[np.int64] = rows[:, None] + offset - cols
    return distance


def visible_at(distance: NDArray[np.int64], cols: NDArray[Any], params: AttentionParams) -> NDArray[np.bool_]:
    """Visibility at the given distances [rows, cols] of the keys ``cols`` [cols]; bool [rows, cols]."""
    seen = np.ones(distance.shape, dtype=np.bool_)
    if params.window_left >= 0:
        seen &= distance <= params.window_left
    if params.window_right >= 0:
        seen &= -distance <= params.window_right
    if params.sink_tokens > 0:
        sinks = np.broadcast_to(cols < params.sink_tokens, distance.shape)
        seen |= sinks & (distance >= 0) if params.is_causal else sinks
    return seen


def visible_span(rows: slice, seqlen_q: int, seqlen_k: int, params: AttentionParams) -> slice:
    """The shortest range of keys that holds every key which any of these rows can see."""
    offset = seqlen_k - seqlen_q
    start, stop = 0, seqlen_k
    if params.window_right >= 0:
        stop = min(seqlen_k, max(0, rows.stop + offset + params.window_right))
        if not params.is_causal:
            stop = max(stop, min(params.sink_tokens, seqlen_k))
    if params.window_left >= 0 and params.sink_tokens == 0:
        start = min(stop, max(0, rows.start + offset - params.window_left))
    return slice(start, stop)
