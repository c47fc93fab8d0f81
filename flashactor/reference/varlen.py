"""Batches of sequences of different lengths, packed one after the other without padding."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import OperandError
from flashactor.reference.backward import Gradients, backward_sequence
from flashactor.reference.forward import forward_sequence
from flashactor.reference.operands import VARLEN, check_operands, check_per_head, check_same_shape
from flashactor.reference.params import AttentionParams


def forward_varlen(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    cu_seqlens_q: NDArray[Any],
    cu_seqlens_k: NDArray[Any],
    params: AttentionParams,
    seqused_q: NDArray[Any] | None = None,
    seqused_k: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Attention within each sequence of a packed batch, in float64.

    A sequence of which only a part is used is that part: the masks align by the used lengths, and the other
    rows see no key.

    Args:
        q: [total_q, heads_q, head_dim_qk], any float type.
        k: [total_k, heads_kv, head_dim_qk].
        v: [total_k, heads_kv, head_dim_v].
        cu_seqlens_q: [num_seqs + 1] integers; where each sequence's queries start, and total_q.
        cu_seqlens_k: [num_seqs + 1] integers; the same for its keys.
        params: as in `forward`; 2-d slopes and dropout count sequences as batch entries.
        seqused_q: [num_seqs] integers; how many of its queries each sequence has, all when None.
        seqused_k: [num_seqs] integers; the same for its keys.

    Returns:
        out [total_q, heads_q, head_dim_v] and lse [heads_q, total_q].

    Raises:
        OperandError: the shapes contradict each other, or the lengths do not add up.
    """
    sequences = _sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, params, seqused_q, seqused_k)
    total_q, heads_q, _ = q.shape
    out = np.zeros((total_q, heads_q, v.shape[2]))
    lse = np.full((heads_q, total_q), -np.inf)
    for index, (rows, keys) in enumerate(sequences):
        out[rows], lse[:, rows] = forward_sequence(q[rows], k[keys], v[keys], params, index)
    return out, lse


def backward_varlen(
    dout: NDArray[Any],
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    cu_seqlens_q: NDArray[Any],
    cu_seqlens_k: NDArray[Any],
    params: AttentionParams,
    dlse: NDArray[Any] | None = None,
    seqused_q: NDArray[Any] | None = None,
    seqused_k: NDArray[Any] | None = None,
) -> Gradients:
    """Gradients of `forward_varlen`; those of queries and keys that are not used are 0.

    Args:
        dout: gradient of out, [total_q, heads_q, head_dim_v].
        q: [total_q, heads_q, head_dim_qk], any float type.
        k: [total_k, heads_kv, head_dim_qk].
        v: [total_k, heads_kv, head_dim_v].
        cu_seqlens_q: [num_seqs + 1] integers.
        cu_seqlens_k: [num_seqs + 1] integers.
        params: as in the forward pass.
        dlse: gradient of lse, [heads_q, total_q], where the loss reads lse.
        seqused_q: [num_seqs] integers, as in the forward pass.
        seqused_k: [num_seqs] integers, as in the forward pass.

    Raises:
        OperandError: the shapes contradict each other, or the lengths do not add up.
    """
    sequences = _sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, params, seqused_q, seqused_k)
    total_q, heads_q, _ = q.shape
    check_same_shape("dout", dout, (total_q, heads_q, v.shape[2]))
    if dlse is None:
        dlse = np.zeros((heads_q, total_q))
    check_same_shape("dlse", dlse, (heads_q, total_q))
    gradients = Gradients.zeros(q, k, v, params)
    for index, (rows, keys) in enumerate(sequences):
        into = gradients.sequence(index, rows, keys)
        backward_sequence(dout[rows], q[rows], k[keys], v[keys], params, dlse[:, rows], index, into)
    return gradients


def _sequences(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    cu_seqlens_q: NDArray[Any],
    cu_seqlens_k: NDArray[Any],
    params: AttentionParams,
    seqused_q: NDArray[Any] | None,
    seqused_k: NDArray[Any] | None,
) -> list[tuple[slice, slice]]:
    """Check the operands and cut them: for each sequence its queries and its keys."""
    check_operands(q, k, v, VARLEN)
    rows = cut("cu_seqlens_q", cu_seqlens_q, q.shape[0])
    keys = cut("cu_seqlens_k", cu_seqlens_k, k.shape[0])
    if len(rows) != len(keys):
        raise OperandError(
            field="cu_seqlens_k",
            got=f"{len(keys)} sequences",
            expected=f"{len(rows)} as in cu_seqlens_q",
            remedy="give each sequence a length in both, 0 if it is empty",
        )
    check_per_head(params, len(rows), q.shape[1])
    return list(zip(_used("seqused_q", rows, seqused_q), _used("seqused_k", keys, seqused_k), strict=True))


def _used(field: str, parts: list[slice], seqused: NDArray[Any] | None) -> list[slice]:
    """The first ``seqused`` tokens of every sequence."""
    if seqused is None:
        return parts
    check_same_shape(field, seqused, (len(parts),))
    lengths = np.array([part.stop - part.start for part in parts], dtype=np.int64)
    if ((seqused < 0) | (seqused > lengths)).any():
        raise OperandError(
            field=field,
            got=seqused.tolist(),
            expected=f"at least 0 and at most the sequences' lengths {lengths.tolist()}",
            remedy="pass how many tokens of each sequence are used",
        )
    return [slice(part.start, part.start + int(used)) for part, used in zip(parts, seqused, strict=True)]


def cut(field: str, cu_seqlens: NDArray[Any], total: int) -> list[slice]:
    """Each sequence's tokens in a packed array of ``total`` tokens.

    Raises:
        OperandError: cu_seqlens does not rise from 0 to total.
    """
    bounds = [int(bound) for bound in np.asarray(cu_seqlens).ravel()]
    if not bounds or bounds[0] != 0 or bounds[-1] != total or bounds != sorted(bounds):
        raise OperandError(
            field=field,
            got=bounds,
            expected=f"cumulative lengths that rise from 0 to {total}",
            remedy="pass the running sum of the lengths with a leading 0",
        )
    return [slice(start, stop) for start, stop in pairwise(bounds)]
