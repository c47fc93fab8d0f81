"""Numbers of any library are kept as Python floats; what is none is a typed error."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch

from flashactor import DType, Fa2FwdFp8Request, Fa2FwdRequest, SmArch
from flashactor.errors import FlashAttnError, RequestError

X = np.zeros((1, 4, 2, 64), ml_dtypes.float8_e4m3fn)
MAKERS = {
    "softmax_scale": lambda x: Fa2FwdRequest(None, DType.F16, 64, softmax_scale=x).softmax_scale,
    "softcap": lambda x: Fa2FwdRequest(None, DType.F16, 64, softcap=x).softcap,
    "dropout_p": lambda x: Fa2FwdRequest(None, DType.F16, 64, dropout_p=x).dropout_p,
    "k_scale": lambda x: Fa2FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 64, k_scale=x).k_scale,
    "q_scale": lambda x: Fa2FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 64, q_scale=x).q_scale,
}
NONSENSE = [
    "x",
    b"x",
    np.ones(2),
    np.ones(1),
    10**400,
    10**5000,
    -(10**400),
    1j,
    [0.5],
    torch.ones(3),
    {},
]
EVERY_NUMBER = pytest.mark.parametrize("name", MAKERS)


@EVERY_NUMBER
def test_numbers_are_python_floats(name):
    for number in (0.5, np.float16(0.5), np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)):
        kept = MAKERS[name](number)
        assert type(kept) is float
        assert kept == 0.5


@EVERY_NUMBER
@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_what_is_no_number(name, nonsense):
    with pytest.raises(RequestError) as caught:
        MAKERS[name](nonsense)
    assert caught.value.field == name
    assert str(caught.value)


@pytest.mark.parametrize("number", [np.float16(0.5), np.float32(0.5), 0.5, Fraction(1, 2)])
def test_a_descale_beside_arrays(number):
    request = Fa2FwdFp8Request.from_arrays(X, X, X, k_scale=number)
    assert type(request.k_scale) is float
    assert request.k_scale == 0.5


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_no_descale_beside_arrays(nonsense):
    with pytest.raises(FlashAttnError, match="k_scale"):
        Fa2FwdFp8Request.from_arrays(X, X, X, k_scale=nonsense)
