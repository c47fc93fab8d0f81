"""Scores of one tile and their softmax, in whatever float type q comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.params import AttentionParams
from flashactor.reference.tiles import Tile


@dataclass(frozen=True, slots=True)
class Softmax:
    """The softmax of one tile, unnormalised as FlashAttention-2 keeps it (arXiv:2307.08691, section 3.1).

    The weight of a key is ``exp_scores / row_sum * share``. In a row without a visible key exp_scores is 0,
    lse is -inf, and the other values are finite but mean nothing.

    Attributes:
        exp_scores: exp(score - row maximum), 0 where hidden; [group, rows, cols].
        row_sum: their sum over the keys; [group, rows].
        lse: natural log of the sum of exp(score) over visible keys; [group, rows].
        share: part of the softmax that the learned sink leaves to the keys, 1 without one; [group, rows].
        sink_share: part that the learned sink takes; [group, rows].
    """

    exp_scores: NDArray[Any]
    row_sum: NDArray[Any]
    lse: NDArray[Any]
    share: NDArray[Any]
    sink_share: NDArray[Any]


def scores(
    q: NDArray[Any], k: NDArray[Any], tile: Tile, params: AttentionParams
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Scores of a tile: scale, softcap, ALiBi, mask.

    Args:
        q: [group, rows, head_dim].
        k: [cols, head_dim].
        tile: where they lie.
        params: the computation.

    Returns:
        The scores [group, rows, cols], -inf where hidden, and tanh(score / softcap) of the same shape as the
        backward pass needs it, or None without a softcap.
    """
    group, rows, head_dim = q.shape
    s = (q.reshape(group * rows, head_dim) @ k.T).reshape(group, rows, k.shape[0])
    s *= params.softmax_scale
    tanh = None
    if params.softcap > 0.0:
        s /= params.softcap
        tanh = np.tanh(s)
        np.multiply(tanh, params.softcap, out=s)
    if tile.slopes is not None and tile.distance is not None:
        s -= tile.slopes.astype(s.dtype)[:, None, None] * tile.distance.astype(s.dtype, copy=False)
    if tile.hidden is not None:
        np.copyto(s, -np.inf, where=tile.hidden)
    return s, tanh


def softmax(s: NDArray[Any], sink_logits: NDArray[Any] | None) -> Softmax:
    """Softmax over the keys of scores s [group, rows, cols], which it overwrites."""
    row_max = s.max(axis=-1, initial=-np.inf)
    # -inf - (-inf) would be NaN in rows that see nothing.
    row_max[np.isneginf(row_max)] = 0.0
    s -= row_max[..., None]
    np.exp(s, out=s)
    row_sum = s.sum(axis=-1)
    empty = row_sum == 0.0
    row_sum[empty] = 1.0
    lse = row_max + np.log(row_sum)
    if sink_logits is None:
        share, sink_share = np.ones_like(lse), np.zeros_like(lse)
    else:
        gap = sink_logits.astype(s.dtype)[:, None] - lse
        share, sink_share = np.exp(-np.logaddexp(0.0, gap)), np.exp(-np.logaddexp(0.0, -gap))
    lse[empty] = -np.inf
    return Softmax(exp_scores=s, row_sum=row_sum, lse=lse, share=share, sink_share=sink_share)
