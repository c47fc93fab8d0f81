"""Requests made from arrays: what is inferred, and which argument an error names."""

import ml_dtypes
import numpy as np
import pytest
import torch
from request_arrays import POOLS, backward, chunked, dense, ints, packed, paged, zeros

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    CumulativeSeqlens,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdRequest,
    KvLayout,
    MaskKind,
    PagedAttentionRequest,
    PersistentMode,
    PositionBias,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.errors import (
    EmptyBatchError,
    InvalidPagedBlockSizeError,
    OperandError,
    PagedHeadDimMismatchError,
    RequestError,
    SeqlenOverflowError,
    UnsupportedHeadDimError,
    ZeroSeqlenError,
)


def test_dense_inference():
    request = Fa2FwdRequest.from_arrays(**dense(), mask=MaskKind.causal(), arch=SmArch.SM89)
    assert (request.dtype, request.head_dim, request.gqa_ratio) == (DType.BF16, 64, 4)
    assert (request.bias, request.arch) == (PositionBias.NONE, SmArch.SM89)
    assert request.scale == 0.125
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, causal>_gqa4"


@pytest.mark.parametrize("request_type", [Fa2FwdRequest, Fa3FwdRequest])
def test_both_generations_take_the_same_arrays(request_type):
    request = request_type.from_arrays(**dense(alibi_slopes=np.ones(8, np.float32)))
    assert request.bias is PositionBias.ALIBI
    assert request.operands.alibi_slopes.shape == (8,)


def test_fa3_takes_its_persistent_mode():
    assert Fa3FwdRequest.from_arrays(**dense(), persistent=PersistentMode.persistent(132)).is_persistent


def test_torch_strided_views_are_taken_as_they_are():
    fused = torch.zeros(2, 5, 3, 8, 64, dtype=torch.float16)
    q, k, v = fused.unbind(2)
    request = Fa2FwdRequest.from_arrays(q, k, v)
    assert request.operands.k.pointer == k.data_ptr()
    assert request.operands.k.strides == (7680, 1536, 64, 1)


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"q": zeros(2, 5, 64)}, OperandError, "q.ndim"),
        ({"k": zeros(7, 2, 64)}, OperandError, "k.ndim"),
        ({"q": zeros(2, 5, 8, 64, dtype=np.float32)}, OperandError, "q.dtype"),
        ({"k": zeros(2, 7, 2, 64, dtype=np.float16)}, OperandError, "k.dtype"),
        ({"q": zeros(2, 5, 8, 64, dtype=ml_dtypes.float8_e4m3fn)}, OperandError, "q.dtype"),
        ({"k": zeros(3, 7, 2, 64)}, OperandError, "k.shape"),
        ({"k": zeros(2, 7, 2, 32)}, OperandError, "k.shape"),
        ({"v": zeros(2, 8, 2, 64)}, OperandError, "v.shape"),
        ({"v": zeros(2, 7, 4, 64)}, OperandError, "v.shape"),
        ({"q": zeros(2, 5, 7, 64)}, OperandError, "heads"),
        ({"q": zeros(2, 5, 0, 64)}, OperandError, "heads"),
        (
            {"q": zeros(0, 5, 8, 64), "k": zeros(0, 7, 2, 64), "v": zeros(0, 7, 2, 64)},
            EmptyBatchError,
            "batch",
        ),
        ({"q": zeros(2, 0, 8, 64)}, ZeroSeqlenError, "seqlen_q"),
        ({"k": zeros(2, 0, 2, 64), "v": zeros(2, 0, 2, 64)}, ZeroSeqlenError, "seqlen_k"),
        ({"q": zeros(2, 5, 8, 128)[..., ::2]}, OperandError, "q.strides"),
        ({"v": zeros(2, 7, 2, 72)[..., 1:65]}, OperandError, "v.pointer"),
        ({"out": zeros(2, 5, 8, 32)}, OperandError, "out.shape"),
        ({"out": zeros(2, 5, 8, 64, dtype=np.float16)}, OperandError, "out.dtype"),
        ({"lse": zeros(2, 5, 8, dtype=np.float32)}, OperandError, "lse.shape"),
        ({"lse": zeros(2, 8, 5, dtype=np.float64)}, OperandError, "lse.dtype"),
        ({"alibi_slopes": np.ones(2, np.float32)}, OperandError, "alibi_slopes.shape"),
        ({"alibi_slopes": np.ones((3, 8), np.float32)}, OperandError, "alibi_slopes.shape"),
        ({"alibi_slopes": np.ones(8)}, OperandError, "alibi_slopes.dtype"),
        ({"sink_logits": np.ones(2, np.float32)}, OperandError, "sink_logits.shape"),
        ({"q": [[0.0]]}, OperandError, "q"),
        ({"dtype": DType.BF16}, RequestError, "dtype"),
        ({"head_dim": 64}, RequestError, "head_dim"),
    ],
    ids=str,
)
def test_dense_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        Fa2FwdRequest.from_arrays(**dense(**changes))
    assert caught.value.field == field


def test_a_read_only_output_is_refused():
    out = zeros(2, 5, 8, 64)
    out.flags.writeable = False
    with pytest.raises(OperandError, match="read-only"):
        Fa2FwdRequest.from_arrays(**dense(out=out))


def test_a_broadcast_output_is_refused():
    with pytest.raises(OperandError, match="broadcast"):
        Fa2FwdRequest.from_arrays(
            *(torch.zeros(2, 4, 8, 64, dtype=torch.float16) for _ in "qkv"),
            out=torch.zeros(1, 4, 8, 64, dtype=torch.float16).expand(2, 4, 8, 64),
        )


def test_odd_head_dims_are_refused_with_the_rule():
    arrays = {name: zeros(1, 4, 1, 104)[..., :100] for name in "qkv"}
    with pytest.raises(UnsupportedHeadDimError, match="multiple of 8"):
        Fa2FwdRequest.from_arrays(**arrays)


def test_backward_inference():
    request = Fa2BwdRequest.from_arrays(
        **backward(dlse=zeros(2, 8, 5, dtype=np.float32)), deterministic=False
    )
    assert request.kernel_name() == "flashactor::fa2::bwd<bf16, 64, full>_gqa4"
    assert not request.deterministic
    assert request.gradients.dlse.shape == (2, 8, 5)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dout": zeros(2, 5, 8, 32)}, "dout.shape"),
        ({"dout": zeros(2, 5, 8, 64, dtype=np.float16)}, "dout.dtype"),
        ({"dlse": zeros(2, 5, 8, dtype=np.float32)}, "dlse.shape"),
        ({"dq": zeros(2, 7, 8, 64)}, "dq.shape"),
        ({"dk": zeros(2, 7, 8, 64)}, "dk.shape"),
        ({"dv": zeros(2, 7, 2, 64, dtype=np.float32)}, "dv.dtype"),
    ],
    ids=str,
)
def test_backward_errors_name_the_argument(changes, field):
    with pytest.raises(OperandError) as caught:
        Fa2BwdRequest.from_arrays(**backward(**changes))
    assert caught.value.field == field


def test_packed_inference():
    request = VarlenFwdRequest.from_arrays(**packed())
    assert request.seqlens == CumulativeSeqlens(3, 6, 6, 10, 12)
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, full>_varlen_gqa4"


def test_rows_after_the_last_offset_are_padding():
    request = VarlenFwdRequest.from_arrays(**packed(cu_seqlens_q=ints(0, 4, 4, 9)))
    assert request.seqlens.total_q_tokens == 9


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"q": zeros(1, 10, 8, 64)}, OperandError, "q.ndim"),
        ({"cu_seqlens_q": np.array([0, 4, 4, 10])}, OperandError, "cu_seqlens_q.dtype"),
        ({"cu_seqlens_k": ints(0, 12)}, OperandError, "cu_seqlens_k.shape"),
        ({"cu_seqlens_q": ints(1, 4, 4, 10)}, OperandError, "cu_seqlens_q"),
        ({"cu_seqlens_q": ints(0, 5, 4, 10)}, OperandError, "cu_seqlens_q"),
        ({"cu_seqlens_q": ints(0, 4, 4, 11)}, SeqlenOverflowError, "cu_seqlens_q"),
        ({"cu_seqlens_q": ints(0), "cu_seqlens_k": ints(0)}, EmptyBatchError, "batch"),
        ({"cu_seqlens_q": ints(), "cu_seqlens_k": ints()}, EmptyBatchError, "batch"),
        ({"max_seqlen_q": 5}, SeqlenOverflowError, "max_seqlen_q"),
        ({"max_seqlen_k": 0}, ZeroSeqlenError, "max_seqlen_k"),
        ({"max_seqlen_k": "x"}, ZeroSeqlenError, "max_seqlen_k"),
        ({"v": zeros(12, 4, 64)}, OperandError, "v.shape"),
        ({"lse": zeros(10, 8, dtype=np.float32)}, OperandError, "lse.shape"),
        ({"alibi_slopes": np.ones((2, 8), np.float32)}, OperandError, "alibi_slopes.shape"),
    ],
    ids=str,
)
def test_packed_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        VarlenFwdRequest.from_arrays(**packed(**changes))
    assert caught.value.field == field


def test_packed_backward():
    request = VarlenBwdRequest.from_arrays(
        dout=zeros(10, 8, 64), out=zeros(10, 8, 64), lse=zeros(8, 10, dtype=np.float32), **packed()
    )
    assert request.kernel_name() == "flashactor::fa2::bwd<bf16, 64, full>_varlen_gqa4"


def test_paged_inference():
    request = PagedAttentionRequest.from_arrays(**paged())
    assert (request.cache.num_blocks, request.cache.block_size, request.cache.num_kv_heads) == (10, 16, 2)
    assert (request.num_seqs, request.is_pure_decode, request.gqa_ratio) == (2, True, 4)
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, full>_paged_gqa4"


@pytest.mark.parametrize("layout", ["HND", KvLayout.HND])
def test_paged_hnd(layout):
    pools = {name: zeros(10, 2, 16, 64) for name in ("k_cache", "v_cache")}
    request = PagedAttentionRequest.from_arrays(**paged(**pools), layout=layout)
    assert (request.cache.block_size, request.cache.num_kv_heads) == (16, 2)
    assert request.pages.layout is KvLayout.HND


def test_pages_beyond_a_sequences_length_may_hold_anything():
    PagedAttentionRequest.from_arrays(**paged(page_table=ints(3, 1, 9, -1).reshape(2, 2)))


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"page_table": ints(3, 10, 9, 2).reshape(2, 2)}, OperandError, "page_table[0][1]"),
        ({"page_table": ints(-1, 1, 9, 2).reshape(2, 2)}, OperandError, "page_table[0][0]"),
        ({"page_table": ints(3, 1)}, OperandError, "page_table.ndim"),
        ({"page_table": ints(3, 1).reshape(1, 2)}, OperandError, "page_table.shape"),
        ({"page_table": np.zeros((2, 2))}, OperandError, "page_table.dtype"),
        ({"seq_lens": ints(33, 1)}, SeqlenOverflowError, "seq_lens[0]"),
        ({"seq_lens": ints(1, -1)}, SeqlenOverflowError, "seq_lens[1]"),
        ({"seq_lens": ints(1)}, OperandError, "seq_lens.shape"),
        ({"layout": "NDH"}, OperandError, "layout"),
        ({"k_cache": zeros(10, 12, 2, 64)}, OperandError, "v_cache.shape"),
        (
            {"k_cache": zeros(10, 12, 2, 64), "v_cache": zeros(10, 12, 2, 64)},
            InvalidPagedBlockSizeError,
            "block_size",
        ),
        (
            {"k_cache": zeros(10, 16, 2, 32), "v_cache": zeros(10, 16, 2, 32)},
            PagedHeadDimMismatchError,
            "head_dim",
        ),
        ({"lse": zeros(2, 1, 8, dtype=np.float32)}, OperandError, "lse.shape"),
    ],
    ids=str,
)
def test_paged_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        PagedAttentionRequest.from_arrays(**paged(**changes))
    assert caught.value.field == field


def test_chunked_inference():
    request = ChunkedPrefillRequest.from_arrays(**chunked(), mask=MaskKind.causal())
    assert request.seqlens == CumulativeSeqlens(2, 4, 16, 8, 32)
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, causal>_varlen_gqa4"


def test_chunked_with_pages():
    request = ChunkedPrefillRequest.from_arrays(**chunked(**POOLS, page_table=ints(3, 1, 9, 2).reshape(2, 2)))
    assert request.paged
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, full>_varlen_paged_gqa4"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"chunk": ChunkLayout(5, 0)}, OperandError, "q.shape"),
        ({"chunk": ChunkLayout(4, 13)}, SeqlenOverflowError, "k_cache"),
        ({"k": zeros(2, 5, 2, 64), "v": zeros(2, 5, 2, 64)}, OperandError, "k.shape"),
        ({"v_cache": zeros(2, 15, 2, 64)}, OperandError, "v_cache.shape"),
        ({"k_cache": zeros(2, 16, 2, 64, dtype=np.float16)}, OperandError, "k_cache.dtype"),
        ({"k_cache": zeros(1, 16, 2, 64), "v_cache": zeros(1, 16, 2, 64)}, OperandError, "k_cache.shape"),
        ({**POOLS, "page_table": ints(3, 1, 9, 10).reshape(2, 2)}, OperandError, "page_table[1][1]"),
        ({**POOLS, "page_table": ints(3, 9).reshape(2, 1)}, SeqlenOverflowError, "seq_lens[0]"),
        (
            {
                "k_cache": zeros(10, 8, 4, 64),
                "v_cache": zeros(10, 8, 4, 64),
                "page_table": ints(3, 9).reshape(2, 1),
            },
            OperandError,
            "k_cache.shape",
        ),
    ],
    ids=str,
)
def test_chunked_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        ChunkedPrefillRequest.from_arrays(**chunked(**changes))
    assert caught.value.field == field
