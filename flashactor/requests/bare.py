"""Bare cells of any type, for planning: what a kernel is chosen by, without arrays or lengths."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

from flashactor.arrays import HOST, ArrayView
from flashactor.requests.base import AttentionRequest
from flashactor.requests.fa2 import Fa2BwdRequest, Fa2FwdRequest
from flashactor.requests.fa3 import Fa3FwdRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request, Fa3FwdFp8Request
from flashactor.requests.merge import MergeStatesRequest
from flashactor.requests.operands import Operands
from flashactor.requests.paged import PagedAttentionRequest, PagedKvCache
from flashactor.requests.prefill import ChunkedPrefillRequest, ChunkLayout
from flashactor.requests.varlen import CumulativeSeqlens, VarlenBwdRequest, VarlenFwdRequest

REQUEST_TYPES: dict[str, type[AttentionRequest]] = {
    request_type.__name__: request_type
    for request_type in (
        Fa2FwdRequest,
        Fa2BwdRequest,
        Fa2FwdFp8Request,
        Fa3FwdRequest,
        Fa3FwdFp8Request,
        VarlenFwdRequest,
        VarlenBwdRequest,
        PagedAttentionRequest,
        ChunkedPrefillRequest,
        MergeStatesRequest,
    )
}
"""Every request type by its name."""

_SEQLENS = CumulativeSeqlens(1, 1, 1, 1, 1)
_BLOCK_SIZE = 16
_ZERO = ctypes.c_float()  # as wide as any element that these operands have


def bare_request(
    request_type: type[AttentionRequest], *, sink_logits: bool = False, **fields: Any
) -> AttentionRequest:
    """A bare cell; the sizes that a type requires are the least ones, for no kernel is chosen by them.

    Args:
        request_type: one of ``REQUEST_TYPES``.
        sink_logits: with learned sink logits. Only operands say that a request has them, so it gets the least
            ones, of zeros; no offsets, pages or gradients come with them.
        fields: those that all requests share: arch, dtype, head_dim, mask, ...

    Raises:
        RequestError, DispatchError: a field.
    """
    sizes: dict[str, Any] = {}
    if issubclass(request_type, VarlenFwdRequest | VarlenBwdRequest):
        sizes = {"seqlens": _SEQLENS}
    elif issubclass(request_type, PagedAttentionRequest):
        sizes = {"cache": PagedKvCache(1, _BLOCK_SIZE, 1, fields["head_dim"], 1), "num_seqs": 1}
    elif issubclass(request_type, ChunkedPrefillRequest):
        sizes = {"seqlens": _SEQLENS, "chunk": ChunkLayout(1, 0)}
    request = request_type(**sizes, **fields)
    return replace(request, operands=_with_sinks(request)) if sink_logits else request


def _with_sinks(request: AttentionRequest) -> Operands:
    heads_q, head_dim, head_dim_v = request.gqa_ratio, request.head_dim, request.head_dim_v
    q: tuple[int, ...] = (1, heads_q)
    kv: tuple[int, ...] = (1, 1)
    if not isinstance(request, VarlenFwdRequest | VarlenBwdRequest):
        q = (1, *q)
        kv = (1, _BLOCK_SIZE if isinstance(request, PagedAttentionRequest) else 1, 1)
    dtype = k_dtype = v_dtype = request.dtype
    if isinstance(request, Fa2FwdFp8Request):
        k_dtype, v_dtype = request.kv_dtype, request.v_dtype
    elif isinstance(request, PagedAttentionRequest):
        k_dtype = v_dtype = request.kv_dtype
    return Operands(
        q=_zeros((*q, head_dim), dtype.numpy_name),
        k=_zeros((*kv, head_dim), k_dtype.numpy_name),
        v=_zeros((*kv, head_dim_v), v_dtype.numpy_name),
        sink_logits=_zeros((heads_q,), "float32"),
    )


def _zeros(shape: tuple[int, ...], dtype: str) -> ArrayView:
    """An array of zeros in host memory, which is one zero again and again."""
    strides = (0,) * len(shape)
    return ArrayView(shape, strides, dtype, HOST, ctypes.addressof(_ZERO), "numpy", _ZERO, writable=False)
