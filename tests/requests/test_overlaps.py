"""Arrays that are written have memory of their own; what is only read may share it."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from request_arrays import backward, chunked, dense, ints, merge, on_device, packed, paged, zeros

from flashactor import (
    ChunkedPrefillRequest,
    Fa2BwdRequest,
    Fa2FwdRequest,
    MergeStatesRequest,
    PagedAttentionRequest,
    VarlenFwdRequest,
)
from flashactor.arrays import ArrayView
from flashactor.errors import OperandError

QKV = zeros(2, 5, 3, 8, 64)
GRADS = zeros(2, 5, 3, 8, 64)
LSE = np.zeros((2, 8, 5), np.float32)


def slices(buffer, prefix=""):
    return {f"{prefix}{name}": buffer[:, :, index] for index, name in enumerate("qkv")}


def test_slices_of_one_buffer_are_apart():
    request = Fa2BwdRequest.from_arrays(**backward(**slices(QKV), **slices(GRADS, "d")))
    assert request.gradients.dk.pointer == GRADS.ctypes.data + 8 * 64 * 2
    heads = zeros(2, 5, 24, 64)
    parts = {f"d{name}": heads[:, :, 8 * i : 8 * i + 8] for i, name in enumerate("qkv")}
    assert Fa2BwdRequest.from_arrays(**backward(**slices(QKV), **parts)).gradients.dv is not None
    pool = zeros(10, 2, 16, 2, 64)  # of pages that hold keys, then values
    caches = {"k_cache": pool[:, 0], "v_cache": pool[:, 1], "page_table": ints(1, 2).reshape(2, 1)}
    assert ChunkedPrefillRequest.from_arrays(**chunked(**caches)).paged


def test_what_is_read_may_share_memory():
    x = zeros(2, 5, 8, 64)
    assert Fa2FwdRequest.from_arrays(x, x, x, out=zeros(2, 5, 8, 64)).operands.out is not None
    cache = zeros(10, 16, 2, 64)
    request = PagedAttentionRequest.from_arrays(**paged(k_cache=cache, v_cache=cache, out=zeros(2, 1, 8, 64)))
    assert request.operands.k.pointer == request.operands.v.pointer


Q = zeros(2, 5, 8, 64)
K = zeros(2, 7, 2, 64)
ROWS = zeros(2, 16, 2, 64)
BYTES = np.zeros(2 * 5 * 8 * 64 * 2, np.uint8)
CASES = {
    "out over q": (Fa2FwdRequest, dense(q=Q, out=Q), "out"),
    "out over a part of q": (Fa2FwdRequest, dense(q=(qo := zeros(3, 5, 8, 64))[:2], out=qo[1:]), "out"),
    "lse over workspace": (
        Fa2FwdRequest,
        dense(lse=BYTES[: LSE.nbytes].view(np.float32).reshape(LSE.shape), workspace=BYTES),
        "lse",
    ),
    "workspace over q": (
        Fa2FwdRequest,
        dense(q=BYTES.view(ml_dtypes.bfloat16).reshape(2, 5, 8, 64), workspace=BYTES),
        "workspace",
    ),
    "dq over dout": (Fa2BwdRequest, backward(dout=Q, dq=Q), "dq"),
    "dk over dv": (Fa2BwdRequest, backward(dk=K, dv=K), "dk"),
    "dk over k": (Fa2BwdRequest, backward(k=K, dk=K), "dk"),
    "dq over out": (Fa2BwdRequest, backward(out=Q, dq=Q), "dq"),
    "caches": (ChunkedPrefillRequest, chunked(k_cache=ROWS, v_cache=ROWS), "k_cache"),
    "k in its cache": (ChunkedPrefillRequest, chunked(k=ROWS[:, :4], k_cache=ROWS), "k_cache"),
    "out over packed q": (VarlenFwdRequest, packed(q=(pq := zeros(10, 8, 64)), out=pq), "out"),
    "paged out over q": (PagedAttentionRequest, paged(q=(dq := zeros(2, 1, 8, 64)), out=dq), "out"),
}


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize(("request_type", "arguments", "field"), CASES.values(), ids=CASES)
def test_what_is_written_shares_no_memory(request_type, arguments, field, where):
    if where == "device":
        arguments = on_device(arguments)
        if "cu_seqlens_q" in arguments:
            arguments |= {"max_seqlen_q": 6, "max_seqlen_k": 6}
    with pytest.raises(OperandError, match="share") as caught:
        request_type.from_arrays(**arguments)
    assert caught.value.field == field


def test_a_merge_may_write_over_a_state():
    states = merge()
    request = MergeStatesRequest.from_arrays(**states, out=states["out_a"], lse=states["lse_b"])
    assert request.states.out.pointer == request.states.out_a.pointer
    rows = zeros(2, 6, 8, 64)
    with pytest.raises(OperandError, match="out_b shares"):
        MergeStatesRequest.from_arrays(**merge(out_b=rows[:, :5]), out=rows[:, 1:])
    turned = zeros(2, 5, 8, 64)
    with pytest.raises(OperandError, match="out_a shares"):
        MergeStatesRequest.from_arrays(**merge(out_a=turned), out=turned[:, ::-1])


@pytest.mark.parametrize("strides", [(2560, 512, 32, 1), (1280, 512, 64, 1), (0, 512, 64, 1)])
def test_elements_of_one_array_have_an_address_each(strides):
    view = replace(ArrayView.of(zeros(2, 5, 8, 64), "out"), strides=strides)
    with pytest.raises(OperandError) as caught:
        Fa2FwdRequest.from_arrays(**dense(out=view))
    assert caught.value.field == "out.strides"


def test_any_order_and_padding_of_dimensions_is_legal():
    out = zeros(2, 8, 9, 72).transpose(0, 2, 1, 3)[:, :5, :, :64]
    assert Fa2FwdRequest.from_arrays(**dense(out=out, lse=LSE[..., ::-1])).operands.out.shape == (2, 5, 8, 64)
