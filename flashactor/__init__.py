"""flashactor: an actor-based asynchronous kernel dispatch service for attention.

Importing it starts nothing, reads no environment and loads neither CUDA nor an array library.
"""

from flashactor import registry
from flashactor.actor.batch import PendingReplies
from flashactor.actor.messages import FlashAttnMsg, FlashAttnProps, MsgKind
from flashactor.actor.meter import ActorStats, Histogram
from flashactor.actor.nvrtc_actor import NvrtcActor, NvrtcStats
from flashactor.actor.pool_stats import PoolStats
from flashactor.actor.reply import AttentionReply, PendingReply, Timings
from flashactor.actor.restarts import RestartPolicy
from flashactor.device import DeviceActor
from flashactor.dispatch import DISPATCH_TABLE, DispatchKey, DispatchTable, lookup
from flashactor.errors import FlashAttnError
from flashactor.kernels.select import Candidate, Explanation, explain, workspace_size
from flashactor.pool import FlashAttnPool
from flashactor.requests import (
    ChunkedPrefillRequest,
    ChunkLayout,
    CumulativeSeqlens,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    Fa3FwdRequest,
    KvLayout,
    MergeStatesRequest,
    PagedAttentionRequest,
    PagedKvCache,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.service import FlashAttnActor
from flashactor.types import Direction, DType, MaskKind, PersistentMode, PositionBias, SmArch

__version__ = "0.1.0"

__all__ = [
    "DISPATCH_TABLE",
    "ActorStats",
    "AttentionReply",
    "Candidate",
    "ChunkLayout",
    "ChunkedPrefillRequest",
    "CumulativeSeqlens",
    "DType",
    "DeviceActor",
    "Direction",
    "DispatchKey",
    "DispatchTable",
    "Explanation",
    "Fa2BwdRequest",
    "Fa2FwdFp8Request",
    "Fa2FwdRequest",
    "Fa3FwdFp8Request",
    "Fa3FwdRequest",
    "FlashAttnActor",
    "FlashAttnError",
    "FlashAttnMsg",
    "FlashAttnPool",
    "FlashAttnProps",
    "Histogram",
    "KvLayout",
    "MaskKind",
    "MergeStatesRequest",
    "MsgKind",
    "NvrtcActor",
    "NvrtcStats",
    "PagedAttentionRequest",
    "PagedKvCache",
    "PendingReplies",
    "PendingReply",
    "PersistentMode",
    "PoolStats",
    "PositionBias",
    "RestartPolicy",
    "SmArch",
    "Timings",
    "VarlenBwdRequest",
    "VarlenFwdRequest",
    "__version__",
    "explain",
    "lookup",
    "registry",
    "workspace_size",
]
