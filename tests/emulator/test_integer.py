"""Integer and logic instructions against Python's integers."""

import random

import numpy as np
import pytest
from ptx_text import compute, signed

RNG = random.Random(1)


def edge_values(bits, count=96):
    special = [0, 1, 2, 3, 5, 7, 8, 31, 32, 33, 63, 64, 255, 256, (1 << bits) - 1, (1 << bits) - 2,
               1 << bits - 1, (1 << bits - 1) - 1, (1 << bits - 1) + 1]  # fmt: skip
    return special + [RNG.getrandbits(RNG.randint(1, bits)) for _ in range(count - len(special))]


def pairs(bits, count=300):
    values = edge_values(bits)
    chosen = [(RNG.choice(values), RNG.choice(values)) for _ in range(count)]
    return [np.array(column, f"u{bits // 8}") for column in zip(*chosen, strict=True)]


def as_type(value, type_):
    """A Python int wrapped into a PTX type."""
    bits = int(type_[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if type_[0] == "s" and value >> bits - 1 else value


def check(body, type_, function, *inputs, result=None):
    """Compare ``body`` on the inputs, signed as ``type_`` is, with a function of Python ints."""
    result = result or type_
    got = compute(body, result, *inputs)
    mask = (1 << 8 * got.dtype.itemsize) - 1
    types = [f"{type_[0]}{8 * x.dtype.itemsize}" for x in inputs]
    for got_, *values in zip(got.tolist(), *(x.tolist() for x in inputs), strict=True):
        wanted = function(*(as_type(v, t) for v, t in zip(values, types, strict=True))) & mask
        assert got_ == wanted, (body, values, hex(got_), hex(wanted))


def truncated(a, b):
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


ALL = ("u16", "s16", "u32", "s32", "u64", "s64")
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("type_", ALL)
@pytest.mark.parametrize("opcode", BINARY)
def test_binary(opcode, type_):
    check(f"{opcode}.{type_} %y0, %x0, %x1;", type_, BINARY[opcode], *pairs(int(type_[1:])))


@pytest.mark.parametrize("type_", ALL)
def test_mul_hi(type_):
    bits = int(type_[1:])
    check(f"mul.hi.{type_} %y0, %x0, %x1;", type_, lambda a, b: a * b >> bits, *pairs(bits))


@pytest.mark.parametrize("type_", ["u16", "s16", "u32", "s32"])
def test_mul_and_mad_wide(type_):
    bits = int(type_[1:])
    wide = f"{type_[0]}{2 * bits}"
    check(f"mul.wide.{type_} %y0, %x0, %x1;", type_, lambda a, b: a * b, *pairs(bits), result=wide)
    body = f".reg .b{2 * bits} %w; cvt.{wide}.{type_} %w, %x1; mad.wide.{type_} %y0, %x0, %x1, %w;"
    check(body, type_, lambda a, b: a * b + b, *pairs(bits), result=wide)


@pytest.mark.parametrize("type_", ALL)
def test_mad_lo_and_hi(type_):
    bits = int(type_[1:])
    a, b = pairs(bits)
    c = a[::-1].copy()
    check(f"mad.lo.{type_} %y0, %x0, %x1, %x2;", type_, lambda a, b, c: a * b + c, a, b, c)
    check(f"mad.hi.{type_} %y0, %x0, %x1, %x2;", type_, lambda a, b, c: (a * b >> bits) + c, a, b, c)


@pytest.mark.parametrize("type_", ["u32", "s32"])
def test_mul24(type_):
    def low24(a, b):
        cut = [v & 0xFFFFFF for v in (a, b)]
        if type_ == "s32":
            cut = [v - (1 << 24) if v >> 23 else v for v in cut]
        return cut[0] * cut[1]

    check(f"mul24.lo.{type_} %y0, %x0, %x1;", type_, low24, *pairs(32))


@pytest.mark.parametrize("type_", ALL)
def test_div_and_rem(type_):
    a, b = pairs(int(type_[1:]))
    b = np.where(b == 0, b.dtype.type(3), b)
    check(f"div.{type_} %y0, %x0, %x1;", type_, truncated, a, b)
    check(f"rem.{type_} %y0, %x0, %x1;", type_, lambda a, b: a - truncated(a, b) * b, a, b)


@pytest.mark.parametrize("type_", ["s16", "s32", "s64"])
def test_neg_and_abs(type_):
    a, _ = pairs(int(type_[1:]))
    check(f"neg.{type_} %y0, %x0;", type_, lambda a: -a, a)
    check(f"abs.{type_} %y0, %x0;", type_, abs, a)


def test_relu():
    check("min.relu.s32 %y0, %x0, %x1;", "s32", lambda a, b: max(0, min(a, b)), *pairs(32))
    check("max.relu.s32 %y0, %x0, %x1;", "s32", lambda a, b: max(0, a, b), *pairs(32))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits):
    a, b = pairs(bits)
    type_ = f"b{bits}"
    check(f"and.{type_} %y0, %x0, %x1;", type_, lambda a, b: a & b, a, b)
    check(f"or.{type_} %y0, %x0, %x1;", type_, lambda a, b: a | b, a, b)
    check(f"xor.{type_} %y0, %x0, %x1;", type_, lambda a, b: a ^ b, a, b)
    check(f"not.{type_} %y0, %x0;", type_, lambda a: ~a, a)
    check(f"cnot.{type_} %y0, %x0;", type_, lambda a: int(a == 0), a)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_clamp_their_count(bits):
    a, _ = pairs(bits)
    counts = np.array([RNG.choice([0, 1, 7, bits - 1, bits, bits + 1, 255, 1 << 31]) for _ in a], np.uint32)
    check(f"shl.b{bits} %y0, %x0, %x1;", f"u{bits}", lambda a, n: a << min(n, bits), a, counts)
    check(f"shr.u{bits} %y0, %x0, %x1;", f"u{bits}", lambda a, n: a >> min(n, bits), a, counts)
    check(f"shr.b{bits} %y0, %x0, %x1;", f"u{bits}", lambda a, n: a >> min(n, bits), a, counts)
    got = compute(f"shr.s{bits} %y0, %x0, %x1;", f"s{bits}", a, counts)
    wanted = [
        as_type(v, f"s{bits}") >> min(n, bits - 1) for v, n in zip(a.tolist(), counts.tolist(), strict=True)
    ]
    assert signed(got) == wanted


@pytest.mark.parametrize("count", [0, 1, 15, 16, 31, 32, 33, 63, 64])
def test_shifts_by_constants(count):
    for bits in (16, 32, 64):
        a, _ = pairs(bits, 64)
        check(f"shl.b{bits} %y0, %x0, {count};", f"u{bits}", lambda a: a << count, a)
        check(f"shr.u{bits} %y0, %x0, {count};", f"u{bits}", lambda a: a >> count, a)
        check(f"shr.s{bits} %y0, %x0, {count};", f"s{bits}", lambda a: a >> count, a)


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shift(mode):
    low, high = pairs(32)
    counts = np.array([RNG.choice([0, 1, 5, 31, 32, 33, 63, 64, 1 << 31]) for _ in low], np.uint32)

    def amount(n):
        return n & 31 if mode == "wrap" else min(n, 32)

    check(f"shf.l.{mode}.b32 %y0, %x0, %x1, %x2;", "u32",
          lambda a, b, n: (b << 32 | a) << amount(n) >> 32, low, high, counts)  # fmt: skip
    check(f"shf.r.{mode}.b32 %y0, %x0, %x1, %x2;", "u32",
          lambda a, b, n: (b << 32 | a) >> amount(n), low, high, counts)  # fmt: skip


@pytest.mark.parametrize("table", [0, 0x01, 0x80, 0x96, 0xE8, 0xCA, 0xF0, 0xFF, 0x3C])
def test_lop3(table):
    a, b = pairs(32)
    c = a[::-1].copy()

    def bit_by_bit(a, b, c):
        return sum(
            (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32)
        )

    check(f"lop3.b32 %y0, %x0, %x1, %x2, {table:#x};", "b32", bit_by_bit, a, b, c)


def test_prmt():
    a, b = pairs(32)
    selectors = np.array([RNG.getrandbits(16) for _ in a], np.uint32)

    def permute(a, b, selector):
        octets = (b << 32 | a).to_bytes(8, "little")
        result = 0
        for i in range(4):
            nibble = selector >> 4 * i & 15
            octet = octets[nibble & 7]
            if nibble & 8:
                octet = 255 if octet & 128 else 0
            result |= octet << 8 * i
        return result

    check("prmt.b32 %y0, %x0, %x1, %x2;", "b32", permute, a, b, selectors)


def fields(count, bits):
    sizes = [0, 1, 5, bits // 2, bits - 1, bits, bits + 3, 255, 256 + 4]
    return [np.array([RNG.choice(sizes) for _ in range(count)], np.uint32) for _ in range(2)]


@pytest.mark.parametrize("type_", ["u32", "s32", "u64", "s64"])
def test_bfe(type_):
    bits = int(type_[1:])
    a, _ = pairs(bits, 600)
    position, length = fields(len(a), bits)

    def extract(a, position, length):
        """The ISA's loop."""
        position, length, top = position & 255, length & 255, bits - 1
        sign = a >> min(position + length - 1, top) & 1 if type_[0] == "s" and length else 0
        return sum(
            (a >> position + i & 1 if i < length and position + i <= top else sign) << i for i in range(bits)
        )

    check(f"bfe.{type_} %y0, %x0, %x1, %x2;", type_, extract, a, position, length)


@pytest.mark.parametrize("bits", [32, 64])
def test_bfi(bits):
    a, b = pairs(bits, 600)
    position, length = fields(len(a), bits)

    def insert(a, b, position, length):
        position, length = position & 255, length & 255
        for i in range(length):
            if position + i < bits:
                b = b & ~(1 << position + i) | (a >> i & 1 if i < bits else 0) << position + i
        return b

    check(f"bfi.b{bits} %y0, %x0, %x1, %x2, %x3;", f"b{bits}", insert, a, b, position, length)


@pytest.mark.parametrize("bits", [32, 64])
def test_counts(bits):
    a, _ = pairs(bits)
    type_ = f"b{bits}"
    check(f"brev.{type_} %y0, %x0;", type_, lambda a: int(f"{a:0{bits}b}"[::-1], 2), a)
    check(f"popc.{type_} %y0, %x0;", type_, lambda a: a.bit_count(), a, result="u32")
    check(f"clz.{type_} %y0, %x0;", type_, lambda a: bits - a.bit_length(), a, result="u32")


@pytest.mark.parametrize("type_", ["u32", "s32", "u64", "s64"])
def test_bfind(type_):
    bits = int(type_[1:])
    a, _ = pairs(bits)

    def find(a, amount):
        a = ~a if a < 0 else a
        if not a:
            return -1
        return bits - a.bit_length() if amount else a.bit_length() - 1

    check(f"bfind.{type_} %y0, %x0;", type_, lambda a: find(a, False), a, result="u32")
    check(f"bfind.shiftamt.{type_} %y0, %x0;", type_, lambda a: find(a, True), a, result="u32")


def test_immediates_of_every_width():
    one = np.zeros(1, np.uint32)
    assert compute("add.u32 %y0, %x0, 0xFFFFFFFF;", "u32", one) == 0xFFFFFFFF
    assert compute("add.s32 %y0, %x0, -5;", "u32", one) == 2**32 - 5
    assert compute("add.s64 %y0, %x0, -5;", "u64", one.astype(np.uint64)) == 2**64 - 5
    assert compute("add.u16 %y0, %x0, 65535;", "u16", one.astype(np.uint16)) == 65535
    assert compute("mul.wide.s32 %y0, %x0, -3;", "u64", one + np.uint32(7)) == 2**64 - 21


def test_operands_may_be_the_result():
    a, b = pairs(32)
    check("mov.u32 %y0, %x0; sub.u32 %y0, %x1, %y0;", "u32", lambda a, b: b - a, a, b)
    check("mov.u32 %y0, %x0; mad.lo.u32 %y0, %y0, %y0, %y0;", "u32", lambda a, b: a * a + a, a, b)
