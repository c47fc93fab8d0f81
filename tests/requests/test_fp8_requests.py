"""Requests over fp8 operands: types, scales, architectures."""

import ml_dtypes
import numpy as np
import pytest
from request_arrays import fp8, zeros

from flashactor import DType, Fa2FwdFp8Request, Fa2FwdRequest, Fa3FwdFp8Request, Fa3FwdRequest, SmArch
from flashactor.errors import (
    Fa3RequiresHopperError,
    Fp8MustUseFp8RequestError,
    Fp8RequiresHopperError,
    OperandError,
    RequestError,
)

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
BOTH = pytest.mark.parametrize("request_type", [Fa2FwdFp8Request, Fa3FwdFp8Request])


def test_the_generations_differ_in_their_architectures():
    assert Fa2FwdFp8Request(None, DType.F8E4M3, 128).dispatch_key().arch is SmArch.SM89
    assert Fa3FwdFp8Request(None, DType.F8E4M3, 128).dispatch_key().arch is SmArch.SM90A
    assert Fa2FwdFp8Request(SmArch.SM120, DType.F8E4M3, 128).kernel_name() == (
        "flashactor::fa2::fwd<e4m3, 128, full>"
    )
    with pytest.raises(Fp8RequiresHopperError):
        Fa2FwdFp8Request(SmArch.SM86, DType.F8E4M3, 128)
    with pytest.raises(Fa3RequiresHopperError):
        Fa3FwdFp8Request(SmArch.SM89, DType.F8E4M3, 128)


def test_an_fa3_request_is_one_of_both_kinds():
    request = Fa3FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 128)
    assert isinstance(request, Fa2FwdFp8Request)
    assert isinstance(request, Fa3FwdRequest)
    assert not request.is_persistent


@pytest.mark.parametrize(
    ("kv_dtype", "v_dtype", "suffix"),
    [
        (None, None, ""),
        (DType.F8E5M2, None, "_kv_e5m2"),
        (None, DType.F8E5M2, "_v_e5m2"),
        (DType.F8E5M2, DType.F8E4M3, "_kv_e5m2_v_e4m3"),
    ],
)
@BOTH
def test_the_name_says_which_types_differ(request_type, kv_dtype, v_dtype, suffix):
    request = request_type(SmArch.SM90A, DType.F8E4M3, 128, kv_dtype=kv_dtype, v_dtype=v_dtype)
    assert request.kernel_name() == f"flashactor::fa3::fwd<e4m3, 128, full>{suffix}"
    assert request.kv_dtype is (kv_dtype or DType.F8E4M3)
    assert request.v_dtype is (v_dtype or request.kv_dtype)


@BOTH
@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"v_dtype": DType.BF16}, Fp8MustUseFp8RequestError, "v_dtype"),
        ({"kv_dtype": "e4m3"}, Fp8MustUseFp8RequestError, "kv_dtype"),
        ({"out_dtype": DType.F8E4M3}, RequestError, "out_dtype"),
        ({"out_dtype": None}, RequestError, "out_dtype"),
        ({"q_scale": float("inf")}, RequestError, "q_scale"),
        ({"v_scale": "x"}, RequestError, "v_scale"),
        ({"dtype": "e4m3"}, RequestError, "dtype"),
    ],
    ids=str,
)
def test_rules_of_the_cell(request_type, fields, error, field):
    with pytest.raises(error) as caught:
        request_type(**{"arch": SmArch.SM90A, "dtype": DType.F8E4M3, "head_dim": 64, **fields})
    assert caught.value.field == field
    assert caught.value.remedy


def test_an_fp8_q_needs_an_fp8_request():
    with pytest.raises(Fp8MustUseFp8RequestError, match="Fa2FwdFp8Request"):
        Fa2FwdRequest(SmArch.SM90A, DType.F8E4M3, 128)


def test_fp8_inference():
    e5m2 = {name: zeros(1, 4, 2, 64, dtype=ml_dtypes.float8_e5m2) for name in "kv"}
    request = Fa3FwdFp8Request.from_arrays(**fp8(**e5m2), q_scale=0.5, v_scale=np.ones(1, np.float32))
    assert request.fp8_dtypes == (DType.F8E4M3, DType.F8E5M2)
    assert request.kernel_name().endswith("_kv_e5m2")
    assert request.q_scale == 0.5
    assert request.v_scale.shape == (1,)
    assert request.out_dtype is DType.BF16


@BOTH
def test_v_may_have_its_own_type_and_head_dim(request_type):
    request = request_type.from_arrays(**fp8(v=zeros(1, 4, 2, 32, dtype=E5M2)), arch=SmArch.SM90A)
    assert (request.kv_dtype, request.v_dtype, request.head_dim_v) == (DType.F8E4M3, DType.F8E5M2, 32)
    assert request.kernel_name() == "flashactor::fa3::fwd<e4m3, 64, full>_v32_v_e5m2"


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, DType.BF16),
        ({"out_dtype": DType.F16}, DType.F16),
        ({"out": zeros(1, 4, 2, 64, dtype=np.float16)}, DType.F16),
        ({"out": zeros(1, 4, 2, 64, dtype=np.float16), "out_dtype": DType.F16}, DType.F16),
    ],
    ids=str,
)
def test_the_output_is_of_the_type_that_is_asked_for(options, dtype):
    assert Fa2FwdFp8Request.from_arrays(**fp8(**options)).out_dtype is dtype


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_scale_of_one_element_has_any_rank(shape):
    scale = np.ones(shape, np.float32)
    assert Fa2FwdFp8Request.from_arrays(**fp8(q_scale=scale)).q_scale.shape == shape


def test_scales_for_each_head():
    wide = {"q": zeros(1, 4, 6, 64, dtype=E4M3)}
    per_head = {"q_scale": np.ones(6, np.float32), "k_scale": np.ones(2, np.float32)}
    request = Fa2FwdFp8Request.from_arrays(**fp8(**wide, **per_head))
    assert (request.q_scale.shape, request.k_scale.shape, request.v_scale) == ((6,), (2,), 1.0)
    with pytest.raises(OperandError, match="q_scale"):
        Fa2FwdFp8Request.from_arrays(**fp8(**wide, q_scale=np.ones(2, np.float32)))


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"q": zeros(1, 4, 2, 64)}, OperandError, "q.dtype"),
        ({"k": zeros(1, 4, 2, 64)}, OperandError, "k.dtype"),
        ({"v": zeros(1, 4, 2, 64)}, OperandError, "v.dtype"),
        ({"q_scale": np.ones(3, np.float32)}, OperandError, "q_scale.shape"),
        ({"k_scale": np.ones((1, 2), np.float32)}, OperandError, "k_scale.shape"),
        ({"v_scale": "x"}, OperandError, "v_scale"),
        ({"out": zeros(1, 4, 2, 64), "out_dtype": DType.F16}, OperandError, "out_dtype"),
        ({"out_dtype": DType.F8E4M3}, RequestError, "out_dtype"),
        ({"q_scale": np.ones(1)}, OperandError, "q_scale.dtype"),
        ({"out": zeros(1, 4, 2, 64, dtype=ml_dtypes.float8_e4m3fn)}, OperandError, "out.dtype"),
    ],
    ids=str,
)
def test_fp8_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        Fa3FwdFp8Request.from_arrays(**fp8(**changes))
    assert caught.value.field == field
