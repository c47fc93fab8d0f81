"""Backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.forward import check_batched
from flashactor.reference.operands import check_same_shape, heads_first
from flashactor.reference.params import AttentionParams
from flashactor.reference.softmax import scores, softmax
from flashactor.reference.tiles import tiles

_FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of a loss with respect to what the forward pass read, float64 unless said otherwise.

    Attributes:
        dq: shape of q.
        dk: shape of k.
        dv: shape of v.
        dsink_logits: [heads_q], None where the forward pass had no learned sink.
        dalibi_slopes: shape of the slopes, None where the forward pass had none.
    """

    dq: NDArray[Any]
    dk: NDArray[Any]
    dv: NDArray[Any]
    dsink_logits: NDArray[Any] | None
    dalibi_slopes: NDArray[Any] | None

    @classmethod
    def zeros(cls, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], params: AttentionParams) -> Gradients:
        """Gradients of these operands, all 0."""
        sinks, slopes = params.sink_logits, params.alibi_slopes
        return cls(
            dq=np.zeros(q.shape),
            dk=np.zeros(k.shape),
            dv=np.zeros(v.shape),
            dsink_logits=None if sinks is None else np.zeros(sinks.shape),
            dalibi_slopes=None if slopes is None else np.zeros(slopes.shape),
        )

    def sequence(self, index: int, rows: slice | int, keys: slice | int) -> Gradients:
        """Views of one sequence's part: dq[rows], dk[keys], dv[keys], and 2-d slopes at ``index``."""
        slopes = self.dalibi_slopes
        return Gradients(
            dq=self.dq[rows],
            dk=self.dk[keys],
            dv=self.dv[keys],
            dsink_logits=self.dsink_logits,
            dalibi_slopes=slopes if slopes is None or slopes.ndim == 1 else slopes[index],
        )


def backward(
    dout: NDArray[Any],
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    params: AttentionParams,
    dlse: NDArray[Any] | None = None,
) -> Gradients:
    """Gradients of a batch of sequences of one length, in float64 (arXiv:2307.08691, section 3.1.2).

    Rows that see no key contribute nothing.

    Args:
        dout: gradient of out, [batch, seqlen_q, heads_q, head_dim_v].
        q: [batch, seqlen_q, heads_q, head_dim_qk], any float type.
        k: [batch, seqlen_k, heads_kv, head_dim_qk].
        v: [batch, seqlen_k, heads_kv, head_dim_v].
        params: as in the forward pass.
        dlse: gradient of lse, [batch, heads_q, seqlen_q], where the loss reads lse.

    Raises:
        OperandError: the shapes contradict each other.
    """
    return backward_batched(dout, q, k, v, params, dlse)


def backward_batched(
    dout: NDArray[Any],
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    params: AttentionParams,
    dlse: NDArray[Any] | None,
    compute: np.dtype[Any] = _FLOAT64,
    operand_type: np.dtype[Any] = _FLOAT64,
) -> Gradients:
    """`backward` in any precision; ``compute`` and ``operand_type`` as in `backward_sequence`."""
    check_batched(q, k, v, params)
    batch, seqlen_q, heads_q, _ = q.shape
    check_same_shape("dout", dout, (batch, seqlen_q, heads_q, v.shape[3]))
    if dlse is None:
        dlse = np.zeros((batch, heads_q, seqlen_q))
    check_same_shape("dlse", dlse, (batch, heads_q, seqlen_q))
    gradients = Gradients.zeros(q, k, v, params)
    for index in range(batch):
        into = gradients.sequence(index, index, index)
        backward_sequence(
            dout[index], q[index], k[index], v[index], params, dlse[index], index, into, compute, operand_type
        )
    return gradients


def backward_sequence(
    dout: NDArray[Any],
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    params: AttentionParams,
    dlse: NDArray[Any],
    batch_index: int,
    into: Gradients,
    compute: np.dtype[Any] = _FLOAT64,
    operand_type: np.dtype[Any] = _FLOAT64,
) -> None:
    """Add the gradients of one sequence, whose shapes have been checked, to ``into``.

    Args:
        dout: [seqlen_q, heads_q, head_dim_v].
        q: [seqlen_q, heads_q, head_dim_qk].
        k: [seqlen_k, heads_kv, head_dim_qk].
        v: [seqlen_k, heads_kv, head_dim_v].
        params: as in the forward pass.
        dlse: [heads_q, seqlen_q].
        batch_index: the sequence's index, for 2-d slopes and dropout.
        into: arrays of the shapes of q, k and v; sink logits and slopes [heads_q].
        compute: type of all arithmetic.
        operand_type: type to which the weights, the gradients of the scores and out are rounded before they
            are multiplied with k, q and dout.
    """

    def rounded(x: NDArray[Any]) -> NDArray[Any]:
        return x.astype(operand_type, copy=False).astype(compute, copy=False)

    q, k, v, dout = (heads_first(x, compute) for x in (q, k, v, dout))
    dlse = dlse.astype(compute, copy=False)
    dq, dk, dv = (x.transpose(1, 0, 2) for x in (into.dq, into.dk, into.dv))
    for tile in tiles(q, k, params, batch_index):
        q_tile, k_tile, v_tile = (
            q[tile.heads, tile.rows],
            k[tile.head_kv, tile.cols],
            v[tile.head_kv, tile.cols],
        )
        s, tanh = scores(q_tile, k_tile, tile, params)
        soft = softmax(s, tile.sink_logits)
        weights = soft.exp_scores
        weights /= soft.row_sum[..., None]
        group, rows, cols = weights.shape

        # The learned sink and dropout scale every weight, so let dout carry their factor.
        dout_rows = dout[tile.heads, tile.rows].reshape(group * rows, v.shape[2])
        factor = (soft.share / (1.0 - params.dropout_p)).reshape(group * rows, 1)
        dout_tile = dout_rows * factor
        kept = weights if tile.keep is None else weights * tile.keep
        operand = rounded(kept).reshape(group * rows, cols)
        dv[tile.head_kv, tile.cols] += operand.T @ dout_tile
        dweights = (dout_tile @ v_tile.T).reshape(group, rows, cols)
        if tile.keep is not None:
            dweights *= tile.keep
        # out · dout of each row, as in FlashAttention-2.
        out = rounded(operand @ v_tile * factor)
        row_dot = (out * dout_rows).sum(axis=-1).reshape(group, rows)
        if into.dsink_logits is not None:
            into.dsink_logits[tile.heads] -= (soft.sink_share * row_dot).sum(axis=-1)

        # dlse meets the softmax over the visible keys alone, which is what weights still is.
        row_term = np.where(np.isneginf(soft.lse), 0.0, dlse[tile.heads, tile.rows]) - soft.share * row_dot
        ds = weights * (dweights + row_term[..., None])
        if into.dalibi_slopes is not None and tile.distance is not None:
            into.dalibi_slopes[tile.heads] -= ds.reshape(group, rows * cols) @ tile.distance.ravel()
        if tanh is not None:
            ds *= 1.0 - tanh**2
        ds *= params.softmax_scale
        flat = rounded(ds).reshape(group * rows, cols)
        dq[tile.heads, tile.rows] += (flat @ k_tile).reshape(q_tile.shape)
        dk[tile.head_kv, tile.cols] += flat.T @ q_tile.reshape(group * rows, q.shape[2])
