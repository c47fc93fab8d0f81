"""Floating-point instructions: correct rounding through exact fractions, special values, and error bounds."""

import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
from ptx_text import compute

RNG = random.Random(2)
NAN, INF = float("nan"), float("inf")
TINY, LEAST_NORMAL, LARGEST = 2.0**-149, 2.0**-126, (2 - 2.0**-23) * 2.0**127
SPECIAL = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, TINY, -TINY, LEAST_NORMAL, -LEAST_NORMAL,
           LEAST_NORMAL - TINY, LARGEST, -LARGEST, 1 + 2.0**-23, 1.5, -2.5, 3.0]  # fmt: skip


def f32(values):
    return np.array(values, np.float32)


def round_f32(exact):
    """A fraction rounded to float32, to nearest even, as a float."""
    if exact == 0:
        return 0.0
    sign, exact = (-1 if exact < 0 else 1), abs(exact)
    exponent = max(math.floor(math.log2(exact.numerator) - math.log2(exact.denominator)) - 25, -149)
    while exact / Fraction(2) ** exponent >= 1 << 24:
        exponent += 1
    while exponent > -149 and exact / Fraction(2) ** (exponent - 1) < 1 << 24:
        exponent -= 1
    result = Fraction(round(exact / Fraction(2) ** exponent)) * Fraction(2) ** exponent
    return sign * (INF if result > Fraction(LARGEST) else float(result))


def same(got, wanted):
    """Equal, with NaN equal to NaN and zeros told apart."""
    return np.array_equal(got, wanted, equal_nan=True) and np.array_equal(
        np.signbit(got[~np.isnan(got)]), np.signbit(wanted[~np.isnan(wanted)])
    )


def random_floats(count):
    """Random bits, and neighbours of powers of two, as float32."""
    bits = [RNG.getrandbits(32) for _ in range(count // 2)]
    near = [struct.unpack("<I", struct.pack("<f", RNG.choice([1, -1]) * (1 + RNG.randint(0, 3) * 2.0**-23)
            * 2.0 ** RNG.randint(-30, 30)))[0] for _ in range(count - len(bits))]  # fmt: skip
    return np.array(bits + near, np.uint32).view(np.float32)


def test_round_f32_itself():
    for value in random_floats(500):
        if np.isfinite(value) and value:
            assert round_f32(Fraction(float(value))) == value
    assert round_f32(Fraction(LARGEST) + Fraction(2) ** 103) == INF
    assert round_f32(Fraction(1) + Fraction(1, 1 << 24)) == 1.0


@pytest.mark.parametrize("opcode", ["add", "sub", "mul", "div"])
def test_correct_rounding(opcode):
    a, b = random_floats(400), random_floats(400)
    operate = {
        "add": lambda x, y: x + y, "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
    }[opcode]  # fmt: skip
    got = compute(f"{opcode}.rn.f32 %y0, %x0, %x1;", "f32", a, b)
    for x, y, z in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        if math.isfinite(x) and math.isfinite(y) and (y or opcode != "div"):
            assert z == round_f32(operate(Fraction(x), Fraction(y))), (x, y)


def test_fma_rounds_once():
    a, b, c = (random_floats(800) for _ in range(3))
    # Sums whose float64 lies half-way between two float32 though the exact sum does not.
    hard = [
        (1 + 2.0**-23, 1 + 2.0**-23, 2.0**-24), (1 + 2.0**-12, 1 + 2.0**-12, 2.0**-60),
        (1 + 2.0**-12, 1 + 2.0**-12, -(2.0**-60)), (2.0**-75, 2.0**-75, 1.0), (2.0**-75, -(2.0**-75), 1.0),
        (1 + 2.0**-12, 2.0**-13, 1.0), (1 + 2.0**-23, 2.0**-24, 1.0), (-(2.0**-70), 2.0**-70, 1 + 2.0**-23),
        (2.0**-75, 1 + 2.0**-23, 2.0**-126), (2.0**-100, 2.0**-50, TINY), (2.0**-75, 2.0**-75, TINY),
        (2.0**-75, -(2.0**-75), TINY), (LARGEST, 1 + 2.0**-23, -LARGEST), (LARGEST, 1.0, 2.0**102),
        (LARGEST, 1.0, 2.0**103), (LARGEST, 2.0, -LARGEST), (1 + 2.0**-11, 1 + 2.0**-13, 2.0**-80),
    ]  # fmt: skip
    for _ in range(400):  # products that end in a tie, and a last nudge
        x, y = 1 + RNG.getrandbits(12) * 2.0**-12, 1 + RNG.getrandbits(12) * 2.0**-12
        hard.append((x, y, RNG.choice([1, -1]) * 2.0 ** -RNG.randint(40, 120)))
    a, b, c = (
        np.concatenate([old, f32(new)]) for old, new in zip((a, b, c), zip(*hard, strict=True), strict=True)
    )
    got = compute("fma.rn.f32 %y0, %x0, %x1, %x2;", "f32", a, b, c)
    for x, y, z, d in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist(), strict=True):
        if math.isfinite(x) and math.isfinite(y) and math.isfinite(z):
            assert d == round_f32(Fraction(x) * Fraction(y) + Fraction(z)), (x.hex(), y.hex(), z.hex())


def test_fma_of_special_values():
    a = f32([INF, INF, 0, NAN, 1, -0.0, 0.0, 1])
    b = f32([0, 2, INF, 1, INF, 1, 1, 1])
    c = f32([1, -INF, 1, 1, 1, -0.0, -0.0, -1])
    got = compute("fma.rn.f32 %y0, %x0, %x1, %x2;", "f32", a, b, c)
    assert same(got, f32([NAN, NAN, NAN, NAN, INF, -0.0, 0.0, 0.0]))


def test_f64():
    a = np.array([RNG.uniform(-1, 1) * 2.0 ** RNG.randint(-300, 300) for _ in range(200)])
    b, c = a[::-1].copy(), np.roll(a, 7)
    got = compute("fma.rn.f64 %y0, %x0, %x1, %x2;", "f64", a, b, c)
    wanted = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert got.tolist() == wanted
    for opcode, operate in {"add": np.add, "sub": np.subtract, "mul": np.multiply}.items():
        assert same(compute(f"{opcode}.f64 %y0, %x0, %x1;", "f64", a, b), operate(a, b))
    assert same(compute("div.rn.f64 %y0, %x0, %x1;", "f64", a, b), a / b)
    assert same(compute("sqrt.rn.f64 %y0, %x0;", "f64", np.abs(a)), np.sqrt(np.abs(a)))
    assert same(compute("neg.f64 %y0, %x0;", "f64", a), -a)
    assert same(compute("max.f64 %y0, %x0, 0d3FF0000000000000;", "f64", a), np.maximum(a, 1.0))


def flushed(values):
    values = f32(values)
    return np.where(np.abs(values) < np.float32(LEAST_NORMAL), np.copysign(np.float32(0), values), values)


def test_ftz_flushes_inputs_and_results():
    a, b = (f32(c) for c in zip(*[(x, y) for x in SPECIAL for y in SPECIAL], strict=True))
    with np.errstate(all="ignore"):
        for opcode, operate in {"add": np.add, "sub": np.subtract, "mul": np.multiply}.items():
            got = compute(f"{opcode}.ftz.f32 %y0, %x0, %x1;", "f32", a, b)
            assert same(got, flushed(operate(flushed(a), flushed(b)))), opcode
    small = f32([2.0**-126, -(2.0**-126)])
    half = f32([0.5, 0.5])
    assert same(compute("mul.ftz.f32 %y0, %x0, %x1;", "f32", small, half), f32([0.0, -0.0]))
    assert same(compute("mul.f32 %y0, %x0, %x1;", "f32", small, half), small / 2)
    got = compute("fma.rn.ftz.f32 %y0, %x0, %x1, 0f80000000;", "f32", small, half)
    assert same(got, f32([0.0, -0.0]))
    assert same(compute("neg.ftz.f32 %y0, %x0;", "f32", f32([TINY])), f32([-0.0]))
    assert same(compute("abs.ftz.f32 %y0, %x0;", "f32", f32([-TINY])), f32([0.0]))


def test_sat():
    a = f32([-INF, -1, -TINY, 0, 0.25, 1, 1.5, INF, NAN])
    wanted = f32([0, 0, 0, 0, 0.25, 1, 1, 1, 0])
    assert np.array_equal(compute("add.sat.f32 %y0, %x0, 0f00000000;", "f32", a), wanted)
    assert np.array_equal(compute("mul.sat.f32 %y0, %x0, 0f3F800000;", "f32", a), wanted)
    assert np.array_equal(compute("fma.rn.sat.f32 %y0, %x0, 0f3F800000, 0f00000000;", "f32", a), wanted)
    assert np.array_equal(compute("cvt.sat.f32.f32 %y0, %x0;", "f32", a), wanted)


def extreme(values, is_min, nan):
    """IEEE 754-2019 minimumNumber and minimum: -0 below +0."""
    if any(math.isnan(v) for v in values):
        values = [v for v in values if not math.isnan(v)]
        if nan or not values:
            return NAN
    return (min if is_min else max)(values, key=lambda v: (v, math.copysign(1, v)))


@pytest.mark.parametrize("nan", ["", ".NaN"])
@pytest.mark.parametrize("opcode", ["min", "max"])
def test_min_and_max(opcode, nan):
    cases = [(x, y) for x in SPECIAL for y in SPECIAL]
    a, b = (f32(column) for column in zip(*cases, strict=True))
    got = compute(f"{opcode}{nan}.f32 %y0, %x0, %x1;", "f32", a, b)
    assert same(got, f32([extreme(case, opcode == "min", nan) for case in cases]))
    c = np.roll(a, 5)
    got = compute(f"{opcode}{nan}.f32 %y0, %x0, %x1, %x2;", "f32", a, b, c)
    wanted = [
        extreme(case, opcode == "min", nan) for case in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    assert same(got, f32(wanted))


def test_neg_abs_and_copysign():
    a = f32(SPECIAL)
    assert same(compute("neg.f32 %y0, %x0;", "f32", a), -a)
    assert same(compute("abs.f32 %y0, %x0;", "f32", a), np.abs(a))
    b = np.roll(a, 3)
    bits = compute("copysign.f32 %y0, %x0, %x1;", "u32", a, b)
    assert np.array_equal(bits, b.view(np.uint32) & 0x7FFFFFFF | a.view(np.uint32) & 0x80000000)


def test_pairs_of_f32():
    a, b, c = (random_floats(128) for _ in range(3))
    packed = [x.view(np.uint64) for x in (a, b, c)]
    with np.errstate(all="ignore"):
        assert same(compute("add.rn.f32x2 %y0, %x0, %x1;", "u64", *packed[:2]).view(np.float32), a + b)
        assert same(compute("mul.rn.f32x2 %y0, %x0, %x1;", "u64", *packed[:2]).view(np.float32), a * b)
    single = compute("fma.rn.ftz.f32 %y0, %x0, %x1, %x2;", "f32", a, b, c)
    assert same(compute("fma.rn.ftz.f32x2 %y0, %x0, %x1, %x2;", "u64", *packed).view(np.float32), single)


def relative(got, wanted):
    return np.max(np.abs(np.float64(got) - wanted) / np.abs(wanted))


def test_approximations_are_within_the_bounds_of_the_isa():
    x = f32([RNG.uniform(-100, 100) for _ in range(500)])
    positive = f32([2.0 ** RNG.uniform(-120, 120) for _ in range(500)])
    angle = f32([RNG.uniform(-math.pi, math.pi) for _ in range(500)])
    wide, root = np.float64(x), np.sqrt(np.float64(positive))
    assert relative(compute("ex2.approx.ftz.f32 %y0, %x0;", "f32", x), np.exp2(wide)) <= 2.0**-22
    assert (
        relative(compute("rcp.approx.ftz.f32 %y0, %x0;", "f32", positive), 1 / np.float64(positive))
        <= 2.0**-23
    )
    assert relative(compute("sqrt.approx.ftz.f32 %y0, %x0;", "f32", positive), root) <= 2.0**-23
    assert relative(compute("rsqrt.approx.ftz.f32 %y0, %x0;", "f32", positive), 1 / root) <= 2.0**-22.9
    assert relative(compute("tanh.approx.f32 %y0, %x0;", "f32", x / 10), np.tanh(wide / 10)) <= 2.0**-11
    assert (
        relative(compute("div.approx.ftz.f32 %y0, %x0, %x1;", "f32", x, x[::-1].copy()), wide / wide[::-1])
        <= 2.0**-22
    )
    for opcode, function in {"sin": np.sin, "cos": np.cos}.items():
        got = compute(f"{opcode}.approx.ftz.f32 %y0, %x0;", "f32", angle)
        assert np.max(np.abs(got - function(np.float64(angle)))) <= 2.0**-20.9
    near_one = f32([RNG.uniform(0.5, 2) for _ in range(500)])
    got = compute("lg2.approx.ftz.f32 %y0, %x0;", "f32", near_one)
    assert np.max(np.abs(got - np.log2(np.float64(near_one)))) <= 2.0**-22
    assert (
        relative(compute("lg2.approx.ftz.f32 %y0, %x0;", "f32", positive), np.log2(np.float64(positive)))
        <= 2.0**-22
    )


def test_approximations_of_special_values():
    """The tables of the ISA: subnormal inputs are flushed under .ftz."""
    x = f32([-INF, -TINY, -0.0, 0.0, TINY, INF, NAN, -1.0])
    wanted = {
        "ex2.approx.ftz": [0, 1, 1, 1, 1, INF, NAN, 0.5],
        "lg2.approx.ftz": [NAN, -INF, -INF, -INF, -INF, INF, NAN, NAN],
        "rcp.approx.ftz": [-0.0, -INF, -INF, INF, INF, 0.0, NAN, -1.0],
        "rsqrt.approx.ftz": [NAN, -INF, -INF, INF, INF, 0.0, NAN, NAN],
        "sqrt.approx.ftz": [NAN, -0.0, -0.0, 0.0, 0.0, INF, NAN, NAN],
        "sin.approx.ftz": [NAN, -0.0, -0.0, 0.0, 0.0, NAN, NAN, math.sin(-1)],
        "cos.approx.ftz": [NAN, 1, 1, 1, 1, NAN, NAN, math.cos(1)],
    }
    for instruction, values in wanted.items():
        got = compute(f"{instruction}.f32 %y0, %x0;", "f32", x)
        assert same(got, f32(values)), (instruction, got)
    assert same(compute("tanh.approx.f32 %y0, %x0;", "f32", x[[0, 2, 3, 5, 6]]), f32([-1, -0.0, 0.0, 1, NAN]))
    assert compute("ex2.approx.ftz.f32 %y0, %x0;", "f32", f32([-126.5])) == 0
    assert compute("ex2.approx.f32 %y0, %x0;", "f32", f32([-127])) == np.float32(2.0**-127)


def test_constants():
    zero = f32([0])
    assert compute("add.f32 %y0, %x0, 0f3FC00000;", "f32", zero) == 1.5
    assert compute("add.f32 %y0, %x0, 1.5;", "f32", zero) == 1.5
    assert compute("add.f32 %y0, %x0, -0.25;", "f32", zero) == -0.25
    assert compute("mov.f32 %y0, 0fFF800000;", "f32", zero) == -INF
    assert compute("mov.b32 %y0, 0f3F800000;", "u32", zero) == 0x3F800000
    assert compute("mov.f64 %y0, 0d3FF8000000000000;", "f64", zero) == 1.5
