"""The formula in low precision: as far from the exact one as the type's rounding says."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch_attention import CASES, Case

from flashactor.reference import AttentionParams, forward, forward_low_precision

# type, type of the output, half a unit in its last place at 1
TYPES = {
    "f16": (np.float16, np.float16, 2.0**-11),
    "bf16": (ml_dtypes.bfloat16, ml_dtypes.bfloat16, 2.0**-8),
    "e4m3": (ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16, 2.0**-4),
    "e5m2": (ml_dtypes.float8_e5m2, ml_dtypes.bfloat16, 2.0**-3),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_error_is_that_of_the_type(case: Case, name: str) -> None:
    dtype, out_type, unit = TYPES[name]
    q, k, v = (x.astype(dtype) for x in case.arrays())
    out, lse = forward_low_precision(q, k, v, case.params(), name)
    exact, exact_lse = forward(q, k, v, case.params())
    assert out.dtype == out_type
    assert lse.dtype == np.float32
    error = np.abs(out.astype(np.float64) - exact).max()
    largest = np.abs(v.astype(np.float64)).max()
    assert error <= 2 * unit * largest
    if case.name == "full":
        assert error >= unit / 64
        assert (lse != exact_lse.astype(np.float32)).any()  # sums in float32, not float64 rounded at the end
    np.testing.assert_allclose(lse, exact_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_bit_for_bit_the_formula_in_torch(name: str) -> None:
    """Small integers make every sum exact, so only the roundings of the contract remain."""
    rng = np.random.default_rng(61)
    dtype = TYPES[name][0]
    torch_type = {"f16": torch.float16, "bf16": torch.bfloat16}[name]
    q, k, v = (rng.integers(-2, 3, (1, 32, 1, 8)).astype(dtype) for _ in range(3))
    out, lse = forward_low_precision(q, k, v, AttentionParams(0.25), name)
    tq, tk, tv = (torch.from_numpy(x.astype(np.float32))[0, :, 0] for x in (q, k, v))
    scores = 0.25 * (tq @ tk.T)
    exp_scores = (scores - scores.amax(dim=1, keepdim=True)).exp()
    product = exp_scores.to(torch_type).float() @ tv
    expected = (product / exp_scores.sum(dim=1, keepdim=True)).to(torch_type)
    same = out[0, :, 0].astype(np.float32) == expected.float().numpy()
    assert same.mean() > 0.99  # libm's exp and the order of the row sum may differ in the last bit
    np.testing.assert_allclose(lse[0, 0], torch.logsumexp(scores, dim=1).numpy(), rtol=1e-6)


def test_inputs_of_another_type_are_rounded_first() -> None:
    q, k, v = CASES[0].arrays()
    params = CASES[0].params()
    out, lse = forward_low_precision(q, k, v, params, "float16")
    rounded = forward_low_precision(*(x.astype(np.float16) for x in (q, k, v)), params, "f16")
    np.testing.assert_array_equal(out, rounded[0])
    np.testing.assert_array_equal(lse, rounded[1])


def test_dropout_drops_the_same_weights() -> None:
    q, k, v = (x.astype(np.float16) for x in CASES[0].arrays())
    params = AttentionParams(0.3, dropout_p=0.5, dropout_seed=5)
    out, _ = forward_low_precision(q, k, v, params, "f16")
    np.testing.assert_allclose(out.astype(np.float64), forward(q, k, v, params)[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_fp8_weights_use_the_range_of_e4m3(name: str) -> None:
    """A thousand keys of weight 2**-10.1 are as much as the one of weight 1, and below e4m3's 2**-9."""
    q, k, v = np.ones((1, 1, 1, 8)), np.zeros((1, 1001, 1, 8)), np.ones((1, 1001, 1, 8))
    k[0, 0], v[0, 0] = 1.0, 0.0
    params = AttentionParams(7.0 / 8)
    out, _ = forward_low_precision(q, k, v, params, name)
    np.testing.assert_allclose(out.astype(np.float64), forward(q, k, v, params)[0], rtol=2.0**-4)


def test_fp8_types_may_differ_and_out_may_be_f16() -> None:
    case = CASES[0]
    e4m3, e5m2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
    q, k, v = (x.astype(dtype) for x, dtype in zip(case.arrays(), (e4m3, e5m2, e4m3), strict=True))
    k[0, 0, 0, 0] = 57344.0  # more than e4m3 holds
    q[0, :, 0, 0] = 0.0
    out, _ = forward_low_precision(q, k, v, case.params(), "e4m3", "f16")
    assert out.dtype == np.float16
    np.testing.assert_allclose(out.astype(np.float64), forward(q, k, v, case.params())[0], rtol=0, atol=0.2)
