"""Arithmetic that NumPy lacks, exact where the PTX ISA prescribes a rounding.

Functions take arrays or NumPy scalars, return arrays, and never change their arguments.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MIN_NORMAL = np.float32(2.0**-126)
_F32_SPARE = np.int64((1 << 29) - 1)  # bits of a float64 mantissa beyond those of a float32
_F32_TIE = np.int64(1 << 28)


def flush(x: Array) -> Array:
    """``.ftz``: subnormal float32 values become zeros of their sign."""
    return np.where(np.abs(x) < _MIN_NORMAL, np.copysign(np.float32(0), x), x)


def saturate(x: Array) -> Array:
    """``.sat``: into [0, 1], NaN to +0."""
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, x.dtype.type(0), x.dtype.type(1)))


def relu(x: Array) -> Array:
    """``.relu``: negative numbers and -0 become +0, NaN stays."""
    return np.where(x <= 0, x.dtype.type(0), x)


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` in float32, rounded once.

    The product is exact in float64. Rounding the sum to float64 and then to float32 is wrong only where the
    float64 lies half-way between two float32 values without being the exact sum, or where the result is
    subnormal; those are done again.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = np.asarray(product + c)
    result = total.astype(np.float32)
    doubtful = (total.view(np.int64) & _F32_SPARE) == _F32_TIE
    if doubtful.any() or ((np.abs(total) < 2.0**-126) & (total != 0)).any():
        return np.asarray(_round_to_odd_sum(product, c).astype(np.float32))
    return np.asarray(result)


def fma_small(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of 16-bit formats as a float64 that rounds to them correctly."""
    return _round_to_odd_sum(np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64))


def fma_f64(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` in float64, rounded once, element by element through exact fractions."""
    from fractions import Fraction

    def one(x: float, y: float, z: float) -> float:
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            return float(x * y + z)
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        if not exact:
            return float(x * y + z)
        try:
            return float(exact)
        except OverflowError:
            return float("inf") if exact > 0 else float("-inf")

    return np.asarray(np.vectorize(one, otypes=[np.float64])(a, b, c))


def _round_to_odd_sum(x: Array, y: Array) -> Array:
    """The sum with its last bit set where it is inexact (Boldo and Melquiond 2008, "Emulation of FMA and
    correctly rounded sums", section 3): rounding that to fewer bits equals rounding the exact sum."""
    total = np.asarray(x + y)
    part = total - x
    error = (x - (total - part)) + (y - part)
    bits = total.view(np.int64).copy()
    inexact = (error != 0) & np.isfinite(total) & ((bits & 1) == 0)
    towards = np.where((error > 0) == (total > 0), 1, -1)
    bits += np.where(inexact, towards, 0)
    return np.asarray(bits.view(np.float64))


def bf16_bits(x: Array) -> Array:
    """float32 values as bfloat16 bits in uint32, rounded to nearest even; every NaN is 0x7fff."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    nan = np.isnan(x)
    return np.where(nan, np.uint32(0x7FFF), rounded) if nan.any() else rounded


def bf16_bits_of_f64(x: Array) -> Array:
    """float64 values as bfloat16 bits, rounded once: through a float32 that is rounded to odd."""
    near = np.asarray(x).astype(np.float32)
    bits = near.view(np.int32).copy()
    inexact = (near != x) & np.isfinite(near) & ((bits & 1) == 0)
    bits += np.where(inexact, np.where(np.abs(x) > np.abs(near), 1, -1), 0).astype(np.int32)
    return bf16_bits(bits.view(np.float32))


def bf16_values(bits: Array) -> Array:
    """bfloat16 bits, in any unsigned type, as float32."""
    return np.asarray((np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32))


def f16_bits(x: Array) -> Array:
    """float32 values as float16 bits in uint32; every NaN is 0x7fff."""
    bits = np.asarray(x).astype(np.float16).view(np.uint16).astype(np.uint32)
    nan = np.isnan(x)
    return np.where(nan, np.uint32(0x7FFF), bits) if nan.any() else bits


@lru_cache(maxsize=2)
def fp8_values(format_: str) -> Array:
    """The float32 value of each of the 256 codes of ``e4m3`` or ``e5m2`` (OCP OFP8 1.0, table 1)."""
    code = np.arange(256)
    sign = np.where(code & 128, -1.0, 1.0)
    if format_ == "e4m3":
        exponent, mantissa = code >> 3 & 15, code & 7
        value = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
        value = np.where(code & 127 == 127, np.nan, value)
    else:
        exponent, mantissa = code >> 2 & 31, code & 3
        value = np.where(exponent == 0, mantissa * 2.0**-16, (4 + mantissa) * 2.0 ** (exponent - 17.0))
        value = np.where(exponent == 31, np.where(mantissa == 0, np.inf, np.nan), value)
    return (sign * value).astype(np.float32)


def fp8_bits(x: Array, format_: str) -> Array:
    """float32 values as fp8 codes in uint8: nearest even, saturated to the largest finite (``.satfinite``).

    NaN becomes 0x7f in both formats (PTX ISA, cvt).
    """
    largest = np.float32(448 if format_ == "e4m3" else 57344)
    bits, lowest = (3, -6) if format_ == "e4m3" else (2, -14)
    magnitude = np.minimum(np.abs(np.asarray(x, np.float64)), largest)
    _, exponent = np.frexp(magnitude)
    exponent = np.where(magnitude == 0, lowest, np.maximum(exponent - 1, lowest))
    # With its hidden bit, so a carry into the next power of two needs no case of its own.
    steps = np.rint(np.ldexp(np.nan_to_num(magnitude), bits - exponent)).astype(np.int64)
    code = ((exponent - lowest) << bits) + steps
    code = np.where(np.signbit(x), code | 128, code)
    return np.where(np.isnan(x), 0x7F, code).astype(np.uint8)


def divide(a: Array, b: Array) -> Array:
    """Integer quotient towards zero; all ones where the divisor is 0, as the hardware leaves it."""
    a, b = np.broadcast_arrays(a, b)
    zero = b == 0
    safe = np.where(zero, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        quotient = a // safe
    else:
        quotient = a // safe
        quotient = quotient + ((a % safe != 0) & ((a < 0) != (safe < 0))).astype(a.dtype)
    return np.where(zero, np.array(-1).astype(a.dtype), quotient)


def remainder(a: Array, b: Array) -> Array:
    """What the truncated quotient leaves; the dividend where the divisor is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.where(b == 0, a, np.asarray(a - divide(a, b) * b))


def high_product(a: Array, b: Array) -> Array:
    """The upper half of a product, of 16, 32 or 64 bits."""
    a, b = np.broadcast_arrays(a, b)
    width = a.dtype.itemsize * 8
    if width < 64:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        product = np.multiply(a, b, dtype=wide)
        return np.asarray((product >> wide(width)).astype(a.dtype))
    unsigned_a, unsigned_b = a.view(np.uint64), b.view(np.uint64)
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a0, a1, b0, b1 = unsigned_a & mask, unsigned_a >> half, unsigned_b & mask, unsigned_b >> half
    middle = a1 * b0 + (a0 * b0 >> half)
    other = a0 * b1 + (middle & mask)
    high = a1 * b1 + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, unsigned_b, np.uint64(0)) - np.where(b < 0, unsigned_a, np.uint64(0))
    return np.asarray(high.view(a.dtype))


def shift_left(a: Array, count: Array) -> Array:
    """``shl``: counts from the width on give 0."""
    width = a.dtype.itemsize * 8
    clamped = np.minimum(count, width - 1).astype(a.dtype)
    return np.asarray(np.where(np.asarray(count) >= width, a.dtype.type(0), a << clamped))


def shift_right(a: Array, count: Array) -> Array:
    """``shr``: counts from the width on give 0, or the sign where ``a`` is signed."""
    width = a.dtype.itemsize * 8
    clamped = np.minimum(count, width - 1).astype(a.dtype)
    if a.dtype.kind == "i":
        return np.asarray(a >> clamped)
    return np.asarray(np.where(np.asarray(count) >= width, a.dtype.type(0), a >> clamped))


def funnel_shift(low: Array, high: Array, count: Array, left: bool, wrap: bool) -> Array:
    """``shf``: a window of 32 bits of ``high:low``."""
    amount = (np.asarray(count) & np.uint32(31)) if wrap else np.minimum(count, np.uint32(32))
    both = np.asarray(low).astype(np.uint64) | np.asarray(high).astype(np.uint64) << np.uint64(32)
    amount = amount.astype(np.uint64)
    if left:
        return (
            np.asarray((both << amount >> np.uint64(32)).astype(np.uint32))
            if wrap
            else np.where(
                amount == 32,
                np.asarray(low),
                (both << (amount & np.uint64(31)) >> np.uint64(32)).astype(np.uint32),
            )
        )
    return np.asarray((both >> amount).astype(np.uint32))


def bit_field_extract(a: Array, position: Array, length: Array) -> Array:
    """``bfe``: ``length`` bits from ``position`` on, sign-extended where ``a`` is signed."""
    width = a.dtype.itemsize * 8
    start = (np.asarray(position) & np.uint32(255)).astype(np.int64)
    count = (np.asarray(length) & np.uint32(255)).astype(np.int64)
    start, count = np.broadcast_arrays(start, count)
    unsigned = np.uint32 if width == 32 else np.uint64
    bits = np.broadcast_to(a, np.broadcast_shapes(np.shape(a), start.shape)).astype(a.dtype)
    kept: Array = shift_right(bits, start).view(unsigned)  # beyond the top of a signed number lies its sign
    mask = np.where(
        count >= width, ~unsigned(0), shift_left(unsigned(1) + kept * unsigned(0), count) - unsigned(1)
    )
    kept = kept & mask
    if a.dtype.kind == "i":
        sign_at = np.minimum(start + count - 1, width - 1)
        sign = shift_right(bits.view(unsigned), np.maximum(sign_at, 0)) & unsigned(1)
        kept = np.where((count > 0) & (sign != 0), kept | ~mask, kept)
    return np.asarray(kept).view(a.dtype)


def bit_field_insert(a: Array, b: Array, position: Array, length: Array) -> Array:
    """``bfi``: ``b`` with ``length`` bits of ``a`` put in at ``position``."""
    unsigned = b.dtype.type
    width = b.dtype.itemsize * 8
    start = np.asarray(position).astype(np.uint32) & np.uint32(255)
    count = np.asarray(length).astype(np.uint32) & np.uint32(255)
    one = np.zeros(
        np.broadcast_shapes(np.shape(a), np.shape(b), start.shape, count.shape), b.dtype
    ) + unsigned(1)
    mask = np.where(count >= width, ~unsigned(0), shift_left(one, count) - unsigned(1))
    mask = shift_left(mask, start)
    return np.asarray((b & ~mask) | (shift_left(a * one, start) & mask))


def reverse_bits(a: Array) -> Array:
    """``brev``."""
    width = a.dtype.itemsize * 8
    result = a * a.dtype.type(0)
    for bit in range(width):
        result = result | ((a >> a.dtype.type(bit)) & a.dtype.type(1)) << a.dtype.type(width - 1 - bit)
    return np.asarray(result)


def count_ones(a: Array) -> Array:
    """``popc``."""
    unsigned = np.ascontiguousarray(a)
    octets = unsigned.view(np.uint8).reshape(*unsigned.shape, unsigned.dtype.itemsize)
    return np.asarray(np.unpackbits(octets, axis=-1).sum(-1, dtype=np.uint32))


def leading_zeros(a: Array) -> Array:
    """``clz``."""
    unsigned = np.ascontiguousarray(a)
    octets = unsigned.view(np.uint8).reshape(*unsigned.shape, unsigned.dtype.itemsize)[..., ::-1]
    bits = np.unpackbits(octets, axis=-1)
    return np.where(bits.any(-1), bits.argmax(-1), unsigned.dtype.itemsize * 8).astype(np.uint32)


def highest_bit(a: Array, shift_amount: bool) -> Array:
    """``bfind``: position of the highest 1 (of the highest bit unlike the sign, if signed), else all ones."""
    width = a.dtype.itemsize * 8
    unsigned = np.uint32 if width == 32 else np.uint64
    magnitude = np.where(a < 0, ~a, a).view(unsigned) if a.dtype.kind == "i" else a
    zeros = leading_zeros(np.asarray(magnitude))
    found = zeros if shift_amount else (np.uint32(width - 1) - zeros)
    return np.where(zeros == width, np.uint32(0xFFFFFFFF), found)


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    """``lop3``: any logic function of three inputs; bit ``4 a + 2 b + c`` of the table is its value."""
    result = (a | b | c) & np.uint32(0)
    for row in range(8):
        if table >> row & 1:
            result = result | ((a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c))
    return np.asarray(result)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    """``prmt``: each nibble of the selector picks one of eight bytes, or its sign, replicated."""
    both = np.asarray(a).astype(np.uint64) | np.asarray(b).astype(np.uint64) << np.uint64(32)
    result = both & np.uint64(0)
    for byte in range(4):
        nibble = (np.asarray(selector) >> np.uint32(4 * byte)).astype(np.uint64)
        picked = (both >> ((nibble & np.uint64(7)) * np.uint64(8))) & np.uint64(0xFF)
        sign = np.where(picked & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result = result | np.where(nibble & np.uint64(8), sign, picked) << np.uint64(8 * byte)
    return np.asarray(result.astype(np.uint32))


def to_integer(x: Array, dtype: Any, mode: str) -> Array:
    """Float to integer: rounded (``rni rzi rmi rpi``), clamped to the type's range, NaN to 0.

    A NaN becomes 0, as cvt prescribes for all but 64-bit destinations of older ISAs.
    """
    rounding = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode]
    whole = rounding(np.asarray(x, np.float64))
    limits = np.iinfo(dtype)
    inside = (
        (whole >= limits.min) & (whole <= limits.max) & ~(whole >= 2.0 ** (limits.bits - (limits.min < 0)))
    )
    result = np.where(inside, whole, 0).astype(dtype)
    result = np.where(whole >= 2.0 ** (limits.bits - (limits.min < 0)), dtype(limits.max), result)
    return np.where(whole < limits.min, dtype(limits.min), result)


def clamp(x: Array, code: str) -> Array:
    """Integers into the range of a type, given by its NumPy code."""
    here, there = np.iinfo(np.asarray(x).dtype), np.iinfo(code)
    return np.clip(x, max(here.min, there.min), min(here.max, there.max))


def odd_f64(x: Array) -> Array:
    """Integers as float64, rounded to odd where they need more bits: another rounding then does no harm."""
    x = np.asarray(x)
    if x.dtype.itemsize < 8:
        return x.astype(np.float64)
    one = x.dtype.type(1)
    tail = x & x.dtype.type(0x7FF)
    odd = (x - tail) | np.where(tail != 0, one << x.dtype.type(11), x.dtype.type(0))
    limit = x.dtype.type(1 << 53)
    small = x < limit if x.dtype.kind == "u" else (x < limit) & (x > -limit)
    return np.where(small, x, odd).astype(np.float64)


def round_f32(x: Array, mode: str) -> Array:
    """float64 to float32 in the direction of ``rz``, ``rm`` or ``rp``."""
    near = np.asarray(x).astype(np.float32)
    infinity = np.float32(np.inf)
    if mode == "rm":
        return np.where(near > x, np.nextafter(near, -infinity), near)
    if mode == "rp":
        return np.where(near < x, np.nextafter(near, infinity), near)
    return np.where(np.abs(near) > np.abs(x), np.nextafter(near, np.float32(0)), near)
