"""The types of PTX (PTX ISA, section 5.2): their sizes, and what stands for them in NumPy."""

TYPE_BYTES = {
    **dict.fromkeys(("u8", "s8", "b8", "e4m3", "e5m2"), 1),
    **dict.fromkeys(("u16", "s16", "b16", "f16", "bf16", "e4m3x2", "e5m2x2"), 2),
    **dict.fromkeys(("u32", "s32", "b32", "f32", "f16x2", "bf16x2", "tf32"), 4),
    **dict.fromkeys(("u64", "s64", "b64", "f64", "f32x2"), 8),
    "b128": 16,
    "pred": 1,
}
"""Bytes of a value of a fundamental or packed type (PTX ISA, Types, section 5.2)."""

NUMPY = {
    "u8": "u1", "s8": "i1", "b8": "u1", "e4m3": "u1", "e5m2": "u1",
    "u16": "u2", "s16": "i2", "b16": "u2", "f16": "f2", "bf16": "u2", "e4m3x2": "u2", "e5m2x2": "u2",
    "u32": "u4", "s32": "i4", "b32": "u4", "f32": "f4", "f16x2": "u4", "bf16x2": "u4", "tf32": "u4",
    "u64": "u8", "s64": "i8", "b64": "u8", "f64": "f8", "f32x2": "u8",
    "pred": "p",
}  # fmt: skip
"""PTX type -> NumPy type code, under which registers are viewed; ``p`` is a predicate."""

HALVES = ("f16", "f16x2", "bf16", "bf16x2")
"""The 16-bit floating-point types, alone and two in a register."""
