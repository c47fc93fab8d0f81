"""Bare cells of any type, for planning: what a kernel is chosen by, without arrays or lengths."""

from __future__ import annotations

from typing import Any

from flashactor.requests.base import AttentionRequest
from flashactor.requests.fa2 import Fa2BwdRequest, Fa2FwdRequest
from flashactor.requests.fa3 import Fa3FwdFp8Request, Fa3FwdRequest
from flashactor.requests.paged import PagedAttentionRequest, PagedKvCache
from flashactor.requests.prefill import ChunkedPrefillRequest, ChunkLayout
from flashactor.requests.varlen import CumulativeSeqlens, VarlenBwdRequest, VarlenFwdRequest

REQUEST_TYPES: dict[str, type[AttentionRequest]] = {
    request_type.__name__: request_type
    for request_type in (
        Fa2FwdRequest,
        Fa2BwdRequest,
        Fa3FwdRequest,
        Fa3FwdFp8Request,
        VarlenFwdRequest,
        VarlenBwdRequest,
        PagedAttentionRequest,
        ChunkedPrefillRequest,
    )
}
"""Every request type by its name."""

_SEQLENS = CumulativeSeqlens(1, 1, 1, 1, 1)


def bare_request(request_type: type[AttentionRequest], **fields: Any) -> AttentionRequest:
    """A bare cell; the sizes that a type requires are the least ones, for no kernel is chosen by them.

    Args:
        request_type: one of ``REQUEST_TYPES``.
        fields: those that all requests share: arch, dtype, head_dim, mask, ...

    Raises:
        RequestError, DispatchError: a field.
    """
    sizes: dict[str, Any] = {}
    if issubclass(request_type, VarlenFwdRequest | VarlenBwdRequest):
        sizes = {"seqlens": _SEQLENS}
    elif issubclass(request_type, PagedAttentionRequest):
        sizes = {"cache": PagedKvCache(1, 16, 1, fields["head_dim"], 1), "num_seqs": 1}
    elif issubclass(request_type, ChunkedPrefillRequest):
        sizes = {"seqlens": _SEQLENS, "chunk": ChunkLayout(1, 0)}
    return request_type(**sizes, **fields)
