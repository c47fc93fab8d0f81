"""Arithmetic on the 16-bit formats, alone or two in a register: decoded, computed, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator import numeric

Array = NDArray[Any]

_UNARY = {
    "ex2": np.exp2,
    "tanh": np.tanh,
}
_BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def decode(bits: Array, format_: str) -> Array:
    """``f16`` or ``bf16`` bits as float32."""
    if format_ == "bf16":
        return numeric.bf16_values(bits)
    return np.asarray(np.asarray(bits).view(np.float16).astype(np.float32))


def encode(x: Array, format_: str) -> Array:
    """float32 or float64 values as ``f16`` or ``bf16`` bits in uint16, rounded once."""
    if x.dtype == np.float64:
        if format_ == "bf16":
            return np.asarray(numeric.bf16_bits_of_f64(x).astype(np.uint16))
        return np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))
    bits = numeric.bf16_bits(x) if format_ == "bf16" else numeric.f16_bits(x)
    return np.asarray(bits.astype(np.uint16))


def flush(bits: Array, format_: str) -> Array:
    """``.ftz``: subnormal values become zeros of their sign."""
    exponent = np.uint16(0x7C00 if format_ == "f16" else 0x7F80)
    return np.where(bits & exponent == 0, bits & np.uint16(0x8000), bits)


def compute(
    operation: str,
    format_: str,
    *operands: Array,
    ftz: bool = False,
    relu: bool = False,
    sat: bool = False,
    nan: bool = False,
) -> Array:
    """An operation on uint16 operands, or on uint32 operands that hold two numbers each (``...x2``)."""
    if format_.endswith("x2"):
        halves = [
            compute(
                operation,
                format_[:-2],
                *(np.asarray(x >> np.uint32(shift)).astype(np.uint16) for x in operands),
                ftz=ftz,
                relu=relu,
                sat=sat,
                nan=nan,
            )
            for shift in (0, 16)
        ]
        return np.asarray(halves[0].astype(np.uint32) | halves[1].astype(np.uint32) << np.uint32(16))
    operands = tuple(flush(np.asarray(x), format_) if ftz else np.asarray(x) for x in operands)
    if operation in ("neg", "abs"):  # of the bits, so that a NaN keeps its payload
        (bits,) = operands
        return bits ^ np.uint16(0x8000) if operation == "neg" else bits & np.uint16(0x7FFF)
    values = [decode(x, format_) for x in operands]
    if operation == "fma":
        result = numeric.fma_small(*values)
    elif operation in _BINARY:
        # Of two numbers with at most 11 bits, float64 holds product and sum exactly or to odd-safe precision.
        result = _BINARY[operation](values[0].astype(np.float64), values[1].astype(np.float64))
    elif operation in ("min", "max"):
        result = extreme(operation, values[0], values[1], nan)
    else:
        result = _UNARY[operation](values[0])
    if relu:
        result = numeric.relu(result)
    if sat:
        result = numeric.saturate(result)
    encoded = encode(result, format_)
    return flush(encoded, format_) if ftz else encoded


def extreme(operation: str, a: Array, b: Array, nan: bool) -> Array:
    """``min`` or ``max`` of floats: the number beside a NaN unless ``.NaN``; -0 is below +0."""
    if nan:
        result = (np.minimum if operation == "min" else np.maximum)(a, b)
    else:
        result = (np.fmin if operation == "min" else np.fmax)(a, b)
    zeros = (np.asarray(a) == 0) & (np.asarray(b) == 0)
    if zeros.any():
        signs = np.signbit(a) | np.signbit(b) if operation == "min" else np.signbit(a) & np.signbit(b)
        zero = np.asarray(a).dtype.type(0)
        result = np.where(zeros, np.where(signs, -zero, zero), result)
    return np.asarray(result)
