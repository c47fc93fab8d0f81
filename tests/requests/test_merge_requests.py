"""Requests that merge two attention states."""

import numpy as np
import pytest
from request_arrays import merge, zeros

from flashactor import DType, FlashAttnMsg, MaskKind, MergeStatesRequest, PositionBias, SmArch
from flashactor.actor.messages import MsgKind
from flashactor.errors import (
    EmptyBatchError,
    MissingOperandsError,
    OperandError,
    PagedFlagNotSetError,
    RequestError,
    UnsupportedHeadDimError,
    ZeroSeqlenError,
)


def test_inference():
    request = MergeStatesRequest.from_arrays(**merge(), arch=SmArch.SM89, implementation="reference")
    assert (request.arch, request.dtype, request.head_dim) == (SmArch.SM89, DType.BF16, 64)
    assert request.kernel_name() == "flashactor::merge<bf16, 64>"
    assert request.implementation == "reference"
    assert request.require_states().out is None
    assert request.operands is None


def test_packed_states():
    out, lse = zeros(5, 8, 128), zeros(8, 5, dtype=np.float32)
    request = MergeStatesRequest.from_arrays(out, lse, out, lse, out=out.copy(), lse=lse.copy())
    assert request.kernel_name() == "flashactor::merge<bf16, 128>"
    assert list(request.arrays()) == ["out_a", "lse_a", "out_b", "lse_b", "out", "lse"]


def test_it_is_sent_as_a_forward_pass():
    request = MergeStatesRequest.from_arrays(**merge())
    assert FlashAttnMsg.forward(request).kind is MsgKind.FORWARD
    with pytest.raises(PagedFlagNotSetError):
        FlashAttnMsg.paged_forward(request)


def test_a_bare_cell_has_no_states():
    request = MergeStatesRequest(SmArch.SM90A, DType.F16, 64)
    assert request.arrays() == {}
    with pytest.raises(MissingOperandsError, match="from_arrays"):
        request.require_states()
    with pytest.raises(MissingOperandsError):
        MergeStatesRequest.from_arrays(**merge()).require_operands()


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"mask": MaskKind.causal()}, RequestError, "mask"),
        ({"gqa_ratio": 2}, RequestError, "gqa_ratio"),
        ({"bias": PositionBias.ALIBI}, RequestError, "bias"),
        ({"sink_tokens": 4}, RequestError, "sink_tokens"),
        ({"softmax_scale": 1.0}, RequestError, "softmax_scale"),
        ({"softcap": 1.0}, RequestError, "softcap"),
        ({"dropout_p": 0.5}, RequestError, "dropout_p"),
        ({"head_dim_v": 128}, RequestError, "head_dim_v"),
        ({"head_dim": 100}, UnsupportedHeadDimError, "head_dim"),
        ({"dtype": DType.F8E4M3}, RequestError, "dtype"),
    ],
    ids=str,
)
def test_rules_of_the_cell(fields, error, field):
    with pytest.raises(error) as caught:
        MergeStatesRequest(**{"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 64, **fields})
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"out_a": zeros(5, 64)}, OperandError, "out_a.ndim"),
        ({"out_a": zeros(2, 5, 8, 64, dtype=np.float32)}, OperandError, "out_a.dtype"),
        ({"out_a": zeros(2, 5, 8, 128)[..., ::2]}, OperandError, "out_a.strides"),
        ({"out_a": zeros(0, 5, 8, 64)}, EmptyBatchError, "batch"),
        ({"out_a": zeros(2, 0, 8, 64)}, ZeroSeqlenError, "seqlen"),
        ({"out_a": zeros(0, 8, 64)}, ZeroSeqlenError, "total"),
        ({"out_a": zeros(2, 5, 0, 64)}, OperandError, "heads"),
        ({"out_b": zeros(2, 5, 8, 32)}, OperandError, "out_b.shape"),
        ({"out_b": zeros(2, 5, 8, 64, dtype=np.float16)}, OperandError, "out_b.dtype"),
        ({"lse_a": zeros(2, 5, 8, dtype=np.float32)}, OperandError, "lse_a.shape"),
        ({"lse_b": zeros(2, 8, 5, dtype=np.float64)}, OperandError, "lse_b.dtype"),
        ({"out": zeros(2, 5, 8, 64, dtype=np.float16)}, OperandError, "out.dtype"),
        ({"lse": zeros(8, 5, dtype=np.float32)}, OperandError, "lse.shape"),
        ({"lse_b": [0.0]}, OperandError, "lse_b"),
    ],
    ids=str,
)
def test_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        MergeStatesRequest.from_arrays(**merge(**changes))
    assert caught.value.field == field
