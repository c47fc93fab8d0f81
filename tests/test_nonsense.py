"""Values of the wrong type: a typed error that names the field, wherever they are passed."""

import numpy as np
import pytest
import torch

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    CumulativeSeqlens,
    DispatchKey,
    DType,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    Fa3FwdRequest,
    FlashAttnActor,
    FlashAttnProps,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    PagedKvCache,
    PersistentMode,
    SmArch,
    VarlenFwdRequest,
    explain,
)
from flashactor.errors import FlashAttnError

X = np.zeros((1, 4, 2, 64), np.float16)
OFFSETS = np.array([0, 4], np.int32)
CELL = (SmArch.SM90A, DType.F16, 64)


def dense(**fields):
    return Fa2FwdRequest.from_arrays(X, X, X, **fields)


NONSENSE = {
    "meta tensor": lambda: Fa2FwdRequest.from_arrays(torch.zeros(1, 4, 2, 64, device="meta"), X, X),
    "mask": lambda: dense(mask="causal"),
    "window list": lambda: dense(mask=MaskKind.sliding_causal([1])),
    "window text": lambda: dense(mask=MaskKind.sliding_causal("x")),
    "window side": lambda: dense(mask=MaskKind.sliding("x", 3)),
    "head_dim_v": lambda: Fa2FwdRequest(*CELL, head_dim_v="x"),
    "batch_invariant": lambda: dense(batch_invariant=None),
    "workspace": lambda: dense(workspace=3),
    "kv_dtype": lambda: PagedAttentionRequest(
        *CELL, cache=PagedKvCache(1, 16, 1, 64, 1), num_seqs=1, kv_dtype="f16"
    ),
    "guard": lambda: ChunkedPrefillRequest.from_arrays(
        X, X, X, X.copy(), X.copy(), chunk=ChunkLayout(4, 0), guard="x"
    ),
    "prefix_lens": lambda: ChunkedPrefillRequest.from_arrays(
        X, X, X, X.copy(), X.copy(), chunk=ChunkLayout(4, 0), prefix_lens="x"
    ),
    "states": lambda: MergeStatesRequest.from_arrays(None, None, None, None),
    "out_dtype": lambda: Fa2FwdFp8Request(SmArch.SM89, DType.F8E4M3, 64, out_dtype=[DType.F16]),
    "window float": lambda: dense(mask=MaskKind.sliding_causal(4.0)),
    "sink text": lambda: dense(mask=MaskKind.causal(), sink_tokens="3"),
    "implementation": lambda: dense(implementation=3),
    "dropout seed": lambda: dense(dropout_p=0.1, dropout_seed="x"),
    "dropout offset": lambda: dense(dropout_p=0.1, dropout_offset=-1),
    "gqa list": lambda: Fa2FwdRequest(*CELL, gqa_ratio=[2]),
    "gqa float": lambda: Fa2FwdRequest(*CELL, gqa_ratio=2.0),
    "head_dim float": lambda: Fa2FwdRequest(SmArch.SM80, DType.F16, 64.0),
    "batch_size": lambda: CumulativeSeqlens("a", 1, 1, 1, 1),
    "max_seqlen": lambda: CumulativeSeqlens(1, 1.5, 1, 1, 1),
    "total": lambda: CumulativeSeqlens(1, 1, 1, "a", 1),
    "num_blocks": lambda: PagedKvCache("a", 16, 1, 64, 1),
    "block_size": lambda: PagedKvCache(1, None, 1, 64, 1),
    "prefix": lambda: ChunkLayout(1, "x"),
    "chunk index": lambda: ChunkLayout(1, 0, 2, "x"),
    "cache": lambda: PagedAttentionRequest(*CELL, cache=None, num_seqs=1),
    "num_seqs": lambda: PagedAttentionRequest(*CELL, cache=PagedKvCache(1, 16, 1, 64, 1), num_seqs="x"),
    "seqlens": lambda: VarlenFwdRequest(*CELL, seqlens=None),
    "max_seqlen_q": lambda: VarlenFwdRequest.from_arrays(
        X[0], X[0], X[0], OFFSETS, OFFSETS, max_seqlen_q="x"
    ),
    "chunk": lambda: ChunkedPrefillRequest.from_arrays(X, X, X, X, X, chunk=None),
    "persistent": lambda: Fa3FwdRequest(*CELL, persistent=None),
    "num_sms": lambda: PersistentMode.persistent("x"),
    "key": lambda: DispatchKey("sm_80", "bf16", 64).validate_fwd(),
    "explain a request": lambda: explain("x"),
    "explain an arch": lambda: explain(Fa2FwdRequest(None, DType.F16, 64), "sm_80"),
    "max_in_flight": lambda: FlashAttnProps(max_in_flight=True),
    "props": lambda: FlashAttnActor.start("mock"),
    "executor": lambda: FlashAttnActor.start(executor=3),
    "executor in props": lambda: FlashAttnActor.start(FlashAttnProps(executor=None)),
}


@pytest.mark.parametrize("attempt", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_typed_error(attempt):
    with pytest.raises(FlashAttnError) as caught:
        attempt()
    assert caught.value.field
    assert caught.value.remedy
