"""The merge kernel in the emulator, against the reference."""

import ml_dtypes
import numpy as np
import pytest
from device_memory import Device, poison, strided, wasted

from flashactor.kernels.merge import merge_launch, merge_spec, merge_specs
from flashactor.reference import merge_states
from flashactor.types import DType, SmArch

DTYPES = {DType.F16: np.float16, DType.BF16: ml_dtypes.bfloat16}
ULP = {DType.F16: 2.0**-11, DType.BF16: 2.0**-8}
"""Half a unit in the last place, relative."""


def state(rng, shape, dtype):
    """out [..., rows, heads, head_dim] and lse [..., heads, rows]; lse far apart here and there."""
    out = rng.standard_normal(shape).astype(DTYPES[dtype])
    lse = rng.uniform(-4, 12, (*shape[:-3], shape[-2], shape[-3])).astype(np.float32)
    lse[rng.random(lse.shape) < 0.1] -= 200
    return out, lse


def run(dtype, out_a, lse_a, out_b, lse_b, out, lse, *, arch=SmArch.SM80, report=False):
    device = Device()
    named = {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}
    views = [device.view(array, name) for name, array in named.items()]
    results = [device.view(array, name, out=True) for name, array in (("out", out), ("lse", lse))]
    return device.run(merge_launch(merge_spec(arch, dtype), *views, *results), report=report)


def expect(dtype, out, lse, out_a, lse_a, out_b, lse_b):
    want_out, want_lse = merge_states(out_a, lse_a, out_b, lse_b)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-6, atol=1e-6)
    # One rounding of the result; the weights are exact to a few units of float32.
    np.testing.assert_allclose(out.astype(np.float64), want_out, rtol=1.01 * ULP[dtype], atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(2, 5, 3, 64), (1, 1, 2, 256), (33, 1, 3, 8), (7, 4, 128), (3, 9, 2, 24), (1, 11, 5, 192), (70, 2, 96)],
    ids=str,
)
def test_two_states_become_one(dtype, shape):
    rng = np.random.default_rng(3)
    a, b = state(rng, shape, dtype), state(rng, shape, dtype)
    out, lse = np.zeros_like(a[0]), np.zeros_like(a[1])
    run(dtype, *a, *b, out, lse)
    expect(dtype, out, lse, *a, *b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 2, 40), (5, 3, 64)], ids=str)
def test_strides_are_arbitrary(dtype, shape):
    rng = np.random.default_rng(4)
    a, b = state(rng, shape, dtype), state(rng, shape, dtype)
    out, lse = strided(np.zeros_like(a[0])), strided(np.zeros_like(a[1]))
    swapped = np.ascontiguousarray(a[0].swapaxes(-3, -2)).swapaxes(-3, -2)  # [..., heads, rows, head_dim]
    by_row = np.ascontiguousarray(b[1].swapaxes(-2, -1)).swapaxes(-2, -1)  # [..., rows, heads]
    run(dtype, swapped, strided(a[1], 3), strided(b[0]), by_row, out, lse)
    expect(dtype, out, lse, *a, *b)
    assert np.isnan(out.base.astype(np.float32)).sum() == out.base.size - out.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_without_keys_counts_nothing(dtype):
    rng = np.random.default_rng(5)
    shape = (1, 6, 2, 32)
    (out_a, lse_a), (out_b, lse_b) = state(rng, shape, dtype), state(rng, shape, dtype)
    lse_a[..., :4] = -np.inf
    lse_b[..., 2:4] = -np.inf
    lse_b[..., 5] = -np.inf
    for out, lse in ((out_a, lse_a), (out_b, lse_b)):
        out[np.isneginf(lse).swapaxes(1, 2)] = poison(out.dtype)
    out, lse = np.ones_like(out_a), np.ones_like(lse_a)
    run(dtype, out_a, lse_a, out_b, lse_b, out, lse)
    np.testing.assert_array_equal(out[:, :2], out_b[:, :2])
    assert (out[:, 2:4] == 0).all()
    assert np.isneginf(lse[..., 2:4]).all()
    np.testing.assert_array_equal(out[:, 5], out_a[:, 5])
    np.testing.assert_array_equal(lse[..., 5], lse_a[..., 5])
    expect(dtype, out, lse, out_a, lse_a, out_b, lse_b)


def test_nan_is_not_hidden():
    shape = (1, 2, 1, 8)
    (out_a, lse_a), (out_b, lse_b) = (state(np.random.default_rng(6), shape, DType.F16) for _ in range(2))
    lse_a[..., 0] = np.nan
    lse_b[..., 0] = -np.inf
    out_b[:, 1] = np.nan
    out, lse = np.zeros_like(out_a), np.zeros_like(lse_a)
    run(DType.F16, out_a, lse_a, out_b, lse_b, out, lse)
    assert np.isnan(out).all()
    assert np.isnan(lse[..., 0]).all()
    assert np.isfinite(lse[..., 1]).all()


@pytest.mark.parametrize("head_dim", [8, 24, 128, 256])
def test_the_result_may_take_the_place_of_a_state(head_dim):
    rng = np.random.default_rng(7)
    a, b = (state(rng, (2, 13, 3, head_dim), DType.BF16) for _ in range(2))
    out, lse = a[0].copy(), a[1].copy()
    device = Device()
    first = [device.view(x, name, read_only=False) for name, x in (("out", out), ("lse", lse))]
    second = [device.view(x, name) for name, x in (("out_b", b[0]), ("lse_b", b[1]))]
    device.run(merge_launch(merge_spec(SmArch.SM90A, DType.BF16), *first, *second, *first))
    expect(DType.BF16, out, lse, *a, *b)


@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_no_sector_is_wasted(head_dim):
    rng = np.random.default_rng(8)
    a, b = (state(rng, (2, 16, 2, head_dim), DType.F16) for _ in range(2))
    lines = run(DType.F16, *a, *b, np.zeros_like(a[0]), np.zeros_like(a[1]), report=True)
    assert len([line for line in lines if line.space == "global"]) == 6
    assert wasted(lines) == []


@pytest.mark.parametrize("arch", SmArch)
def test_every_architecture(arch):
    rng = np.random.default_rng(9)
    for dtype in DTYPES:
        a, b = state(rng, (1, 3, 2, 48), dtype), state(rng, (1, 3, 2, 48), dtype)
        out, lse = np.zeros_like(a[0]), np.zeros_like(a[1])
        run(dtype, *a, *b, out, lse, arch=arch)
        expect(dtype, out, lse, *a, *b)


def test_specs_and_labels():
    assert merge_specs(SmArch.SM80) == tuple(merge_spec(SmArch.SM80, dtype) for dtype in DTYPES)
    assert merge_spec(SmArch.SM90A, DType.BF16).label == "common.merge.bf16.sm_90a"
