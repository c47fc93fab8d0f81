"""The requests: what a caller wants computed, checked at construction. One type a file."""

from flashactor.requests.base import AttentionRequest
from flashactor.requests.fa2 import Fa2BwdRequest, Fa2FwdRequest
from flashactor.requests.fa3 import Fa3FwdRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request, Fa3FwdFp8Request
from flashactor.requests.merge import MergeStatesRequest
from flashactor.requests.operands import KvLayout
from flashactor.requests.paged import PagedAttentionRequest, PagedKvCache
from flashactor.requests.prefill import ChunkedPrefillRequest, ChunkLayout
from flashactor.requests.varlen import CumulativeSeqlens, VarlenBwdRequest, VarlenFwdRequest

__all__ = [
    "AttentionRequest",
    "ChunkLayout",
    "ChunkedPrefillRequest",
    "CumulativeSeqlens",
    "Fa2BwdRequest",
    "Fa2FwdFp8Request",
    "Fa2FwdRequest",
    "Fa3FwdFp8Request",
    "Fa3FwdRequest",
    "KvLayout",
    "MergeStatesRequest",
    "PagedAttentionRequest",
    "PagedKvCache",
    "VarlenBwdRequest",
    "VarlenFwdRequest",
]
