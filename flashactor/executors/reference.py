"""The executor that computes in NumPy, in float64, on arrays in host memory: slow, exact, always there."""

from __future__ import annotations

import time
from functools import singledispatch
from typing import Any, cast

from numpy.typing import NDArray

from flashactor import reference
from flashactor.allocation import allocate
from flashactor.arrays import ArrayView
from flashactor.errors import RequestError
from flashactor.executors.base import Outcome, Outputs, Work
from flashactor.executors.host import HostExecutor
from flashactor.reference import AttentionParams
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    MergeStatesRequest,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.requests.dense import DenseFwdRequest
from flashactor.requests.operands import Gradients, Operands, SequenceOffsets
from flashactor.types import SmArch


class ReferenceExecutor(HostExecutor):
    """Computes every request type on the host, whatever architecture the request is for."""

    name = "reference"

    def __init__(self, arch: SmArch | None = None) -> None:
        super().__init__()
        self.arch = arch

    def compute(self, work: Work) -> Outcome:
        """Compute the work in float64."""
        started = time.perf_counter()
        outputs = compute(work.request)
        return Outcome(outputs=outputs, launch_seconds=time.perf_counter() - started)


@singledispatch
def compute(request: AttentionRequest) -> Outputs:
    """Compute a request in float64 and round the results into arrays of the inputs' library.

    Raises:
        MissingOperandsError: a bare cell; OperandError: an array that is not in host memory.
    """
    raise RequestError(
        field="request",
        got=type(request).__name__,
        expected="one of the request types of flashactor.requests",
        remedy="derive the request from one of those types",
    )


@compute.register
def _dense(request: DenseFwdRequest) -> Outputs:
    operands = request.require_operands()
    out, lse = reference.forward(*_qkv(operands), attention_params(request))
    return _forward_outputs(operands, out, lse)


@compute.register
def _dense_fp8(request: Fa2FwdFp8Request) -> Outputs:
    operands = request.require_operands()
    scales = (request.q_scale, request.k_scale, request.v_scale)
    q, k, v = (
        reference.dequantize(x, _scale(scale)) for x, scale in zip(_qkv(operands), scales, strict=True)
    )
    out, lse = reference.forward(q, k, v, attention_params(request))
    return _forward_outputs(operands, out, lse, request.out_dtype.numpy_name)


@compute.register
def _dense_backward(request: Fa2BwdRequest) -> Outputs:
    operands = request.require_operands()
    gradients = cast(Gradients, request.gradients)
    result = reference.backward(
        gradients.dout.to_numpy(),
        *_qkv(operands),
        attention_params(request),
        dlse=_optional(gradients.dlse),
    )
    return _backward_outputs(operands, gradients, result)


@compute.register
def _varlen(request: VarlenFwdRequest) -> Outputs:
    operands = request.require_operands()
    offsets = cast(SequenceOffsets, request.offsets)
    cu_q, cu_k = offsets.cu_seqlens_q.to_numpy(), offsets.cu_seqlens_k.to_numpy()
    q, k, v = _qkv(operands)
    out, lse = reference.forward_varlen(
        q[: cu_q[-1]],
        k[: cu_k[-1]],
        v[: cu_k[-1]],
        cu_q,
        cu_k,
        attention_params(request),
        _optional(offsets.seqused_q),
        _optional(offsets.seqused_k),
    )
    return _forward_outputs(operands, out, lse)


@compute.register
def _varlen_backward(request: VarlenBwdRequest) -> Outputs:
    operands = request.require_operands()
    gradients = cast(Gradients, request.gradients)
    offsets = cast(SequenceOffsets, request.offsets)
    cu_q, cu_k = offsets.cu_seqlens_q.to_numpy(), offsets.cu_seqlens_k.to_numpy()
    q, k, v = _qkv(operands)
    dlse = _optional(gradients.dlse)
    result = reference.backward_varlen(
        gradients.dout.to_numpy()[: cu_q[-1]],
        q[: cu_q[-1]],
        k[: cu_k[-1]],
        v[: cu_k[-1]],
        cu_q,
        cu_k,
        attention_params(request),
        None if dlse is None else dlse[:, : cu_q[-1]],
        _optional(offsets.seqused_q),
        _optional(offsets.seqused_k),
    )
    return _backward_outputs(operands, gradients, result)


@compute.register
def _paged(request: PagedAttentionRequest) -> Outputs:
    operands = request.require_operands()
    pages = request.pages
    assert pages is not None
    assert pages.seq_lens is not None
    q, k_cache, v_cache = _qkv(operands)
    cu_q = _optional(request.cu_seqlens_q)
    out, lse = reference.forward_paged(
        q if cu_q is None else q[: cu_q[-1]],
        k_cache,
        v_cache,
        pages.page_table.to_numpy(),
        pages.seq_lens.to_numpy(),
        attention_params(request),
        layout=pages.layout.value,
        cu_seqlens_q=cu_q,
        k_scale=_scale(request.k_scale),
        v_scale=_scale(request.v_scale),
        guard=request.guard,
    )
    return _forward_outputs(operands, out, lse)


@compute.register
def _chunked(request: ChunkedPrefillRequest) -> Outputs:
    operands = request.require_operands()
    append = request.append
    assert append is not None
    rotary = append.rotary
    lengths = append.prefix_lens
    out, lse = reference.forward_chunked(
        *_qkv(operands),
        append.k_cache.to_numpy(),
        append.v_cache.to_numpy(),
        request.chunk.prefix_kv_tokens if lengths is None else lengths.to_numpy(),
        attention_params(request),
        page_table=None if append.pages is None else append.pages.page_table.to_numpy(),
        layout="NHD" if append.pages is None else append.pages.layout.value,
        rotary_cos=None if rotary is None else rotary.cos.to_numpy(),
        rotary_sin=None if rotary is None else rotary.sin.to_numpy(),
        rotary_interleaved=rotary is not None and rotary.interleaved,
        k_scale=_scale(request.k_scale),
        v_scale=_scale(request.v_scale),
        guard=request.guard,
    )
    return _forward_outputs(operands, out, lse)


@compute.register
def _merge(request: MergeStatesRequest) -> Outputs:
    states = request.require_states()
    inputs = (states.out_a, states.lse_a, states.out_b, states.lse_b)
    out, lse = reference.merge_states(*(view.to_numpy() for view in inputs))
    like = states.out_a
    return Outputs(
        out=_store(out, states.out, like, like.shape, like.dtype),
        lse=_store(lse, states.lse, like, lse.shape, "float32"),
    )


def attention_params(request: AttentionRequest) -> AttentionParams:
    """The scalars and per-head vectors of a request with arrays.

    Raises:
        MissingOperandsError: a bare cell.
    """
    operands = request.require_operands()
    return AttentionParams(
        softmax_scale=request.scale,
        window_left=request.mask.window_left,
        window_right=request.mask.window_right,
        sink_tokens=request.sink_tokens,
        softcap=request.softcap,
        alibi_slopes=_optional(operands.alibi_slopes),
        sink_logits=_optional(operands.sink_logits),
        dropout_p=request.dropout_p,
        dropout_seed=request.dropout_seed,
        dropout_offset=request.dropout_offset,
    )


def _qkv(operands: Operands) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return operands.q.to_numpy(), operands.k.to_numpy(), operands.v.to_numpy()


def _optional(view: ArrayView | None) -> NDArray[Any] | None:
    return None if view is None else view.to_numpy()


def _scale(scale: float | ArrayView) -> float | NDArray[Any]:
    return scale.to_numpy() if isinstance(scale, ArrayView) else scale


def _forward_outputs(
    operands: Operands, out: NDArray[Any], lse: NDArray[Any], dtype: str | None = None
) -> Outputs:
    q, v = operands.q, operands.v
    lse_shape = (q.shape[1], q.shape[0]) if len(q.shape) == 3 else lse.shape
    return Outputs(
        out=_store(out, operands.out, q, (*q.shape[:-1], v.shape[-1]), dtype or q.dtype),
        lse=_store(lse, operands.lse, q, lse_shape, "float32"),
    )


def _backward_outputs(operands: Operands, gradients: Gradients, result: reference.Gradients) -> Outputs:
    q, k, v = operands.q, operands.k, operands.v
    dsinks, dslopes = result.dsink_logits, result.dalibi_slopes
    return Outputs(
        dq=_store(result.dq, gradients.dq, q, q.shape, q.dtype),
        dk=_store(result.dk, gradients.dk, k, k.shape, k.dtype),
        dv=_store(result.dv, gradients.dv, v, v.shape, v.dtype),
        dsink_logits=None
        if dsinks is None
        else _store(dsinks, gradients.dsink_logits, q, dsinks.shape, "float32"),
        dalibi_slopes=None
        if dslopes is None
        else _store(dslopes, gradients.dalibi_slopes, q, dslopes.shape, "float32"),
    )


def _store(
    values: NDArray[Any], given: ArrayView | None, like: ArrayView, shape: tuple[int, ...], dtype: str
) -> Any:
    """Round ``values`` into the caller's array, or into a new one of this shape of the inputs' library.

    Where the array is longer, its last rows belong to no sequence and stay as they are.
    """
    target = ArrayView.of(allocate(like, shape, dtype), "out") if given is None else given
    memory = target.to_numpy()
    memory[tuple(slice(extent) for extent in values.shape)] = values.astype(memory.dtype)
    return target.array
