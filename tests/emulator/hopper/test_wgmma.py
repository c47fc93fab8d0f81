"""wgmma.mma_async against plain products (PTX ISA, section 9.7.15.5): types, shapes, layouts, constants."""

import numpy as np
import pytest
from wgmma_text import TYPES, product

RNG = np.random.default_rng(7)
PLAIN = (0, False, 128, 256)
"""Core matrices one after the other: two along k, then the next eight rows."""


def operands(type_a, type_b, columns, smallest=-4, largest=5):
    """A [64][k], B [n][k] and D [64][n] of small integers, for which every sum is exact."""
    depth = 32 // np.dtype(TYPES[type_a]).itemsize
    a, b = RNG.integers(smallest, largest, (64, depth)), RNG.integers(smallest, largest, (columns, depth))
    return a.astype(TYPES[type_a]), b.astype(TYPES[type_b]), RNG.integers(-9, 10, (64, columns))


def check(type_a, type_b, result, columns, left_mode, right_mode, *, scale_d=1, signs=(1, 1)):
    a, b, d = operands(type_a, type_b, columns)
    got = product(a, b, d, type_a, type_b, result, left_mode, right_mode, scale_d=scale_d, signs=signs)
    want = signs[0] * signs[1] * (a.astype(np.float64) @ b.astype(np.float64).T) + (d if scale_d else 0)
    np.testing.assert_array_equal(got.astype(np.float64), want)


@pytest.mark.parametrize("result", ["f32", "f16"])
@pytest.mark.parametrize(
    ("type_a", "type_b"),
    [("f16", "f16"), ("e4m3", "e4m3"), ("e5m2", "e5m2"), ("e4m3", "e5m2"), ("e5m2", "e4m3")],
)
def test_types(type_a, type_b, result):
    check(type_a, type_b, result, 16, PLAIN, PLAIN)
    check(type_a, type_b, result, 16, None, PLAIN)


def test_bfloat16():
    check("bf16", "bf16", "f32", 24, PLAIN, PLAIN)
    check("bf16", "bf16", "f32", 24, None, PLAIN)


@pytest.mark.parametrize("columns", [8, 40, 64, 128, 200, 256])
def test_columns(columns):
    check("bf16", "bf16", "f32", columns, None, (128, False, 16, 1024))
    check("f16", "f16", "f16", columns, (128, False, 16, 1024), (128, False, 16, 1024))


# Strides with gaps, so that a leading or stride offset that is ignored or swapped shows.
K_MAJOR = [
    (0, False, 4096, 256),
    (0, False, 144, 512),
    (32, False, 16, 512),
    (64, False, 16, 1024),
    (128, False, 16, 2048),
    (128, False, 4096, 1024),
]
MN_MAJOR = [
    (0, True, 1408, 128),
    (0, True, 256, 512),
    (32, True, 512, 256),
    (32, True, 256, 2048),
    (64, True, 1024, 512),
    (64, True, 512, 4096),
    (128, True, 2048, 1024),
    (128, True, 4096, 2048),
]


@pytest.mark.parametrize("mode", K_MAJOR + MN_MAJOR)
def test_layouts_of_b(mode):
    check("bf16", "bf16", "f32", 80, None, mode)


@pytest.mark.parametrize("mode", K_MAJOR + MN_MAJOR)
def test_layouts_of_a(mode):
    check("f16", "f16", "f32", 16, mode, PLAIN)


@pytest.mark.parametrize("mode", K_MAJOR)
def test_layouts_of_bytes(mode):
    check("e4m3", "e5m2", "f32", 16, mode, mode)


@pytest.mark.parametrize("scale_d", [0, 1])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_constants(scale_d, signs):
    check("f16", "f16", "f32", 16, PLAIN, PLAIN, scale_d=scale_d, signs=signs)
    check("f16", "f16", "f16", 16, None, PLAIN, scale_d=scale_d, signs=signs)


def test_nothing_of_the_old_result_is_read_without_scale_d():
    """NaN times false is nothing."""
    a, b, _ = operands("bf16", "bf16", 16)
    got = product(a, b, np.full((64, 16), np.nan), "bf16", "bf16", "f32", PLAIN, PLAIN, scale_d=0)
    np.testing.assert_array_equal(got, a.astype(np.float64) @ b.astype(np.float64).T)


def test_results_of_f16_are_rounded_once():
    a, b = np.zeros((64, 16), np.float16), np.zeros((8, 16), np.float16)
    a[:, 0], b[:, 0] = 1, 1 + np.arange(8) / 1024
    a[:, 1], b[:, 1] = 2.0**-12, 1
    got = product(a, b, np.zeros((64, 8)), "f16", "f16", "f16", PLAIN, PLAIN)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_array_equal(got, exact.astype(np.float16))
    # Beyond the largest number lies infinity.
    a[:, 0], b[:, 0] = 60000, 2
    assert np.isposinf(product(a, b, np.zeros((64, 8)), "f16", "f16", "f16", PLAIN, PLAIN)).all()
