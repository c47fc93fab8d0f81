"""fp8 with descales."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch_attention import CASES, attention_of

from flashactor.errors import OperandError, RequestError
from flashactor.reference import AttentionParams, dequantize, forward, quantize

FP8 = {"e4m3": (torch.float8_e4m3fn, 448.0, 2.0**-4), "e5m2": (torch.float8_e5m2, 57344.0, 2.0**-3)}


@pytest.mark.parametrize("name", FP8)
@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e6])
def test_quantize_uses_the_whole_range_and_rounds_as_torch_does(name: str, magnitude: float) -> None:
    torch_type, limit, step = FP8[name]
    x = magnitude * np.random.default_rng(51).standard_normal((3, 40, 2, 16))
    quantized, descale = quantize(x, name)
    assert np.abs(quantized.astype(np.float64)).max() == limit
    assert descale == np.float32(descale)
    by_torch = torch.from_numpy(x / descale).clamp(-limit, limit).float().to(torch_type).double().numpy()
    agree = quantized.astype(np.float64) == by_torch
    assert agree.mean() > 0.9999  # torch comes from float64 by way of float32, and rounds twice
    back = dequantize(quantized, descale)
    assert back.dtype == np.float64
    np.testing.assert_allclose(back, x, rtol=step, atol=np.abs(x).max() * step / 64)


@pytest.mark.parametrize("name", FP8)
@pytest.mark.parametrize(
    "scale",
    [0.0, 1e-60, 0.4 * 2.0**-149, 1.4 * 2.0**-149],
    ids=["zero", "far-too-small", "rounds-to-zero", "rounds-down"],
)
def test_quantize_without_a_precise_scale_stays_finite(name: str, scale: float) -> None:
    """2**-149 is the smallest float32, so the descale rounds to it, or to 0, by much."""
    quantized, descale = quantize(np.full((4, 2, 8), FP8[name][1] * scale), name)
    assert np.isfinite(quantized.astype(np.float64)).all()
    assert descale > 0


def test_quantize_of_nothing() -> None:
    quantized, descale = quantize(np.zeros((0, 2, 8)), "e4m3")
    assert quantized.shape == (0, 2, 8)
    assert quantized.dtype == ml_dtypes.float8_e4m3fn
    assert descale == 1.0


def test_unknown_type() -> None:
    with pytest.raises(RequestError, match="dtype"):
        quantize(np.ones(3), "e3m4")


def test_descales_per_head() -> None:
    x = np.random.default_rng(52).standard_normal((2, 5, 3, 8)).astype(ml_dtypes.float8_e5m2)
    descale = np.array([0.5, 2.0, 3.0], dtype=np.float32)
    expected = torch.from_numpy(x.astype(np.float64)) * torch.from_numpy(descale).double()[:, None]
    np.testing.assert_array_equal(dequantize(x, descale), expected.numpy())
    with pytest.raises(OperandError, match="descale"):
        dequantize(x, descale[:2])


@pytest.mark.parametrize("name", FP8)
@pytest.mark.parametrize("per_head", [False, True], ids=["per-tensor", "per-head"])
def test_attention_on_fp8_operands_with_descales(name: str, per_head: bool) -> None:
    case = next(case for case in CASES if case.name == "mqa-causal")
    torch_type = FP8[name][0]
    operands, tensors = [], []
    for x in case.arrays():
        quantized, descale = quantize(x, name)
        factor = descale * np.linspace(0.5, 2.0, x.shape[2]) if per_head else np.full(x.shape[2], descale)
        operands.append(dequantize(quantized, factor if per_head else descale))
        bits = torch.from_numpy(quantized.view(np.uint8)).view(torch_type)
        tensors.append(bits.double() * torch.from_numpy(factor)[:, None])
    out, lse = forward(*operands, case.params())
    expected, expected_lse = attention_of(case.params(), case.mask(), *tensors)
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lse, expected_lse.numpy(), rtol=1e-12, atol=1e-12)


def test_scalar_descales_may_move_into_the_scale_and_the_output() -> None:
    (q, q_scale), (k, k_scale), (v, v_scale) = (quantize(x, "e4m3") for x in CASES[0].arrays())
    moved = forward(q, k, v, AttentionParams(0.3 * q_scale * k_scale))[0] * v_scale
    direct = forward(
        dequantize(q, q_scale), dequantize(k, k_scale), dequantize(v, v_scale), AttentionParams(0.3)
    )[0]
    np.testing.assert_allclose(moved, direct, rtol=1e-12, atol=1e-12)
