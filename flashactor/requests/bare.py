"""Bare cells of any type, for planning: what a kernel is chosen by, without arrays or lengths."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

from flashactor.arrays import HOST, ArrayView
from flashactor.errors import RequestError
from flashactor.requests.base import AttentionRequest
from flashactor.requests.fa2 import Fa2BwdRequest, Fa2FwdRequest
from flashactor.requests.fa3 import Fa3FwdRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request, Fa3FwdFp8Request
from flashactor.requests.merge import MergeStatesRequest
from flashactor.requests.operands import KvCacheAppend, KvLayout, Operands, PageTable
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
    request_type: type[AttentionRequest],
    *,
    sink_logits: bool = False,
    varlen: bool = False,
    paged: bool = False,
    **fields: Any,
) -> AttentionRequest:
    """A bare cell; the sizes that a type requires are the least ones, for no kernel is chosen by them.

    Args:
        request_type: one of ``REQUEST_TYPES``.
        sink_logits: with learned sink logits. Only operands say that a request has them, so it gets the least
            ones; no offsets, pages or gradients come with them.
        varlen: with query tokens packed by cu_seqlens_q, for PagedAttentionRequest; only an array says so.
        paged: with a paged cache, for ChunkedPrefillRequest; only arrays say so.
        fields: those that all requests share: arch, dtype, head_dim, mask, ...

    Raises:
        RequestError, DispatchError: a field, or a type that has no such variant.
    """
    sizes: dict[str, Any] = {}
    if issubclass(request_type, VarlenFwdRequest | VarlenBwdRequest):
        sizes = {"seqlens": _SEQLENS}
    elif issubclass(request_type, PagedAttentionRequest):
        sizes = {"cache": PagedKvCache(1, _BLOCK_SIZE, 1, fields["head_dim"], 1), "num_seqs": 1}
    elif issubclass(request_type, ChunkedPrefillRequest):
        sizes = {"seqlens": _SEQLENS, "chunk": ChunkLayout(1, 0)}
    request = request_type(**sizes, **fields)
    if varlen and isinstance(request, PagedAttentionRequest):
        request = replace(request, cu_seqlens_q=_zeros((2,), "int32"))
    if paged and isinstance(request, ChunkedPrefillRequest):
        request = replace(request, append=_paged_append(request))
    for name, wanted in (("varlen", varlen), ("paged", paged)):
        if wanted and not getattr(request, name):
            raise RequestError(
                field=name,
                got=f"{wanted} for {request_type.__name__}",
                expected="False, for this type is never so",
                remedy=f"drop {name}, or name another type of request",
            )
    return replace(request, operands=_with_sinks(request)) if sink_logits else request


def _paged_append(request: ChunkedPrefillRequest) -> KvCacheAppend:
    pool, dtype = (1, _BLOCK_SIZE, 1), request.kv_dtype.numpy_name
    return KvCacheAppend(
        pages=PageTable(page_table=_zeros((1, 1), "int32"), seq_lens=None, layout=KvLayout.NHD),
        k_cache=ArrayView.imagined((*pool, request.head_dim), dtype),
        v_cache=ArrayView.imagined((*pool, request.head_dim_v), dtype),
    )


def _with_sinks(request: AttentionRequest) -> Operands:
    heads_q, head_dim, head_dim_v = request.gqa_ratio, request.head_dim, request.head_dim_v
    q: tuple[int, ...] = (1, heads_q)
    kv: tuple[int, ...] = (1, 1)
    if not isinstance(request, VarlenFwdRequest | VarlenBwdRequest):
        paged = isinstance(request, PagedAttentionRequest)
        q = q if paged and request.varlen else (1, *q)
        kv = (1, _BLOCK_SIZE if paged else 1, 1)
    dtype = k_dtype = v_dtype = request.dtype
    if isinstance(request, Fa2FwdFp8Request):
        k_dtype, v_dtype = request.kv_dtype, request.v_dtype
    elif isinstance(request, PagedAttentionRequest):
        k_dtype = v_dtype = request.kv_dtype
    return Operands(
        q=ArrayView.imagined((*q, head_dim), dtype.numpy_name),
        k=ArrayView.imagined((*kv, head_dim), k_dtype.numpy_name),
        v=ArrayView.imagined((*kv, head_dim_v), v_dtype.numpy_name),
        sink_logits=_zeros((heads_q,), "float32"),
    )


def _zeros(shape: tuple[int, ...], dtype: str) -> ArrayView:
    """An array of zeros in host memory, which is one zero again and again."""
    strides = (0,) * len(shape)
    return ArrayView(shape, strides, dtype, HOST, ctypes.addressof(_ZERO), "numpy", _ZERO, writable=False)
