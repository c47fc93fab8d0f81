"""Which types each opcode has (PTX ISA, chapter 9), for opcodes that have one."""

from __future__ import annotations

_INTEGERS = ("u16", "s16", "u32", "s32", "u64", "s64")
_BITS = ("b16", "b32", "b64")
_FLOATS = ("f32", "f64")
_HALVES = ("f16", "f16x2", "bf16", "bf16x2")

TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add", "sub", "mul"), (*_INTEGERS, *_FLOATS, *_HALVES, "f32x2")),
    **dict.fromkeys(("mad", "div"), (*_INTEGERS, *_FLOATS)),
    **dict.fromkeys(("min", "max"), (*_INTEGERS, *_FLOATS, *_HALVES)),
    **dict.fromkeys(("neg", "abs"), ("s16", "s32", "s64", *_FLOATS, *_HALVES)),
    **dict.fromkeys(("and", "or", "xor", "not"), ("pred", *_BITS)),
    **dict.fromkeys(("shf", "lop3", "prmt", "shfl", "activemask"), ("b32",)),
    **dict.fromkeys(("bfe", "bfind"), ("u32", "s32", "u64", "s64")),
    **dict.fromkeys(("bfi", "brev", "popc", "clz"), ("b32", "b64")),
    **dict.fromkeys(("ex2", "tanh"), ("f32", *_HALVES)),
    **dict.fromkeys(("lg2", "sin", "cos"), ("f32",)),
    **dict.fromkeys(("rcp", "sqrt", "rsqrt", "copysign"), _FLOATS),
    "mul24": ("u32", "s32"),
    "fma": (*_FLOATS, *_HALVES, "f32x2"),
    "rem": _INTEGERS,
    "cnot": _BITS,
    "shl": _BITS,
    "shr": (*_BITS, *_INTEGERS),
    "setp": (*_BITS, *_INTEGERS, "f16", "bf16", *_FLOATS),
    "selp": (*_BITS, *_INTEGERS, *_FLOATS),
    "mov": ("pred", *_BITS, *_INTEGERS, *_FLOATS),
    "movmatrix": ("b16",),
}
