"""What the outputs of a request must be: exactly, and as the same formula gives them in low precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor import reference
from flashactor.arrays import ArrayView
from flashactor.executors.reference import attention_params
from flashactor.reference import AttentionParams
from flashactor.reference.backward import Gradients, backward_sequence
from flashactor.reference.forward import forward_sequence
from flashactor.reference.low_precision import FP8_WEIGHTS_SCALE
from flashactor.reference.quantization import numpy_dtype
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    Fa3FwdRequest,
    MergeStatesRequest,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.types import DType

_FLOAT32 = np.dtype(np.float32)

LSE_TOLERANCE = 1e-4
"""Largest error of lse. It is tight: a mask that is off by one key hides behind a loose one."""

SUM_TOLERANCE = 1e-5
"""Largest error of the gradients of sinks and slopes, over the largest of them or 1."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an output must be.

    Attributes:
        exact: in float64; where no kernel may write, what the array held before.
        low: by the low-precision formula, in the output's type: its error is the measure of the kernel's.
        roundings: of the largest value, that are allowed even if the formula has no error.
        allowed: where there is no ``low``, the largest error, of all elements or of each.
    """

    exact: NDArray[np.float64]
    low: NDArray[Any] | None = None
    roundings: int = 1
    allowed: float | NDArray[np.float64] = LSE_TOLERANCE


@dataclass(frozen=True, slots=True)
class Sequence:
    """The dense operands of one sequence.

    Attributes:
        rows: index of its rows in q and out.
        lse: index of its rows in lse.
        keys: index of its keys in dk and dv.
        q, k, v: ``[length, heads, head_dim]``, of their own types, or scaled in float64.
    """

    rows: Any
    lse: Any
    keys: Any
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]


@singledispatch
def expected_of(request: AttentionRequest) -> dict[str, Expected]:
    """What each output of a request with arrays must be, by name. To be asked before the request is run.

    Raises:
        TypeError: a request type that has no oracle.
    """
    raise TypeError(f"there is no oracle of {type(request).__name__}")


@expected_of.register(Fa2FwdRequest)
@expected_of.register(Fa3FwdRequest)
def _dense(request: Fa2FwdRequest | Fa3FwdRequest) -> dict[str, Expected]:
    return _forward(request, dense_sequences(request))


@expected_of.register
def _fp8(request: Fa2FwdFp8Request) -> dict[str, Expected]:
    arrays = _arrays(request, "q", "k", "v")
    scales = (_scale(scale) for scale in (request.q_scale, request.k_scale, request.v_scale))
    q, k, v = (reference.dequantize(x, scale) for x, scale in zip(arrays, scales, strict=True))
    return _forward(request, (Sequence(b, b, b, q[b], k[b], v[b]) for b in range(len(q))))


@expected_of.register
def _varlen(request: VarlenFwdRequest) -> dict[str, Expected]:
    return _forward(request, packed_sequences(request), rows=_end(request, "cu_seqlens_q"))


@expected_of.register
def _paged(request: PagedAttentionRequest) -> dict[str, Expected]:
    q, *caches, table, lengths = _arrays(request, "q", "k_cache", "v_cache", "page_table", "seq_lens")
    pages, offsets = request.pages, request.cu_seqlens_q
    assert pages is not None
    scales = _scale(request.k_scale), _scale(request.v_scale)

    def sequences() -> Iterator[Sequence]:
        for b, length in enumerate(lengths):
            k, v = (
                reference.dequantize(
                    reference.gather(cache, table[b], length, pages.layout.value, request.guard), scale
                )
                for cache, scale in zip(caches, scales, strict=True)
            )
            if offsets is None:
                yield Sequence(b, b, b, q[b], k, v)
            else:
                rows = slice(*offsets.to_numpy()[b : b + 2])
                yield Sequence(rows, (slice(None), rows), b, q[rows], k, v)

    return _forward(request, sequences(), rows=None if offsets is None else _end(request, "cu_seqlens_q"))


@expected_of.register
def _chunked(request: ChunkedPrefillRequest) -> dict[str, Expected]:
    """Out and lse of the rotated queries over the caches as they are afterwards, and these caches."""
    q, k, v, *before = _arrays(request, "q", "k", "v", "k_cache", "v_cache")
    append = request.append
    assert append is not None
    batch, tokens = q.shape[:2]
    prefixes = np.full(batch, request.chunk.prefix_kv_tokens)
    if append.prefix_lens is not None:
        prefixes = append.prefix_lens.to_numpy()
    low_q, new_k = q, k
    if (rotary := append.rotary) is not None:
        tables = rotary.cos.to_numpy(), rotary.sin.to_numpy(), prefixes[:, None] + np.arange(tokens)
        q, new_k = (reference.rotate(x, *tables, rotary.interleaved) for x in (q, k))
        low_q = q.astype(low_q.dtype)
    table, layout = np.arange(batch, dtype=np.int32)[:, None], "NHD"
    if append.pages is not None:
        table, layout = append.pages.page_table.to_numpy(), append.pages.layout.value
    scales = _scale(request.k_scale), _scale(request.v_scale)
    caches = []
    for cache, new, scale in zip(before, (new_k, v), scales, strict=True):
        caches.append(cache.copy())
        reference.append(caches[-1], new, prefixes, table, layout, scale=scale, guard=request.guard)

    def sequences(queries: NDArray[Any]) -> Iterator[Sequence]:
        for b in range(batch):
            length = int(prefixes[b]) + tokens
            k, v = (
                reference.dequantize(reference.gather(cache, table[b], length, layout, request.guard), scale)
                for cache, scale in zip(caches, scales, strict=True)
            )
            yield Sequence(b, b, b, queries[b], k, v)

    found = _forward(request, sequences(q), low_parts=None if rotary is None else sequences(low_q))
    is_fp8 = request.kv_dtype.is_fp8
    for name, cache, rounded in (
        ("k_cache", caches[0], is_fp8 or rotary is not None),
        ("v_cache", caches[1], is_fp8),
    ):
        found[name] = Expected(cache.astype(np.float64), allowed=_one_rounding(cache) if rounded else 0.0)
    return found


@expected_of.register
def _merge(request: MergeStatesRequest) -> dict[str, Expected]:
    states = _arrays(request, "out_a", "lse_a", "out_b", "lse_b")
    out, lse = reference.merge_states(*states)
    return {"out": Expected(out, out.astype(states[0].dtype)), "lse": Expected(lse)}


@expected_of.register(Fa2BwdRequest)
@expected_of.register(VarlenBwdRequest)
def _backward(request: Fa2BwdRequest | VarlenBwdRequest) -> dict[str, Expected]:
    """Gradients of tensors by the formula, those of sinks and slopes from the out that is given.

    The latter are few sums of many terms: how far the formula's rounding of out leads is no measure.
    """
    out, dout, lse = _arrays(request, "out", "dout", "lse")
    dlse = _optional(request, "dlse")
    dlse = np.zeros(lse.shape) if dlse is None else dlse
    parts = packed_sequences(request) if isinstance(request, VarlenBwdRequest) else dense_sequences(request)
    ends: dict[str, int] = {}
    if isinstance(request, VarlenBwdRequest):
        keys = _end(request, "cu_seqlens_k")
        ends = {"dq": _end(request, "cu_seqlens_q"), "dk": keys, "dv": keys}
    exact, low, given = (_no_gradients(request, ends) for _ in range(3))
    weights, params = numpy_dtype(request.dtype), attention_params(request)
    for index, part in enumerate(parts):
        operands = (dout[part.rows], part.q, part.k, part.v, params)
        into = [gradients.sequence(index, part.rows, part.keys) for gradients in (exact, low, given)]
        backward_sequence(*operands, dlse[part.lse], index, into[0])
        backward_sequence(*operands, dlse[part.lse], index, into[1], compute=_FLOAT32, operand_type=weights)
        if exact.dsink_logits is not None or exact.dalibi_slopes is not None:
            extra, sink_extra = _given_out(part, params, index, out[part.rows], dout[part.rows])
            backward_sequence(*operands, dlse[part.lse] - extra, index, into[2])
            if into[2].dsink_logits is not None:
                into[2].dsink_logits[...] -= sink_extra
    # Kernels scale the sums of dS, and the formula dS itself: each rounds where the other does not.
    found = {
        name: Expected(getattr(exact, name), getattr(low, name).astype(weights), roundings=2)
        for name in ("dq", "dk", "dv")
    }
    for name in ("dsink_logits", "dalibi_slopes"):
        if (sums := getattr(given, name)) is not None:
            found[name] = Expected(sums, allowed=SUM_TOLERANCE * max(1.0, float(np.abs(sums).max())))
    return found


def _given_out(
    part: Sequence, params: AttentionParams, index: int, out: NDArray[Any], dout: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a rounded out changes: the gradients of each row's lse ``[heads, rows]``, and of each sink."""
    exact, lse = forward_sequence(part.q, part.k, part.v, params, index)
    row_dot = ((out.astype(np.float64) - exact) * dout.astype(np.float64)).sum(-1).T
    if params.sink_logits is None:
        return row_dot, np.zeros(row_dot.shape[0])
    with_sink = np.logaddexp(lse, params.sink_logits[:, None])
    share = np.exp(lse - with_sink)
    return share * row_dot, ((1.0 - share) * row_dot).sum(-1)


def _no_gradients(request: AttentionRequest, ends: dict[str, int]) -> Gradients:
    """Zeros, but in rows that belong to no sequence what the arrays hold."""
    found = {}
    for name in ("dq", "dk", "dv", "dsink_logits", "dalibi_slopes"):
        if (before := _optional(request, name)) is not None:
            found[name] = before.astype(np.float64)
            found[name][: ends.get(name)] = 0.0
    return Gradients(
        dq=found["dq"],
        dk=found["dk"],
        dv=found["dv"],
        dsink_logits=found.get("dsink_logits"),
        dalibi_slopes=found.get("dalibi_slopes"),
    )


def dense_sequences(request: AttentionRequest) -> Iterator[Sequence]:
    """The batch entries of a dense request."""
    q, k, v = _arrays(request, "q", "k", "v")
    return (Sequence(b, b, b, q[b], k[b], v[b]) for b in range(len(q)))


def packed_sequences(request: AttentionRequest) -> Iterator[Sequence]:
    """The sequences of a packed request, as far as they are used."""
    q, k, v, cu_q, cu_k = _arrays(request, "q", "k", "v", "cu_seqlens_q", "cu_seqlens_k")
    used_q, used_k = _optional(request, "seqused_q"), _optional(request, "seqused_k")
    lengths_q = np.diff(cu_q) if used_q is None else used_q
    lengths_k = np.diff(cu_k) if used_k is None else used_k
    for first_q, first_k, length_q, length_k in zip(cu_q, cu_k, lengths_q, lengths_k, strict=False):
        rows, keys = slice(first_q, first_q + length_q), slice(first_k, first_k + length_k)
        yield Sequence(rows, (slice(None), rows), keys, q[rows], k[keys], v[keys])


def _forward(
    request: AttentionRequest,
    parts: Iterator[Sequence],
    *,
    low_parts: Iterator[Sequence] | None = None,
    rows: int | None = None,
) -> dict[str, Expected]:
    """Out and lse of a forward pass.

    Args:
        request: with arrays, out and lse among them.
        parts: one for each batch entry, in order.
        low_parts: the operands of the low-precision formula, where they are others.
        rows: of a packed batch, those that belong to some sequence; if none uses them, they see no key.
    """
    params = attention_params(request)
    out, lse = (view.astype(np.float64) for view in _arrays(request, "out", "lse"))
    if rows is not None:
        out[:rows], lse[:, :rows] = 0.0, -np.inf
    low = out.astype(request.arrays()["out"].to_numpy().dtype)
    # Weights become e4m3 where operands are fp8, of either type.
    weights = numpy_dtype(DType.F8E4M3 if request.dtype.is_fp8 else request.dtype)
    weights_scale = FP8_WEIGHTS_SCALE if request.dtype.is_fp8 else 1.0
    allowed = LSE_TOLERANCE
    both = ((part, part) for part in parts) if low_parts is None else zip(parts, low_parts, strict=True)
    for index, (part, low_part) in enumerate(both):
        out[part.rows], lse[part.lse] = forward_sequence(part.q, part.k, part.v, params, index)
        operands = low_part.q, low_part.k, low_part.v
        rounded, low_lse = forward_sequence(*operands, params, index, _FLOAT32, weights, weights_scale)
        low[part.rows] = rounded.astype(low.dtype)
        if low_parts is not None and np.isfinite(lse[part.lse]).any():
            # Queries that are rounded once more have other scores.
            allowed = max(allowed, 2.0 * float(np.nanmax(np.abs(low_lse - lse[part.lse]))))
    return {"out": Expected(out, low), "lse": Expected(lse, allowed=allowed)}


def _one_rounding(stored: NDArray[Any]) -> NDArray[np.float64]:
    """By how much a value may differ that was rounded to the other neighbour."""
    info = ml_dtypes.finfo(stored.dtype)  # type: ignore[no-untyped-call]
    magnitude = np.nan_to_num(np.abs(stored.astype(np.float64)))
    return np.asarray(np.maximum(magnitude * float(info.eps), float(info.smallest_subnormal)))


def _end(request: AttentionRequest, offsets: str) -> int:
    """Rows that belong to some sequence."""
    return int(request.arrays()[offsets].to_numpy()[-1])


def _arrays(request: AttentionRequest, *names: str) -> tuple[NDArray[Any], ...]:
    return tuple(request.arrays()[name].to_numpy() for name in names)


def _optional(request: AttentionRequest, name: str) -> NDArray[Any] | None:
    view = request.arrays().get(name)
    return None if view is None else view.to_numpy()


def _scale(scale: float | ArrayView) -> float | NDArray[Any]:
    return scale.to_numpy() if isinstance(scale, ArrayView) else scale
