"""The executor that computes in NumPy, in float64, on arrays in host memory: slow, exact, always there."""

from __future__ import annotations

import time
from functools import singledispatch
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flashactor import reference
from flashactor.allocation import allocate
from flashactor.arrays import ArrayView
from flashactor.errors import FlashAttnError, RequestError
from flashactor.executors.base import Done, Outcome, Outputs, Work
from flashactor.reference import AttentionParams
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    Fa2BwdRequest,
    Fa3FwdFp8Request,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.requests.dense import DenseFwdRequest
from flashactor.requests.operands import Gradients, Operands
from flashactor.types import SmArch


class ReferenceExecutor:
    """Computes every request type on the host, whatever architecture the request is for."""

    name = "reference"

    def __init__(self, arch: SmArch | None = None) -> None:
        self.arch = arch

    def submit(self, work: Work, done: Done) -> None:
        """Compute the work on the calling thread."""
        started = time.perf_counter()
        try:
            outputs = compute(work.request)
        except FlashAttnError as error:
            done(Outcome(error=error))
        else:
            done(Outcome(outputs=outputs, launch_seconds=time.perf_counter() - started))

    def close(self) -> None:
        """Nothing to release."""


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
    q, k, v = (view.to_numpy() for view in (operands.q, operands.k, operands.v))
    if isinstance(request, Fa3FwdFp8Request):
        q = reference.dequantize(q, _number(request.q_scale))
        k = reference.dequantize(k, _number(request.k_scale))
        v = reference.dequantize(v, _number(request.v_scale))
    out, lse = reference.forward(q, k, v, _params(request, operands))
    return _forward_outputs(operands, out, lse)


@compute.register
def _dense_backward(request: Fa2BwdRequest) -> Outputs:
    operands = request.require_operands()
    gradients = cast(Gradients, request.gradients)
    q, k, v = (view.to_numpy() for view in (operands.q, operands.k, operands.v))
    result = reference.backward(
        gradients.dout.to_numpy(), q, k, v, _params(request, operands), dlse=_optional(gradients.dlse)
    )
    return _backward_outputs(operands, gradients, result)


@compute.register
def _varlen(request: VarlenFwdRequest) -> Outputs:
    operands = request.require_operands()
    q, k, v = (view.to_numpy() for view in (operands.q, operands.k, operands.v))
    cu_q, cu_k = _offsets(request)
    out, lse = reference.forward_varlen(q, k, v, cu_q, cu_k, _params(request, operands))
    return _forward_outputs(operands, out, lse)


@compute.register
def _varlen_backward(request: VarlenBwdRequest) -> Outputs:
    operands = request.require_operands()
    gradients = cast(Gradients, request.gradients)
    q, k, v = (view.to_numpy() for view in (operands.q, operands.k, operands.v))
    cu_q, cu_k = _offsets(request)
    result = reference.backward_varlen(
        gradients.dout.to_numpy(),
        q,
        k,
        v,
        cu_q,
        cu_k,
        _params(request, operands),
        dlse=_optional(gradients.dlse),
    )
    return _backward_outputs(operands, gradients, result)


@compute.register
def _paged(request: PagedAttentionRequest) -> Outputs:
    operands = request.require_operands()
    pages = request.pages
    assert pages is not None
    assert pages.seq_lens is not None
    q, k_cache, v_cache = (view.to_numpy() for view in (operands.q, operands.k, operands.v))
    out, lse = reference.forward_paged(
        q,
        k_cache,
        v_cache,
        pages.page_table.to_numpy(),
        pages.seq_lens.to_numpy(),
        _params(request, operands),
        layout=pages.layout.value,
    )
    return _forward_outputs(operands, out, lse)


@compute.register
def _chunked(request: ChunkedPrefillRequest) -> Outputs:
    operands = request.require_operands()
    append = request.append
    assert append is not None
    q, k, v = (view.to_numpy() for view in (operands.q, operands.k, operands.v))
    out, lse = reference.forward_chunked(
        q,
        k,
        v,
        append.k_cache.to_numpy(),
        append.v_cache.to_numpy(),
        request.chunk.prefix_kv_tokens,
        _params(request, operands),
        page_table=None if append.pages is None else append.pages.page_table.to_numpy(),
        layout="NHD" if append.pages is None else append.pages.layout.value,
    )
    return _forward_outputs(operands, out, lse)


def _params(request: AttentionRequest, operands: Operands) -> AttentionParams:
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


def _optional(view: ArrayView | None) -> NDArray[Any] | None:
    return None if view is None else view.to_numpy()


def _number(scale: float | ArrayView) -> float:
    return float(scale.to_numpy().item()) if isinstance(scale, ArrayView) else scale


def _offsets(request: VarlenFwdRequest | VarlenBwdRequest) -> tuple[NDArray[Any], NDArray[Any]]:
    assert request.offsets is not None
    return request.offsets.cu_seqlens_q.to_numpy(), request.offsets.cu_seqlens_k.to_numpy()


def _forward_outputs(operands: Operands, out: NDArray[Any], lse: NDArray[Any]) -> Outputs:
    dtype = "bfloat16" if operands.q.itemsize == 1 else operands.q.dtype
    return Outputs(
        out=_store(out, operands.out, operands.q, dtype),
        lse=_store(lse, operands.lse, operands.q, "float32"),
    )


def _backward_outputs(operands: Operands, gradients: Gradients, result: reference.Gradients) -> Outputs:
    return Outputs(
        dq=_store(result.dq, gradients.dq, operands.q, operands.q.dtype),
        dk=_store(result.dk, gradients.dk, operands.k, operands.k.dtype),
        dv=_store(result.dv, gradients.dv, operands.v, operands.v.dtype),
    )


def _store(values: NDArray[Any], given: ArrayView | None, like: ArrayView, dtype: str) -> Any:
    """Round ``values`` into the caller's array, or into a new one of the inputs' library."""
    target = ArrayView.of(allocate(like, values.shape, dtype), "out") if given is None else given
    memory = target.to_numpy()
    np.copyto(memory, values.astype(memory.dtype))
    return target.array
