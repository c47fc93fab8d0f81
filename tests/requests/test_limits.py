"""What kernels cannot load or multiply is refused where the request is made."""

import ml_dtypes
import numpy as np
import pytest
from request_arrays import on_device

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    CumulativeSeqlens,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    PagedAttentionRequest,
    PagedKvCache,
    VarlenBwdRequest,
)
from flashactor.arrays import ArrayView, Device
from flashactor.errors import OperandError, RequestError, SeqlenOverflowError
from flashactor.requests.checks import check_dense

SHAPE = (1, 20, 2, 64)
Q = np.zeros(SHAPE, np.float16)
LSE = np.zeros((1, 2, 20), np.float32)
OFFSETS = {name: np.array([0, 20], np.int32) for name in ("cu_seqlens_q", "cu_seqlens_k")}
E4M3 = ml_dtypes.float8_e4m3fn


def backward(dout=Q, out=Q, lse=LSE, **options):
    return Fa2BwdRequest.from_arrays(dout, Q, Q, Q, out, lse, **options)


def sparse():
    """Every other element of a row."""
    return np.zeros((*SHAPE[:-1], 128), np.float16)[..., ::2]


def test_a_broadcast_gradient_is_refused():
    with pytest.raises(OperandError, match=r"dout\.strides"):
        backward(dout=np.broadcast_to(np.float16(1), SHAPE))


@pytest.mark.parametrize("name", ["dout", "dq", "dk", "dv"])
def test_gradients_need_contiguous_rows(name):
    with pytest.raises(OperandError, match=rf"{name}\.strides"):
        backward(**{name: sparse()})


def test_a_backward_pass_only_reads_the_results():
    out, lse = Q.copy(), LSE.copy()
    for array in (out, lse):
        array.setflags(write=False)
    assert backward(out=out, lse=lse).require_operands().out is not None
    with pytest.raises(OperandError, match="read-only"):
        Fa2FwdRequest.from_arrays(Q, Q, Q, out=out)


@pytest.mark.parametrize("name", ["out", "lse"])
def test_a_backward_pass_needs_the_results(name):
    with pytest.raises(OperandError, match=f"{name}: got nothing; expected the {name} of the forward pass"):
        backward(**{name: None})
    arrays = {"out": Q[0], "lse": LSE[0]}
    assert VarlenBwdRequest.from_arrays(Q[0], Q[0], Q[0], Q[0], **arrays, **OFFSETS).operands.lse is not None
    with pytest.raises(OperandError, match=f"{name}: got nothing"):
        VarlenBwdRequest.from_arrays(Q[0], Q[0], Q[0], Q[0], **{**arrays, name: None}, **OFFSETS)


@pytest.mark.parametrize("name", ["softmax_scale", "softcap"])
@pytest.mark.parametrize("value", [1e-46, 1e-19, 1e19, 3e38])
def test_factors_of_scores_stay_within_float32(name, value):
    with pytest.raises(RequestError, match=rf"{name}.*1e-18 to 1e\+18"):
        Fa2FwdRequest.from_arrays(Q, Q, Q, **{name: value})


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-50, 1e39])
def test_so_do_descales_of_caches(value):
    cache = np.zeros((2, 16, 2, 64), ml_dtypes.float8_e4m3fn)
    table, lens = np.array([[0, 1]], np.int32), np.array([20], np.int32)
    with pytest.raises(RequestError, match="k_scale"):
        PagedAttentionRequest.from_arrays(Q[:, :1], cache, cache, table, lens, k_scale=value)


def test_so_do_descales_of_operands():
    x = np.zeros(SHAPE, ml_dtypes.float8_e4m3fn)
    with pytest.raises(RequestError, match="v_scale"):
        Fa2FwdFp8Request.from_arrays(x, x, x, v_scale=-1e39)


def cached(kind, dtype, **scales):
    """A request over a cache of a type."""
    if kind == "paged":
        cache = np.zeros((2, 16, 2, 64), dtype)
        table, lens = np.array([[0, 1]], np.int32), np.array([20], np.int32)
        return PagedAttentionRequest.from_arrays(Q[:, :1], cache, cache, table, lens, **scales)
    caches = [np.zeros((1, 32, 2, 64), dtype) for _ in "kv"]
    return ChunkedPrefillRequest.from_arrays(Q, Q, Q, *caches, chunk=ChunkLayout(20, 3), **scales)


KINDS = pytest.mark.parametrize("kind", ["paged", "chunked"])
SCALES = pytest.mark.parametrize("name", ["k_scale", "v_scale"])


@KINDS
@SCALES
def test_scales_are_for_fp8_caches(kind, name):
    for value in (2.0, np.ones(1, np.float32)):
        assert getattr(cached(kind, E4M3, **{name: value}), name) is not None
        with pytest.raises(RequestError, match=rf"{name}.*scales are for fp8 caches"):
            cached(kind, np.float16, **{name: value})
    assert getattr(cached(kind, np.float16, **{name: 1}), name) == 1.0


LEGAL_SCALES = [0.5, 1e-17, 1e17]
NO_SCALES = [float("nan"), float("inf"), -float("inf"), 1e19]


@KINDS
@SCALES
def test_descales_of_caches_in_arrays(kind, name):
    for value in LEGAL_SCALES:
        cached(kind, E4M3, **{name: np.array([1, value], np.float32)})
    for value in (*NO_SCALES, 0.0, -1.0, 1e-19):
        with pytest.raises(RequestError, match=rf"{name}.*from 1e-18 to 1e\+18"):
            cached(kind, E4M3, **{name: np.array([1, value], np.float32)})


@pytest.mark.parametrize("name", ["q_scale", "k_scale", "v_scale"])
def test_descales_of_operands_in_arrays(name):
    x = np.zeros(SHAPE, E4M3)
    negative = {-1.0} if name == "v_scale" else set()
    for value in (0.0, *LEGAL_SCALES, *negative):
        Fa2FwdFp8Request.from_arrays(x, x, x, **{name: np.array([1, value], np.float32)})
    for value in {*NO_SCALES, -1.0} - negative:
        with pytest.raises(RequestError, match=name):
            Fa2FwdFp8Request.from_arrays(x, x, x, **{name: np.array([1, value], np.float32)})


def test_descales_on_a_device_are_not_read():
    x = np.zeros(SHAPE, E4M3)
    scale = np.full(2, np.nan, np.float32)
    request = Fa2FwdFp8Request.from_arrays(**on_device({"q": x, "k": x, "v": x, "k_scale": scale}))
    assert request.arrays()["k_scale"].size == 2


LONGEST = 2**30
LENGTHS = {
    "max_seqlen_q": lambda n: CumulativeSeqlens(1, n, 1, n, 1),
    "max_seqlen_kv": lambda n: CumulativeSeqlens(1, 1, n, 1, n),
    "prefix": lambda n: ChunkLayout(4, n - 4),
    "chunk": lambda n: ChunkLayout(n, 0),
    "pages": lambda n: PagedKvCache(1, 8, 1, 64, -(-n // 8)),
    "seqlen_q": lambda n: check_dense(*dense_views(n, 4)),
    "seqlen_k": lambda n: check_dense(*dense_views(4, n)),
}


def dense_views(seqlen_q, seqlen_k):
    return [
        ArrayView.of(np.broadcast_to(Q[0, 0], (1, n, 2, 64)), "x") for n in (seqlen_q, seqlen_k, seqlen_k)
    ]


@pytest.mark.parametrize("make", LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_kernels_can_count_to(make):
    make(LONGEST)
    with pytest.raises(SeqlenOverflowError, match="1073741824"):
        make(LONGEST + 1)


def test_sizes_that_can_be_addressed():
    def request(batch):
        shapes = {"q": (batch, 2**24, 8, 64), "k": (batch, 4, 8, 64)}
        q, k = (fake(shape) for shape in shapes.values())
        return Fa2FwdRequest.from_arrays(q, k, k)

    assert request(2**20).operands.q.shape[0] == 2**20
    with pytest.raises(OperandError, match=r"q\.shape"):
        request(2**40)
    with pytest.raises(SeqlenOverflowError, match="batch_size"):
        CumulativeSeqlens(2**40, 2**30, 1, 1, 1)


def fake(shape):
    """An array of a device, of which there is only its description."""
    strides = tuple(int(np.prod(shape[i + 1 :], dtype=object)) for i in range(len(shape)))
    return ArrayView(shape, strides, "float16", Device("cuda"), 0x1000, "none", None)
