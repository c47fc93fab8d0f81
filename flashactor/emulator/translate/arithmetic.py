"""Integer, floating-point and logic instructions (PTX ISA, sections 9.7.1 to 9.7.8)."""

from __future__ import annotations

import numpy as np

from flashactor.emulator.ptx.module import Immediate
from flashactor.emulator.ptx.types import HALVES, NUMPY
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.statement import Statement

_INTEGER_UFUNCS = {"add": "add", "sub": "subtract", "mul": "multiply", "min": "minimum", "max": "maximum"}
_WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def _float(s: Statement, type_: str, expression: str, ftz: bool, sat: bool) -> None:
    """Assign a float result, flushed and saturated as the modifiers say."""
    if ftz:
        expression = f"numeric.flush({expression})"
    if sat:
        expression = f"numeric.saturate({expression})"
    s.assign(s.target(s.operands[0], type_), expression)


def _inputs(s: Statement, type_: str, ftz: bool, first: int = 1) -> list[str]:
    values = [s.value(operand, type_) for operand in s.operands[first:]]
    return [f"numeric.flush({value})" for value in values] if ftz else values


def _half(s: Statement, operation: str, type_: str) -> None:
    s.ignore("rn", "approx")
    has_sat = type_.startswith("f16") and operation in ("add", "sub", "mul", "fma")
    flags = {
        "ftz": s.flag("ftz"),
        "relu": operation == "fma" and s.flag("relu"),
        "sat": has_sat and s.flag("sat"),
        "nan": operation in ("min", "max") and s.flag("NaN"),
    }
    stored = "b32" if type_.endswith("x2") else "b16"
    values = [s.value(operand, stored) for operand in s.operands[1:]]
    set_flags = [f"{name}=True" for name, is_set in flags.items() if is_set]
    expression = f"halves.compute({', '.join([repr(operation), repr(type_), *values, *set_flags])})"
    s.assign(s.target(s.operands[0], stored), expression)


def _pairs(s: Statement, operation: str) -> None:
    """``.f32x2``: two float32 in a 64-bit register."""
    s.ignore("rn")
    ftz = s.flag("ftz")
    values = ", ".join(f"pair_of({s.value(operand, 'b64')})" for operand in s.operands[1:])
    functions = {"add": "np.add", "sub": "np.subtract", "mul": "np.multiply", "fma": "numeric.fma_f32"}
    result = f"{functions[operation]}({values})"
    if ftz:
        result = f"numeric.flush({result})"
    s.assign(s.target(s.operands[0], "b64"), f"joined({result})")


@emits("add", "sub", operands=(3,))
def add(s: Statement) -> None:
    """add, sub."""
    type_ = s.type()
    opcode = s.instruction.opcode
    if type_ in HALVES:
        return _half(s, opcode, type_)
    if type_ == "f32x2":
        return _pairs(s, opcode)
    if type_ in ("f32", "f64"):
        s.ignore("rn")
        ftz, sat = s.flag("ftz"), s.flag("sat")
        values = _inputs(s, type_, ftz)
        if not ftz and not sat:
            return s.ufunc(_INTEGER_UFUNCS[opcode], s.target(s.operands[0], type_), *values)
        return _float(s, type_, f"np.{_INTEGER_UFUNCS[opcode]}({', '.join(values)})", ftz, sat)
    values = _inputs(s, type_, False)
    return s.ufunc(_INTEGER_UFUNCS[opcode], s.target(s.operands[0], type_), *values)


@emits("mul", operands=(3,))
def mul(s: Statement) -> None:
    """mul, mul.wide, mul.hi."""
    type_ = s.type()
    if type_ in HALVES:
        return _half(s, "mul", type_)
    if type_ == "f32x2":
        return _pairs(s, "mul")
    if type_ in ("f32", "f64"):
        s.ignore("rn")
        ftz, sat = s.flag("ftz"), s.flag("sat")
        values = _inputs(s, type_, ftz)
        if not ftz and not sat:
            return s.ufunc("multiply", s.target(s.operands[0], type_), *values)
        return _float(s, type_, f"np.multiply({', '.join(values)})", ftz, sat)
    values = _inputs(s, type_, False)
    part = s.require("lo", "hi", "wide")
    if part == "wide":
        wide = _WIDER[type_]
        target = s.target(s.operands[0], wide)
        return s.emit(
            f"np.multiply({', '.join(values)}, out={target}, where={s.mask}, dtype='{NUMPY[wide]}')"
        )
    if part == "hi":
        return s.assign(s.target(s.operands[0], type_), f"numeric.high_product({', '.join(values)})")
    return s.ufunc("multiply", s.target(s.operands[0], type_), *values)


@emits("mul24", operands=(3,))
def mul24(s: Statement) -> None:
    """mul24.lo: the low 32 bits of a product of 24-bit numbers."""
    type_, _ = s.type(), s.require("lo")
    shift = "<< np.uint32(8) >> np.uint32(8)" if type_ == "u32" else "<< np.int32(8) >> np.int32(8)"
    values = [f"({value} {shift})" for value in _inputs(s, type_, False)]
    s.ufunc("multiply", s.target(s.operands[0], type_), *values)


@emits("mad", operands=(4,))
def mad(s: Statement) -> None:
    """mad.lo, mad.hi, mad.wide; of floats it is fma."""
    type_ = s.type()
    if type_ in ("f32", "f64"):
        return _fma(s, type_)
    part = s.require("lo", "hi", "wide")
    a, b = (s.value(operand, type_) for operand in s.operands[1:3])
    if part == "wide":
        wide = _WIDER[type_]
        product = f"np.multiply({a}, {b}, dtype='{NUMPY[wide]}')"
        return s.assign(s.target(s.operands[0], wide), f"{product} + {s.value(s.operands[3], wide)}")
    product = f"numeric.high_product({a}, {b})" if part == "hi" else f"np.multiply({a}, {b})"
    return s.assign(s.target(s.operands[0], type_), f"{product} + {s.value(s.operands[3], type_)}")


@emits("fma", operands=(4,))
def fma(s: Statement) -> None:
    """fma.rn."""
    type_ = s.type()
    if type_ in HALVES:
        return _half(s, "fma", type_)
    if type_ == "f32x2":
        return _pairs(s, "fma")
    return _fma(s, type_)


def _fma(s: Statement, type_: str) -> None:
    s.require("rn")
    ftz, sat = s.flag("ftz"), s.flag("sat")
    values = ", ".join(_inputs(s, type_, ftz))
    return _float(s, type_, f"numeric.fma_{type_}({values})", ftz, sat)


@emits("div", "rem", operands=(3,))
def div(s: Statement) -> None:
    """div, rem; approximate float divisions are rounded correctly."""
    type_ = s.type()
    if type_ in ("f32", "f64"):
        s.require("rn", "approx", "full")
        ftz = s.flag("ftz")
        return _float(s, type_, f"np.divide({', '.join(_inputs(s, type_, ftz))})", ftz, False)
    function = "divide" if s.instruction.opcode == "div" else "remainder"
    values = ", ".join(_inputs(s, type_, False))
    return s.assign(s.target(s.operands[0], type_), f"numeric.{function}({values})")


@emits("neg", "abs", operands=(2,))
def neg(s: Statement) -> None:
    """neg, abs."""
    type_ = s.type()
    opcode = s.instruction.opcode
    if type_ in HALVES:
        return _half(s, opcode, type_)
    ftz = s.flag("ftz")
    name = "negative" if opcode == "neg" else "absolute"
    (value,) = _inputs(s, type_, ftz)
    return s.ufunc(name, s.target(s.operands[0], type_), value)


@emits("min", "max", operands=(3, 4))
def extreme(s: Statement) -> None:
    """min, max, of two numbers, or three of f32."""
    type_ = s.type()
    opcode = s.instruction.opcode
    if len(s.operands) == 4 and type_ != "f32":
        s.refuse(f"{opcode} of three numbers of type {type_}")
    if type_ in HALVES:
        return _half(s, opcode, type_)
    if type_ in ("f32", "f64"):
        ftz, nan = s.flag("ftz"), s.flag("NaN")
        values = _inputs(s, type_, ftz)
        expression = f"halves.extreme({opcode!r}, {values[0]}, {values[1]}, {nan})"
        if len(values) == 3:
            expression = f"halves.extreme({opcode!r}, {expression}, {values[2]}, {nan})"
        return s.assign(s.target(s.operands[0], type_), expression)
    relu = type_ == "s32" and s.flag("relu")
    values = _inputs(s, type_, False)
    if relu:
        return s.assign(
            s.target(s.operands[0], type_),
            f"np.maximum(np.{_INTEGER_UFUNCS[opcode]}({', '.join(values)}), np.int32(0))",
        )
    return s.ufunc(_INTEGER_UFUNCS[opcode], s.target(s.operands[0], type_), *values)


@emits("and", "or", "xor", operands=(3,))
def logic(s: Statement) -> None:
    """and, or, xor, also of predicates."""
    type_ = s.type()
    names = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}
    s.ufunc(names[s.instruction.opcode], s.target(s.operands[0], type_), *_inputs(s, type_, False))


@emits("not", operands=(2,))
def invert(s: Statement) -> None:
    """not."""
    type_ = s.type()
    s.ufunc("invert", s.target(s.operands[0], type_), s.value(s.operands[1], type_))


@emits("cnot", operands=(2,))
def cnot(s: Statement) -> None:
    """cnot: 1 where the operand is 0."""
    type_ = s.type()
    s.assign(s.target(s.operands[0], type_), f"({s.value(s.operands[1], type_)} == 0)")


@emits("shl", "shr", operands=(3,))
def shift(s: Statement) -> None:
    """shl, shr, with counts clamped to the width."""
    type_ = s.type()
    opcode = s.instruction.opcode
    shifted = type_.replace("b", "u")
    width = 8 * int(NUMPY[type_][1])
    target, value = s.target(s.operands[0], shifted), s.value(s.operands[1], shifted)
    count = s.operands[2]
    if isinstance(count, Immediate) and 0 <= count.value < width:
        constant = s.constant(np.dtype(NUMPY[shifted]).type(count.value))
        return s.ufunc("left_shift" if opcode == "shl" else "right_shift", target, value, constant)
    name = "shift_left" if opcode == "shl" else "shift_right"
    return s.assign(target, f"numeric.{name}({value}, {s.value(count, 'u32')})")


@emits("shf", operands=(4,))
def funnel_shift(s: Statement) -> None:
    """shf."""
    s.type()
    left = s.require("l", "r") == "l"
    wrap = s.require("wrap", "clamp") == "wrap"
    low, high, count = (s.value(operand, "u32") for operand in s.operands[1:4])
    expression = f"numeric.funnel_shift({low}, {high}, {count}, {left}, {wrap})"
    s.assign(s.target(s.operands[0], "u32"), expression)


@emits("lop3", operands=(5,))
def lop3(s: Statement) -> None:
    """lop3.b32."""
    s.type()
    a, b, c = (s.value(operand, "b32") for operand in s.operands[1:4])
    table = s.immediate(s.operands[4])
    s.assign(s.target(s.operands[0], "b32"), f"numeric.lop3({a}, {b}, {c}, {table})")


@emits("prmt", operands=(4,))
def permute(s: Statement) -> None:
    """prmt.b32 in its default mode."""
    s.type()
    a, b, selector = (s.value(operand, "b32") for operand in s.operands[1:4])
    s.assign(s.target(s.operands[0], "b32"), f"numeric.permute_bytes({a}, {b}, {selector})")


@emits("bfe", operands=(4,))
def bit_field_extract(s: Statement) -> None:
    """bfe."""
    type_ = s.type()
    a, position, length = s.value(s.operands[1], type_), *(s.value(o, "u32") for o in s.operands[2:4])
    s.assign(s.target(s.operands[0], type_), f"numeric.bit_field_extract({a}, {position}, {length})")


@emits("bfi", operands=(5,))
def bit_field_insert(s: Statement) -> None:
    """bfi."""
    type_ = s.type()
    a, b = (s.value(operand, type_) for operand in s.operands[1:3])
    position, length = (s.value(operand, "u32") for operand in s.operands[3:5])
    expression = f"numeric.bit_field_insert({a}, {b}, {position}, {length})"
    s.assign(s.target(s.operands[0], type_), expression)


@emits("brev", "popc", "clz", operands=(2,))
def count_bits(s: Statement) -> None:
    """brev, popc, clz."""
    type_ = s.type()
    opcode = s.instruction.opcode
    function = {"brev": "reverse_bits", "popc": "count_ones", "clz": "leading_zeros"}[opcode]
    result = type_ if opcode == "brev" else "u32"
    s.assign(s.target(s.operands[0], result), f"numeric.{function}({s.value(s.operands[1], type_)})")


@emits("bfind", operands=(2,))
def find_bit(s: Statement) -> None:
    """bfind."""
    type_ = s.type()
    amount = s.flag("shiftamt")
    s.assign(
        s.target(s.operands[0], "u32"), f"numeric.highest_bit({s.value(s.operands[1], type_)}, {amount})"
    )


_UNARY = {
    "ex2": "np.exp2({})",
    "lg2": "np.log2({})",
    "rcp": "np.reciprocal({})",
    "sqrt": "np.sqrt({})",
    "rsqrt": "(1 / np.sqrt({}))",
    "sin": "np.sin({})",
    "cos": "np.cos({})",
    "tanh": "np.tanh({})",
}


@emits(*_UNARY, operands=(2,))
def transcendental(s: Statement) -> None:
    """ex2, lg2, rcp, sqrt, rsqrt, sin, cos, tanh.

    The ISA bounds the error of the ``.approx`` forms and leaves the bits open; NumPy's are within one unit of
    the last place, which is closer than any of those bounds.
    """
    type_ = s.type()
    opcode = s.instruction.opcode
    if type_ in HALVES:
        return _half(s, opcode, type_)
    s.require(*(("approx", "rn") if opcode in ("rcp", "sqrt") else ("approx",)))
    ftz = s.flag("ftz")
    (value,) = _inputs(s, type_, ftz)
    if type_ == "f64":
        return _float(s, type_, _UNARY[opcode].format(value), ftz, False)
    expression = _UNARY[opcode].format(value if opcode in ("ex2", "rcp", "sqrt") else f"np.float64({value})")
    if opcode in ("ex2", "rcp", "sqrt"):
        return _float(s, type_, expression, ftz, False)
    return _float(s, type_, f"np.float32({expression})", ftz, False)


@emits("copysign", operands=(3,))
def copysign(s: Statement) -> None:
    """copysign d, a, b: b with the sign of a."""
    type_ = s.type()
    sign, value = (s.value(operand, type_) for operand in s.operands[1:3])
    s.ufunc("copysign", s.target(s.operands[0], type_), value, sign)
