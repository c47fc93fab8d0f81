"""Two attention states over the same queries as one: for a shared prefix, or keys spread over devices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.operands import check_same_shape


def merge_states(
    out_a: NDArray[Any], lse_a: NDArray[Any], out_b: NDArray[Any], lse_b: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Attention to the keys of both states, in float64 (FlashInfer, arXiv:2501.01005, section 2.2).

    A state with lse = -inf has seen no key and counts nothing, whatever its out holds. Where that is so in
    both, out = 0 and lse = -inf.

    Args:
        out_a: [batch, seqlen, heads, head_dim_v], or packed [total, heads, head_dim_v]; any float type.
        lse_a: [batch, heads, seqlen], or packed [heads, total].
        out_b: shape of out_a.
        lse_b: shape of lse_a.

    Returns:
        out, shape of out_a, and lse, shape of lse_a.

    Raises:
        OperandError: the shapes contradict each other.
    """
    check_same_shape("out_b", out_b, out_a.shape)
    per_head = (*out_a.shape[:-3], *out_a.shape[-2:-1], *out_a.shape[-3:-2])
    check_same_shape("lse_a", lse_a, per_head)
    check_same_shape("lse_b", lse_b, per_head)
    a, b = lse_a.astype(np.float64), lse_b.astype(np.float64)
    lse = np.logaddexp(a, b)
    return _part(out_a, a, lse) + _part(out_b, b, lse), lse


def _part(out: NDArray[Any], own: NDArray[np.float64], lse: NDArray[np.float64]) -> NDArray[np.float64]:
    """What one state adds to the output: its own times its share of the softmax."""
    seen = ~np.isneginf(own)
    share = np.exp(np.subtract(own, lse, where=seen, out=np.full(own.shape, -np.inf)))
    counted = np.where(seen.swapaxes(-1, -2)[..., None], out.astype(np.float64), 0.0)
    return np.asarray(counted * share.swapaxes(-1, -2)[..., None])
