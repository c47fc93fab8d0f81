"""Forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.operands import (
    BATCHED,
    check_operands,
    check_per_head,
    check_same_shape,
    heads_first,
)
from flashactor.reference.params import AttentionParams
from flashactor.reference.softmax import scores, softmax
from flashactor.reference.tiles import tiles

_FLOAT64 = np.dtype(np.float64)


def forward(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], params: AttentionParams
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Attention of a batch of sequences of one length, in float64.

    The formula is that of FlashAttention-2 (arXiv:2307.08691); a row that sees no key has out = 0 and
    lse = -inf. Memory for the scores stays bounded whatever the lengths.

    Args:
        q: [batch, seqlen_q, heads_q, head_dim_qk], any float type.
        k: [batch, seqlen_k, heads_kv, head_dim_qk]; heads_kv divides heads_q.
        v: [batch, seqlen_k, heads_kv, head_dim_v].
        params: scale, mask, biases, dropout.

    Returns:
        out [batch, seqlen_q, heads_q, head_dim_v] and lse [batch, heads_q, seqlen_q], the natural log of the
        sum of exp(score) over visible keys, before dropout and without the learned sink.

    Raises:
        OperandError: the shapes contradict each other.
    """
    check_batched(q, k, v, params)
    batch, seqlen_q, heads_q, _ = q.shape
    out = np.zeros((batch, seqlen_q, heads_q, v.shape[3]))
    lse = np.zeros((batch, heads_q, seqlen_q))
    for index in range(batch):
        out[index], lse[index] = forward_sequence(q[index], k[index], v[index], params, index)
    return out, lse


def check_batched(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], params: AttentionParams) -> None:
    """Require what `forward` requires of its arrays.

    Raises:
        OperandError: the shapes contradict each other.
    """
    check_operands(q, k, v, BATCHED)
    check_same_shape("k", k, (q.shape[0], *k.shape[1:]))
    check_per_head(params, q.shape[0], q.shape[2])


def forward_sequence(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    params: AttentionParams,
    batch_index: int,
    compute: np.dtype[Any] = _FLOAT64,
    weights_type: np.dtype[Any] = _FLOAT64,
    weights_scale: float = 1.0,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Attention of one sequence whose shapes have been checked.

    Args:
        q: [seqlen_q, heads_q, head_dim_qk].
        k: [seqlen_k, heads_kv, head_dim_qk].
        v: [seqlen_k, heads_kv, head_dim_v].
        params: scale, mask, biases, dropout.
        batch_index: the sequence's index, for 2-d slopes and dropout.
        compute: type of all arithmetic and of the results.
        weights_type: type to which the unnormalised weights are rounded before they meet v.
        weights_scale: what they are multiplied by before they are rounded, to use the type's range.

    Returns:
        out [seqlen_q, heads_q, head_dim_v] and lse [heads_q, seqlen_q].
    """
    q, k, v = (heads_first(x, compute) for x in (q, k, v))
    heads_q, seqlen_q, _ = q.shape
    head_dim_v = v.shape[2]
    out = np.zeros((seqlen_q, heads_q, head_dim_v), dtype=compute)
    lse = np.zeros((heads_q, seqlen_q), dtype=compute)
    for tile in tiles(q, k, params, batch_index):
        s, _ = scores(q[tile.heads, tile.rows], k[tile.head_kv, tile.cols], tile, params)
        soft = softmax(s, tile.sink_logits)
        weights = soft.exp_scores
        if tile.keep is not None:
            weights *= tile.keep
        weights *= weights_scale
        weights = weights.astype(weights_type, copy=False).astype(compute, copy=False)
        group, rows, cols = weights.shape
        product = weights.reshape(group * rows, cols) @ v[tile.head_kv, tile.cols]
        scale = soft.share / (soft.row_sum * ((1.0 - params.dropout_p) * weights_scale))
        out[tile.rows, tile.heads] = (product.reshape(group, rows, head_dim_v) * scale[..., None]).transpose(
            1, 0, 2
        )
        lse[tile.heads, tile.rows] = soft.lse
    return out, lse
