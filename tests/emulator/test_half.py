"""Arithmetic on f16 and bf16, alone and in pairs: rounded once from the exact result."""

import math
import random
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx_text import compute

RNG = random.Random(3)
FORMATS = {
    "f16": (np.float16, 10, -14, 65504.0),
    "bf16": (ml_dtypes.bfloat16, 7, -126, 3.3895313892515355e38),
}
EDGES = {
    "f16": [0x0000, 0x8000, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00,
            0x0001, 0x8001, 0x0400, 0x03FF, 0x7BFF, 0x3C01],
    "bf16": [0x0000, 0x8000, 0x3F80, 0xBF80, 0x7F80, 0xFF80, 0x7FC0,
             0x0001, 0x8001, 0x0080, 0x007F, 0x7F7F, 0x3F81],
}  # fmt: skip


def operands(format_, number, count=400):
    """Columns of bits: every pair of edge values, random bits, and values near 1."""
    edges = EDGES[format_]
    rows = [tuple(RNG.choice(edges) for _ in range(number)) for _ in range(count)]
    rows += [tuple(RNG.getrandbits(16) for _ in range(number)) for _ in range(count)]
    one = edges[2]
    rows += [
        tuple(one + RNG.randint(-500, 500) | RNG.choice([0, 0x8000]) for _ in range(number))
        for _ in range(count)
    ]
    return [np.array(column, np.uint16) for column in zip(*rows, strict=True)]


def values(bits, format_):
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return bits.view(FORMATS[format_][0]).astype(np.float64).tolist()


def is_nan(bits, format_):
    return (bits & 0x7FFF) > EDGES[format_][4]


def rounded(exact, format_):
    """A non-zero fraction in the format, to nearest even, as a float."""
    _, mantissa, lowest, largest = FORMATS[format_]
    sign, exact = (-1.0 if exact < 0 else 1.0), abs(exact)
    exponent = lowest
    while exact >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - mantissa)
    result = round(exact / unit) * unit
    return sign * (math.inf if result > Fraction(largest) else float(result))


EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
}


def expected(operation, format_, row):
    """The result of one operation, or None where IEEE's special cases decide."""
    if not all(map(math.isfinite, row)):
        with np.errstate(all="ignore"):
            return float(EXACT[operation](*map(np.float64, row)))
    exact = EXACT[operation](*map(Fraction, row))
    return rounded(exact, format_) if exact else float(EXACT[operation](*row))


def agree(got, wanted):
    if math.isnan(wanted):
        return math.isnan(got)
    return got == wanted and math.copysign(1, got) == math.copysign(1, wanted)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("operation", EXACT)
def test_arithmetic(operation, format_):
    number = 3 if operation == "fma" else 2
    columns = operands(format_, number)
    sources = ", ".join(f"%x{i}" for i in range(number))
    name = f"{operation}.rn.{format_}"
    bits = compute(f"{name} %y0, {sources};", format_, *columns)
    rows = list(zip(*(values(column, format_) for column in columns), strict=True))
    for got, row in zip(values(bits, format_), rows, strict=True):
        assert agree(got, expected(operation, format_, row)), (name, row, got)
    assert (bits[is_nan(bits, format_)] == 0x7FFF).all()

    packed = [column[: len(column) // 2 * 2].view(np.uint32) for column in columns]
    pairs = compute(f"{name}x2 %y0, {sources};", f"{format_}x2", *packed)
    assert np.array_equal(pairs.view(np.uint16), bits[: 2 * len(pairs)])


@pytest.mark.parametrize("format_", FORMATS)
def test_sat_and_relu_of_fma(format_):
    columns = operands(format_, 3)
    plain = values(compute(f"fma.rn.{format_} %y0, %x0, %x1, %x2;", format_, *columns), format_)
    relu = values(compute(f"fma.rn.relu.{format_} %y0, %x0, %x1, %x2;", format_, *columns), format_)
    for before, after in zip(plain, relu, strict=True):
        assert agree(after, before if math.isnan(before) or before > 0 else 0.0)
    if format_ == "f16":
        sat = values(compute("fma.rn.sat.f16 %y0, %x0, %x1, %x2;", "f16", *columns), "f16")
        for before, after in zip(plain, sat, strict=True):
            assert after == (0.0 if math.isnan(before) else min(max(before, 0.0), 1.0))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("opcode", ["min", "max"])
def test_min_and_max(opcode, format_):
    columns = operands(format_, 2)
    rows = list(zip(*(values(column, format_) for column in columns), strict=True))
    choose = min if opcode == "min" else max
    for nan in ("", ".NaN"):
        got = values(compute(f"{opcode}{nan}.{format_} %y0, %x0, %x1;", format_, *columns), format_)
        for result, row in zip(got, rows, strict=True):
            numbers = [v for v in row if not math.isnan(v)]
            if not numbers or (nan and len(numbers) < 2):
                assert math.isnan(result)
            else:
                assert agree(result, choose(numbers, key=lambda v: (v, math.copysign(1, v))))


@pytest.mark.parametrize("format_", FORMATS)
def test_neg_and_abs(format_):
    bits, _ = operands(format_, 2)
    number = ~is_nan(bits, format_)
    assert np.array_equal(compute(f"neg.{format_} %y0, %x0;", format_, bits)[number], (bits ^ 0x8000)[number])
    assert np.array_equal(compute(f"abs.{format_} %y0, %x0;", format_, bits)[number], (bits & 0x7FFF)[number])


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("opcode", ["ex2", "tanh"])
def test_approximations(opcode, format_):
    """Within 2**-9.9 of f16 and 2**-7 of bf16 for ex2, 2**-10.987 and 2**-8 for tanh."""
    bits = np.arange(65536, dtype=np.uint16)[::7].copy()
    ftz = ".ftz" if (opcode, format_) == ("ex2", "bf16") else ""
    got = np.array(values(compute(f"{opcode}.approx{ftz}.{format_} %y0, %x0;", format_, bits), format_))
    x = np.array(values(bits, format_))
    function = {"ex2": np.exp2, "tanh": np.tanh}[opcode]
    with np.errstate(all="ignore"):
        wanted = function(x)
        _, _, lowest, largest = FORMATS[format_]
        plain = np.isfinite(wanted) & (np.abs(wanted) <= largest) & (np.abs(wanted) >= 2.0**lowest)
        error = np.abs(got - wanted)[plain] / np.abs(wanted)[plain]
    assert error.max() <= (2.0**-9.9 if format_ == "f16" else 2.0**-7)
    assert np.isnan(got[np.isnan(x)]).all()
    assert (got[x == (np.inf)] == (np.inf if opcode == "ex2" else 1)).all()


def test_ftz_of_f16():
    small = np.array([0x0001, 0x8001, 0x0400, 0x03FF], np.uint16)
    zero = np.zeros(4, np.uint16)
    assert compute("add.ftz.f16 %y0, %x0, %x1;", "f16", small, zero).tolist() == [0, 0, 0x0400, 0]
    assert compute("add.f16 %y0, %x0, %x1;", "f16", small, zero).tolist() == small.tolist()
    halves = np.full(4, 0x3800, np.uint16)
    assert compute("mul.ftz.f16 %y0, %x0, %x1;", "f16", small, halves).tolist() == [0, 0x8000, 0, 0]
