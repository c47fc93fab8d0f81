"""cvt among integers, floats and packed formats; mov that packs and unpacks; cvta."""

import math
import random
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx_text import compute, fault

from flashactor.errors import UnsupportedPtxError

RNG = random.Random(4)
INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
STORED = {8: np.uint16, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def limits(type_):
    bits = int(type_[1:])
    return (0, (1 << bits) - 1) if type_[0] == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)


def integers(type_, count=60):
    """Raw register contents, and the values that they have in the type."""
    bits = int(type_[1:])
    raw = [0, 1, (1 << bits) - 1, 1 << bits - 1, (1 << bits - 1) - 1, 100, 127, 128 % (1 << bits)]
    raw += [RNG.getrandbits(RNG.randint(1, bits)) for _ in range(count - len(raw))]
    values = [v - (1 << bits) if type_[0] == "s" and v >> bits - 1 else v for v in raw]
    return np.array(raw, STORED[bits]), values


def result_type(type_):
    """The register that a result of a type is in: bytes go to 16-bit registers."""
    return "b16" if type_[1:] == "8" else type_


def in_register(value, type_):
    """A value as it stands in its register: sign-extended or zero-extended."""
    return value & (1 << 8 * STORED[int(type_[1:])](0).itemsize) - 1


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("to", INTEGERS)
def test_integer_to_integer(to, source):
    raw, values = integers(source)
    low, high = limits(to)
    bits = int(to[1:])

    def wrapped(v):
        v &= (1 << bits) - 1
        return v - (1 << bits) if to[0] == "s" and v >> bits - 1 else v

    got = compute(f"cvt.{to}.{source} %y0, %x0;", result_type(to), raw)
    assert got.tolist() == [in_register(wrapped(v), to) for v in values]
    got = compute(f"cvt.sat.{to}.{source} %y0, %x0;", result_type(to), raw)
    assert got.tolist() == [in_register(min(max(v, low), high), to) for v in values]


def test_results_are_extended_to_wider_registers():
    x = np.array([0x80, 0x7F, 0xFFFF], np.uint32)
    assert compute("cvt.s8.s32 %y0, %x0;", "u32", x).tolist() == [0xFFFFFF80, 0x7F, 0xFFFFFFFF]
    assert compute("cvt.u8.u32 %y0, %x0;", "u32", x).tolist() == [0x80, 0x7F, 0xFF]
    assert compute("cvt.s16.s32 %y0, %x0;", "u64", x).tolist() == [0x80, 0x7F, 2**64 - 1]


ROUND = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
FLOATS = [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997,
          126.6, 127.5, -128.5, 255.5, 65535.5, 2.0**31 - 128,
          2.0**31, -2147483648.0, 4294967040.0, 4294967296.0, 9.2e18, 9223372036854775808.0, 1.9e19, -9.3e18,
          1e30, -1e30, math.inf, -math.inf, 2.0**-149, -1e-30, 0.99999994, -0.99999994]  # fmt: skip


@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("to", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
def test_float_to_integer_clamps(to, mode):
    low, high = limits(to)
    f32 = np.array([*FLOATS, *(RNG.uniform(-300, 300) for _ in range(100))], np.float32)
    f64 = np.array([*FLOATS, 2147483647.5, -0.4999999999999999, 4294967295.5, 2.0**53 + 1], np.float64)
    f16 = np.array([0.0, 0.5, 1.5, -2.5, 65504, -65504, math.inf, -math.inf, 300.5], np.float16)
    bf16 = np.array([0.5, -1.5, 3e38, -3e38, 200, math.inf], ml_dtypes.bfloat16)
    for type_, values in (("f32", f32), ("f64", f64), ("f16", f16), ("bf16", bf16)):
        inputs = values.view(np.uint16) if values.itemsize == 2 else values
        got = compute(f"cvt.{mode}.{to}.{type_} %y0, %x0;", result_type(to), inputs)
        for result, value in zip(got.tolist(), values.astype(np.float64).tolist(), strict=True):
            whole = value if math.isinf(value) else ROUND[mode](Fraction(value))
            assert result == in_register(int(min(max(whole, low), high)), to), (type_, value)


def test_nan_to_integer_is_zero():
    nan = np.array([math.nan], np.float32)
    for to in ("u16", "s16", "u32", "s32"):
        assert compute(f"cvt.rzi.{to}.f32 %y0, %x0;", to, nan) == 0


def test_ftz_before_rounding():
    tiny = np.array([2.0**-149, -(2.0**-149)], np.float32)
    assert compute("cvt.rpi.ftz.s32.f32 %y0, %x0;", "u32", tiny).tolist() == [0, 0]
    assert compute("cvt.rpi.s32.f32 %y0, %x0;", "u32", tiny).tolist() == [1, 0]


def nearest(exact, mantissa):
    """An integer to nearest even with so many bits after the first."""
    magnitude = abs(exact)
    drop = max(0, magnitude.bit_length() - 1 - mantissa)
    rounded = round(Fraction(magnitude, 1 << drop)) << drop
    return -rounded if exact < 0 else rounded


@pytest.mark.parametrize("source", INTEGERS)
def test_integer_to_float(source):
    raw, values = integers(source, 200)
    if source[1:] == "64":  # ties of float32 and bfloat16 that float64 would hide
        more = [(1 << 62) + (1 << 38) + d for d in (-1, 0, 1)] + [
            (1 << 62) + (1 << 54) + d for d in (-1, 0, 1)
        ]
        raw, values = np.concatenate([raw, np.array(more, np.uint64)]), values + more
    assert compute(f"cvt.rn.f32.{source} %y0, %x0;", "f32", raw).tolist() == [nearest(v, 23) for v in values]
    assert compute(f"cvt.rn.f64.{source} %y0, %x0;", "f64", raw).tolist() == [nearest(v, 52) for v in values]
    got = compute(f"cvt.rn.f16.{source} %y0, %x0;", "b16", raw).view(np.float16).astype(float)
    wanted = [nearest(v, 10) for v in values]
    assert got.tolist() == [math.copysign(math.inf, w) if abs(w) > 65504 else w for w in wanted]
    got = compute(f"cvt.rn.bf16.{source} %y0, %x0;", "b16", raw).view(ml_dtypes.bfloat16).astype(float)
    assert got.tolist() == [nearest(v, 7) for v in values]


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_directed_rounding_to_f32(mode):
    raw, values = integers("s32", 200)
    got = compute(f"cvt.{mode}.f32.s32 %y0, %x0;", "f32", raw)
    direct(got.tolist(), values, mode)
    wide = np.array([RNG.uniform(-1, 1) * 2.0 ** RNG.randint(-160, 100) for _ in range(200)])
    got = compute(f"cvt.{mode}.f32.f64 %y0, %x0;", "f32", wide)
    direct(got.tolist(), wide.tolist(), mode)
    huge = compute(f"cvt.{mode}.f32.f64 %y0, %x0;", "f32", np.array([1e300, -1e300])).tolist()
    largest = float(np.finfo(np.float32).max)
    assert huge == {"rz": [largest, -largest], "rm": [largest, -math.inf], "rp": [math.inf, -largest]}[mode]


def direct(got, exact, mode):
    for result, value in zip(got, exact, strict=True):
        up = value < 0 if mode == "rz" else mode == "rp"
        beyond = math.inf if up else -math.inf
        if result == value:
            continue
        assert (result > value) == up
        inner = float(np.nextafter(np.float32(result), np.float32(-beyond)))
        assert (inner < value) if up else (inner > value)


def test_rounding_to_whole_floats():
    x = np.array(FLOATS, np.float32)
    for mode, function in {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}.items():
        assert np.array_equal(compute(f"cvt.{mode}.f32.f32 %y0, %x0;", "f32", x), function(x))
    h = np.array([0.5, 1.5, -2.5, 1000.7], np.float16)
    assert compute("cvt.rmi.f16.f16 %y0, %x0;", "b16", h.view(np.uint16)).view(np.float16).tolist() == [
        0,
        1,
        -3,
        1000,
    ]


def float_bits(count):
    bits = [RNG.getrandbits(32) for _ in range(count)]
    edges = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0x477FE000, 0x477FEFFF, 0x477FF000,
             0x33000000,
             0x33000001, 0x33800000, 0x38800000, 0x387FC000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x3F808001,
             0x43E00000, 0x43E80000, 0x43F00000, 0x47600000, 0x3B000000, 0x3A800000, 0x3A800001]  # fmt: skip
    near = [
        (RNG.randint(100, 145) << 23 | RNG.getrandbits(23) | RNG.choice([0, 1 << 31])) for _ in range(count)
    ]
    return np.array(edges + bits + near, np.uint32).view(np.float32)


@pytest.mark.parametrize(("type_", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_f32_to_halves_and_back(type_, dtype):
    x = float_bits(400)
    with np.errstate(all="ignore"):
        wanted = x.astype(dtype).view(np.uint16)
    wanted = np.where(np.isnan(x), 0x7FFF, wanted)
    assert np.array_equal(compute(f"cvt.rn.{type_}.f32 %y0, %x0;", "b16", x), wanted)
    with np.errstate(all="ignore"):
        relu = np.where(np.isnan(x) | (x > 0), wanted, 0)
    assert np.array_equal(compute(f"cvt.rn.relu.{type_}.f32 %y0, %x0;", "b16", x), relu)

    y = x[::-1].copy()
    pair = compute(f"cvt.rn.{type_}x2.f32 %y0, %x0, %x1;", "b32", x, y)  # the first is the upper half
    assert np.array_equal(pair >> 16, wanted)
    assert np.array_equal(pair & 0xFFFF, wanted[::-1])
    pair = compute(f"cvt.rn.relu.{type_}x2.f32 %y0, %x0, %x1;", "b32", x, y)
    assert np.array_equal(pair >> 16, relu)
    assert np.array_equal(pair & 0xFFFF, relu[::-1])

    codes = np.arange(65536, dtype=np.uint16)[::5].copy()
    got = compute(f"cvt.f32.{type_} %y0, %x0;", "f32", codes)
    with np.errstate(all="ignore"):
        assert np.array_equal(got, codes.view(dtype).astype(np.float32), equal_nan=True)


def test_relu_of_packs_keeps_nan():
    x = np.array([math.nan, -1.0], np.float32)
    assert compute("cvt.rn.relu.f16x2.f32 %y0, %x0, %x0;", "b32", x).tolist() == [0x7FFF7FFF, 0]


def test_f64_to_halves_and_f32():
    x = np.array(
        [1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-40, 1 + 3 * 2.0**-11, 65519.999999, 65520.0, -1e-8, 1 / 3]
    )
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    assert compute("cvt.rn.f16.f64 %y0, %x0;", "b16", x).view(np.float16).tolist() == wanted.tolist()
    assert compute("cvt.rn.f32.f64 %y0, %x0;", "f32", x).tolist() == x.astype(np.float32).tolist()
    assert (
        compute("cvt.f64.f32 %y0, %x0;", "f64", x.astype(np.float32)).tolist()
        == x.astype(np.float32).tolist()
    )


FP8 = {"e4m3": (ml_dtypes.float8_e4m3fn, 448.0), "e5m2": (ml_dtypes.float8_e5m2, 57344.0)}


@pytest.mark.parametrize("format_", FP8)
def test_fp8_packs(format_):
    dtype, largest = FP8[format_]
    x = float_bits(600)
    y = x[::-1].copy()
    with np.errstate(all="ignore"):
        wanted = np.clip(x, -largest, largest).astype(dtype).view(np.uint8)
    wanted = np.where(np.isnan(x), 0x7F, wanted).astype(np.uint16)
    got = compute(f"cvt.rn.satfinite.{format_}x2.f32 %y0, %x0, %x1;", "b16", x, y)
    assert np.array_equal(got, wanted << 8 | wanted[::-1])
    relu = np.where(np.isnan(x) | (x > 0), wanted, 0)
    got = compute(f"cvt.rn.satfinite.relu.{format_}x2.f32 %y0, %x0, %x1;", "b16", x, y)
    assert np.array_equal(got, relu << 8 | relu[::-1])

    with np.errstate(all="ignore"):
        halves = x.astype(np.float16)
        wanted = np.clip(halves.astype(np.float32), -largest, largest).astype(dtype).view(np.uint8)
    wanted = np.where(np.isnan(halves), 0x7F, wanted).astype(np.uint8)
    even = len(x) // 2 * 2
    got = compute(f"cvt.rn.satfinite.{format_}x2.f16x2 %y0, %x0;", "b16", halves[:even].view(np.uint32))
    assert np.array_equal(got, wanted[:even].view(np.uint16))

    codes = np.arange(65536, dtype=np.uint16)[::3].copy()
    got = compute(f"cvt.rn.f16x2.{format_}x2 %y0, %x0;", "b32", codes).view(np.float16)
    assert np.array_equal(got, codes.view(dtype).astype(np.float16), equal_nan=True)


@pytest.mark.parametrize(
    "instruction",
    ["cvt.rn.e4m3x2.f32 %h0, %f0, %f1;", "cvt.rna.tf32.f32 %r0, %f0;", "cvt.rz.bf16x2.f32 %r0, %f0, %f1;",
     "cvt.pack.sat.u16.s32 %r0, %r1, %r2;", "cvt.satfinite.u32.f32 %r0, %f0;",
     "cvt.rn.relu.f32.f64 %f0, %fd0;",
     "cvt.f32.f64 %f0, %fd0;", "cvt.u32.f32 %r0, %f0;", "cvt.f32.u32 %f0, %r0;"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, instruction, instruction=instruction)


def test_mov_packs_and_unpacks():
    a, b = np.array([0x11112222, 1], np.uint32), np.array([0xFFFF0000, 2], np.uint32)
    assert compute("mov.b64 %y0, {%x0, %x1};", "b64", a, b).tolist() == [0xFFFF000011112222, 2 << 32 | 1]
    low, high = compute("mov.b64 {%y0, %y1}, %x0;", "b32 b32", np.array([0x1234567890ABCDEF], np.uint64))
    assert (low, high) == (0x90ABCDEF, 0x12345678)
    h = np.array([0xABCD], np.uint16)
    assert compute("mov.b32 %y0, {%x0, %x1};", "b32", h, h + np.uint16(1)) == 0xABCEABCD
    halves = compute("mov.b32 {%y0, %y1}, %x0;", "b16 b16", a[:1])
    assert halves == [0x2222, 0x1111]
    assert compute("mov.b32 {_, %y0}, %x0;", "b16", a[:1]) == 0x1111
    four = compute(
        "mov.b64 {%y0, %y1, %y2, %y3}, %x0;", "b16 b16 b16 b16", np.array([0x1111222233334444], np.uint64)
    )
    assert four == [0x4444, 0x3333, 0x2222, 0x1111]
    assert compute("mov.b64 %y0, {%x0, %x0, %x1, %x1};", "b64", h, h + np.uint16(1)) == 0xABCEABCEABCDABCD
    f = np.array([1.5], np.float32)
    assert compute("mov.b64 %y0, {%x0, %x0};", "b64", f) == 0x3FC000003FC00000
    assert compute("mov.b32 %y0, %x0;", "b32", f) == 0x3FC00000


def test_swap_through_unpacking():
    x = np.array([0x1111222233334444], np.uint64)
    body = "mov.b64 {%r0, %r1}, %x0; mov.b64 %y0, {%r1, %r0};"
    assert compute(body, "b64", x) == 0x3333444411112222


def test_cvta_and_isspacep():
    module = ".shared .align 16 .b8 tile[64];\n.global .align 4 .u32 value = 7;"
    body = """
    mov.u64 %rd0, tile;
    cvta.shared.u64 %rd1, %rd0;
    cvta.to.shared.u64 %y0, %rd1;
    isspacep.shared %p0, %rd1;
    isspacep.global %p1, %rd1;
    selp.u32 %y1, 1, 0, %p0;
    selp.u32 %y2, 1, 0, %p1;
    mov.u64 %rd2, value;
    cvta.global.u64 %rd3, %rd2;
    ld.u32 %y3, [%rd3];
    isspacep.global %p2, %rd3;
    selp.u32 %y4, 1, 0, %p2;
"""
    offset, shared, not_global, value, is_global = compute(body, "u64 u32 u32 u32 u32", module=module)
    assert (offset == 0).all()
    assert (shared == 1).all()
    assert (not_global == 0).all()
    assert (value == 7).all()
    assert (is_global == 1).all()
