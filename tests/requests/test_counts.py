"""Counts are integers of any library, kept as Python's: nothing wraps, and nothing else is taken."""

import numpy as np
import pytest
import torch
from request_arrays import dense, on_device, packed

from flashactor import (
    ChunkLayout,
    CumulativeSeqlens,
    DType,
    Fa2FwdRequest,
    MaskKind,
    PagedAttentionRequest,
    PagedKvCache,
    PersistentMode,
    VarlenFwdRequest,
)
from flashactor.errors import FlashAttnError

CELL = (None, DType.BF16, 64)
DEVICE = on_device(packed())


def bare(**fields):
    return Fa2FwdRequest(*CELL, **{"mask": MaskKind.causal(), **fields})


def paged(**fields):
    cache = PagedKvCache(1, 16, 1, 64, 1)
    return PagedAttentionRequest(*CELL, **{"cache": cache, "num_seqs": 1, **fields})


COUNTS = {
    "sliding_causal": lambda n: MaskKind.sliding_causal(n).sliding_window,
    "sliding_full": lambda n: MaskKind.sliding_full(n).sliding_window,
    "window_left": lambda n: MaskKind.sliding(n, -1).window_left,
    "window_right": lambda n: MaskKind.sliding(-1, n).window_right,
    "MaskKind": lambda n: MaskKind(False, n, 3).sliding_window,
    "num_sms": lambda n: PersistentMode.persistent(n).num_sms,
    "sink_tokens": lambda n: bare(sink_tokens=n).sink_tokens,
    "gqa_ratio": lambda n: bare(gqa_ratio=n).gqa_ratio,
    "dropout_seed": lambda n: bare(dropout_seed=n).dropout_seed,
    "dropout_offset": lambda n: bare(dropout_offset=n).dropout_offset,
    "chunk_q_tokens": lambda n: ChunkLayout(n, 0).chunk_q_tokens,
    "prefix_kv_tokens": lambda n: ChunkLayout(1, n).prefix_kv_tokens,
    "total_chunks": lambda n: ChunkLayout(1, 0, n).total_chunks,
    "chunk_index": lambda n: ChunkLayout(1, 0, 300, n).chunk_index,
    "batch_size": lambda n: CumulativeSeqlens(n, 9, 9, 9, 9).batch_size,
    "max_seqlen_q": lambda n: CumulativeSeqlens(9, n, 9, 9, 9).max_seqlen_q,
    "max_seqlen_kv": lambda n: CumulativeSeqlens(9, 9, n, 9, 9).max_seqlen_kv,
    "total_q_tokens": lambda n: CumulativeSeqlens(99, 99, 9, n, 9).total_q_tokens,
    "total_kv_tokens": lambda n: CumulativeSeqlens(99, 9, 99, 9, n).total_kv_tokens,
    "num_blocks": lambda n: PagedKvCache(n, 16, 1, 64, 1).num_blocks,
    "num_kv_heads": lambda n: PagedKvCache(1, 16, n, 64, 1).num_kv_heads,
    "cache head_dim": lambda n: PagedKvCache(1, 16, 1, n, 1).head_dim,
    "max_blocks_per_seq": lambda n: PagedKvCache(1, 16, 1, 64, n).max_blocks_per_seq,
    "num_seqs": lambda n: paged(num_seqs=n).num_seqs,
    "q_tokens_per_seq": lambda n: paged(q_tokens_per_seq=n).q_tokens_per_seq,
    "given max_seqlen_q": lambda n: (
        VarlenFwdRequest.from_arrays(**DEVICE, max_seqlen_q=n, max_seqlen_k=9).seqlens.max_seqlen_q
    ),
}
EVERY_COUNT = pytest.mark.parametrize("make", COUNTS.values(), ids=COUNTS)


@EVERY_COUNT
def test_integers_of_any_library(make):
    for number in (np.uint8(200), np.int16(200), np.array(200), torch.tensor(200)):
        count = make(number)
        assert type(count) is int
        assert count == 200


@EVERY_COUNT
@pytest.mark.parametrize(
    "nonsense",
    [
        *(np.array([4, 5]), np.array([4]), 4.0, np.float32(4), "4", True, np.True_, [4]),
        *(torch.tensor([4]), torch.tensor(4.0), torch.tensor([4, 5]), torch.tensor(True), 4 + 0j),
    ],
    ids=str,
)
def test_what_is_no_integer(make, nonsense):
    with pytest.raises(FlashAttnError) as caught:
        make(nonsense)
    assert caught.value.remedy


def test_nothing_wraps():
    assert MaskKind.sliding(np.int8(127), np.int8(127)).sliding_window == 128
    assert CumulativeSeqlens(np.uint8(2), np.uint8(200), 1, np.int16(400), 1).total_q_tokens == 400
    request = Fa2FwdRequest.from_arrays(**dense(), mask=MaskKind.sliding_causal(np.int8(127)))
    assert request.mask.window_left == 126
