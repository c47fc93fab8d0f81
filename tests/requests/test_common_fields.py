"""Fields that all requests share: v's head_dim, workspaces, used lengths, batch invariance, named arrays."""

import numpy as np
import pytest
import torch
from request_arrays import backward, dense, fp8, ints, on_device, packed, zeros

from flashactor import (
    DType,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    MaskKind,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.errors import OperandError, RequestError, SeqlenOverflowError, UnsupportedHeadDimError
from flashactor.requests.bare import REQUEST_TYPES, bare_request

EVERY_TYPE = pytest.mark.parametrize("request_type", REQUEST_TYPES.values(), ids=REQUEST_TYPES)


def bare(request_type, **fields):
    dtype = DType.F8E4M3 if request_type.TAKES_FP8 else DType.BF16
    return bare_request(request_type, **{"arch": SmArch.SM90A, "dtype": dtype, "head_dim": 64, **fields})


@EVERY_TYPE
def test_what_a_bare_cell_leaves_out(request_type):
    request = bare(request_type)
    assert request.head_dim_v == 64
    assert request.batch_invariant is False
    assert request.arrays() == {}
    assert bare(request_type, batch_invariant=True).batch_invariant


@EVERY_TYPE
@pytest.mark.parametrize("head_dim_v", [100, 0, 264, 64.0, "64", [64], True])
def test_v_has_a_head_dim_of_the_same_rule(request_type, head_dim_v):
    with pytest.raises(UnsupportedHeadDimError) as caught:
        bare(request_type, head_dim_v=head_dim_v)
    assert caught.value.field == "head_dim_v"
    assert caught.value.remedy


def test_the_name_says_vs_head_dim_and_the_scale_does_not_depend_on_it():
    request = bare(Fa2FwdRequest, head_dim=192, head_dim_v=np.int64(128))
    assert type(request.head_dim_v) is int
    assert request.kernel_name() == "flashactor::fa3::fwd<bf16, 192, full>_v128"
    assert request.dispatch_key() == bare(Fa2FwdRequest, head_dim=192).dispatch_key()
    assert request.scale == pytest.approx(192**-0.5)


@pytest.mark.parametrize(
    ("mask", "suffix"),
    [
        (MaskKind.sliding(127, 64), "_sw128_r64"),
        (MaskKind.sliding(127, -1), "_sw128_rinf"),
        (MaskKind.sliding(-1, 64), "_r64"),
        (MaskKind.sliding(127, 127), "_sw128"),
    ],
)
def test_the_name_says_the_right_end_of_a_window(mask, suffix):
    request = bare(Fa2FwdRequest, mask=mask)
    assert request.kernel_name() == f"flashactor::fa3::fwd<bf16, 64, full>{suffix}"
    assert not request.dispatch_key().causal


def test_sinks_need_a_left_end_that_hides_something():
    assert bare(Fa2FwdRequest, mask=MaskKind.sliding(0, -1), sink_tokens=4).sink_tokens == 4
    with pytest.raises(Exception, match="sink_tokens"):
        bare(Fa2FwdRequest, mask=MaskKind.sliding(-1, 4), sink_tokens=4)


@EVERY_TYPE
def test_batch_invariance_is_yes_or_no(request_type):
    with pytest.raises(RequestError, match="batch_invariant"):
        bare(request_type, batch_invariant=1)


def test_v_brings_its_own_head_dim():
    v, out = zeros(2, 7, 2, 128), zeros(2, 5, 8, 128)
    request = Fa2FwdRequest.from_arrays(**dense(v=v, out=out), batch_invariant=True)
    assert (request.head_dim, request.head_dim_v, request.batch_invariant) == (64, 128, True)
    grads = {"dout": out, "out": out, "dv": zeros(2, 7, 2, 128)}
    assert Fa2BwdRequest.from_arrays(**backward(v=v, **grads)).kernel_name().endswith("_v128")
    request = VarlenFwdRequest.from_arrays(**packed(v=zeros(12, 2, 32), out=zeros(10, 8, 32)))
    assert request.head_dim_v == 32


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"v": zeros(2, 7, 2, 128), "out": zeros(2, 5, 8, 64)}, OperandError, "out.shape"),
        ({"v": zeros(2, 7, 2, 104)[..., :100]}, UnsupportedHeadDimError, "head_dim_v"),
        ({"head_dim_v": 64}, RequestError, "head_dim_v"),
    ],
    ids=str,
)
def test_arrays_that_contradict_vs_head_dim(changes, error, field):
    with pytest.raises(error) as caught:
        Fa2FwdRequest.from_arrays(**dense(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dout": zeros(2, 5, 8, 64)}, "dout.shape"),
        ({"dv": zeros(2, 7, 2, 64)}, "dv.shape"),
    ],
    ids=str,
)
def test_gradients_have_vs_head_dim(changes, field):
    wide = {"v": zeros(2, 7, 2, 128), "out": zeros(2, 5, 8, 128), "dout": zeros(2, 5, 8, 128)}
    with pytest.raises(OperandError) as caught:
        Fa2BwdRequest.from_arrays(**backward(**{**wide, **changes}))
    assert caught.value.field == field


MAKERS = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda **a: Fa2FwdRequest.from_arrays(**dense(**a)), id="dense"),
        pytest.param(lambda **a: Fa2BwdRequest.from_arrays(**backward(**a)), id="backward"),
        pytest.param(lambda **a: VarlenFwdRequest.from_arrays(**packed(**a)), id="packed"),
        pytest.param(lambda **a: Fa2FwdFp8Request.from_arrays(**fp8(**a)), id="fp8"),
    ],
)


@MAKERS
def test_a_workspace(make):
    assert make(workspace=np.zeros(256, np.uint8)).operands.workspace.size == 256
    assert make(workspace=torch.zeros(0, dtype=torch.uint8)).operands.workspace.size == 0
    assert make().operands.workspace is None


@MAKERS
@pytest.mark.parametrize(
    ("workspace", "field"),
    [
        (np.zeros((2, 16), np.uint8), "workspace.ndim"),
        (np.zeros(16, np.float32), "workspace.dtype"),
        (np.zeros(32, np.uint8)[::2], "workspace.strides"),
        (np.zeros(32, np.uint8)[1:], "workspace.pointer"),
        (np.broadcast_to(np.uint8(0), (32,)), "workspace.strides"),
        (np.frombuffer(bytes(32), np.uint8), "workspace"),
        ("x", "workspace"),
    ],
    ids=str,
)
def test_a_workspace_that_kernels_cannot_use(make, workspace, field):
    with pytest.raises(OperandError) as caught:
        make(workspace=workspace)
    assert caught.value.field == field


def packed_backward(**changes):
    rest = {"dout": zeros(10, 8, 64), "out": zeros(10, 8, 64), "lse": zeros(8, 10, dtype=np.float32)}
    return packed(**{**rest, **changes})


PACKED = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda **a: VarlenFwdRequest.from_arrays(**packed(**a)), id="forward"),
        pytest.param(lambda **a: VarlenBwdRequest.from_arrays(**packed_backward(**a)), id="backward"),
    ],
)


@PACKED
def test_used_lengths(make):
    request = make(seqused_q=ints(4, 0, 1), seqused_k=ints(0, 1, 6))
    assert request.offsets.seqused_q.shape == (3,)
    assert request.seqlens.total_q_tokens == 10
    assert make(seqused_k=ints(0, 1, 6)).offsets.seqused_q is None


@PACKED
@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"seqused_q": ints(4, 1, 6)}, SeqlenOverflowError, "seqused_q[1]"),
        ({"seqused_k": ints(5, 1, -1)}, SeqlenOverflowError, "seqused_k[2]"),
        ({"seqused_k": ints(5, 1)}, OperandError, "seqused_k.shape"),
        ({"seqused_q": np.zeros(3)}, OperandError, "seqused_q.dtype"),
        ({"seqused_q": ints(0, 0, 0).reshape(1, 3)}, OperandError, "seqused_q.ndim"),
    ],
    ids=str,
)
def test_used_lengths_that_cannot_be(make, changes, error, field):
    with pytest.raises(error) as caught:
        make(**changes)
    assert caught.value.field == field


def test_used_lengths_on_a_device_are_not_read():
    arguments = on_device(packed(seqused_q=ints(99, 0, 0)))
    request = VarlenFwdRequest.from_arrays(**arguments, max_seqlen_q=6, max_seqlen_k=6)
    assert request.offsets.seqused_q.shape == (3,)


SLOPES = {"alibi_slopes": np.ones((2, 8), np.float32), "dalibi_slopes": np.ones((2, 8), np.float32)}
SINKS = {"sink_logits": np.ones(8, np.float32), "dsink_logits": np.ones(8, np.float32)}


def test_gradients_of_slopes_and_sinks():
    request = Fa2BwdRequest.from_arrays(**backward(**SLOPES, **SINKS))
    assert request.gradients.dalibi_slopes.shape == (2, 8)
    assert request.gradients.dsink_logits.shape == (8,)
    request = VarlenBwdRequest.from_arrays(**packed_backward(**SINKS))
    assert request.gradients.dsink_logits.shape == (8,)
    request = Fa2BwdRequest.from_arrays(**backward(sink_logits=SINKS["sink_logits"]))
    assert request.gradients.dsink_logits is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dsink_logits": np.ones(8, np.float32)}, "dsink_logits"),
        ({"dalibi_slopes": np.ones(8, np.float32)}, "dalibi_slopes"),
        ({**SINKS, "dsink_logits": np.ones(8)}, "dsink_logits.dtype"),
        ({**SINKS, "dsink_logits": np.ones(2, np.float32)}, "dsink_logits.shape"),
        ({**SLOPES, "dalibi_slopes": np.ones(8, np.float32)}, "dalibi_slopes.shape"),
    ],
    ids=str,
)
def test_gradients_of_slopes_and_sinks_that_do_not_fit(changes, field):
    with pytest.raises(OperandError) as caught:
        Fa2BwdRequest.from_arrays(**backward(**changes))
    assert caught.value.field == field


def test_arrays_by_name():
    optional = {**SINKS, "dq": zeros(2, 5, 8, 64), "workspace": np.zeros(16, np.uint8)}
    request = Fa2BwdRequest.from_arrays(**backward(**optional))
    assert list(request.arrays()) == [
        *("q", "k", "v", "out", "lse", "sink_logits", "workspace", "dout", "dq", "dsink_logits")
    ]
    request = VarlenBwdRequest.from_arrays(**packed_backward(seqused_k=ints(0, 1, 6)))
    assert list(request.arrays()) == [
        *("q", "k", "v", "out", "lse", "dout", "cu_seqlens_q", "cu_seqlens_k", "seqused_k")
    ]
    request = Fa2FwdFp8Request.from_arrays(**fp8(q_scale=np.ones(1, np.float32), v_scale=2.0))
    assert list(request.arrays()) == ["q", "k", "v", "q_scale"]
    assert request.arrays()["q"] is request.operands.q
