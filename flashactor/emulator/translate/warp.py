"""Instructions of a whole warp: shuffles, votes, reductions, matrices (PTX ISA, sections 9.7.9 to 9.7.14)."""

from __future__ import annotations

import re

from flashactor.emulator.ptx.module import Vector
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.statement import Statement

_SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)$")
_INPUT_TYPES = {
    "m16n8k8": ("f16", "bf16"),
    "m16n8k16": ("f16", "bf16"),
    "m16n8k32": ("e4m3", "e5m2"),
}

_A_AND_B_REGISTERS = {"m16n8k8": (2, 1), "m16n8k16": (4, 2), "m16n8k32": (4, 2)}


@emits("shfl", operands=(5,))
def shuffle(s: Statement) -> None:
    """shfl.sync."""
    s.require("sync")
    mode = s.require("up", "down", "bfly", "idx")
    s.type()
    result, valid = s.pair(s.operands[0])
    a, b, c, members = (s.value(operand, "b32") for operand in s.operands[1:5])
    s.call(
        "warps.shuffle",
        repr(mode),
        s.target(result, "b32"),
        "None" if valid is None else s.target(valid, "pred"),
        a, b, c, members,
    )  # fmt: skip


@emits("vote", operands=(3,))
def vote(s: Statement) -> None:
    """vote.sync."""
    s.require("sync")
    mode = s.require("all", "any", "uni", "ballot")
    type_ = s.type()
    if type_ != ("b32" if mode == "ballot" else "pred"):
        s.refuse(f"vote.{mode} of {type_}")
    target = s.target(s.operands[0], type_)
    s.call("warps.vote", repr(mode), target, s.value(s.operands[1], "pred"), s.value(s.operands[2], "b32"))


@emits("activemask", operands=(1,))
def activemask(s: Statement) -> None:
    """activemask."""
    s.type()
    s.call("warps.active_mask", s.target(s.operands[0], "b32"))


@emits("redux", operands=(3,))
def reduce(s: Statement) -> None:
    """redux.sync of integers and, on sm_100, of float32."""
    s.require("sync")
    operation = s.require("add", "min", "max", "and", "or", "xor")
    magnitude, nan = s.flag("abs"), s.flag("NaN")
    type_ = s.type()
    allowed = ("b32",) if operation in ("and", "or", "xor") else ("u32", "s32")
    if operation in ("min", "max"):
        allowed = (*allowed, "f32")
    if type_ not in allowed or ((magnitude or nan) and type_ != "f32"):
        s.refuse(f"this redux of {type_}")
    target = s.target(s.operands[0], type_)
    value, members = s.value(s.operands[1], type_), s.value(s.operands[2], "b32")
    s.call("warps.reduce", repr(operation), target, value, members, repr(magnitude), repr(nan))


@emits("elect", operands=(2,))
def elect(s: Statement) -> None:
    """elect.sync."""
    s.require("sync")
    lane, elected = s.pair(s.operands[0])
    if elected is None:
        s.refuse("elect.sync without a predicate")
    assert elected is not None
    s.call("warps.elect", s.target(lane, "b32"), s.target(elected, "pred"), s.value(s.operands[1], "b32"))


@emits("ldmatrix", "stmatrix", operands=(2,))
def matrix_rows(s: Statement) -> None:
    """ldmatrix and stmatrix of 8x8 matrices of 16-bit elements."""
    s.require("sync")
    s.require("aligned")
    s.require("m8n8")
    count = int(s.require("x1", "x2", "x4")[1:])
    transposed = s.flag("trans")
    s.ignore("shared", "shared::cta")
    if s.type() != "b16":
        s.refuse(f"{s.instruction.opcode} of other than b16")
    registers = s.operands[0 if s.instruction.opcode == "ldmatrix" else 1]
    if len(registers.items if isinstance(registers, Vector) else (registers,)) != count:
        s.refuse(f"{s.instruction.opcode} of {count} matrices with other registers")
    if s.instruction.opcode == "ldmatrix":
        base, offset = s.address(s.operands[1])
        s.call("tensor.load_matrices", s.targets(s.operands[0], "b32"), base, str(offset), repr(transposed))
    else:
        base, offset = s.address(s.operands[0])
        s.call("tensor.store_matrices", s.values(s.operands[1], "b32"), base, str(offset), repr(transposed))


@emits("movmatrix", operands=(2,))
def transpose(s: Statement) -> None:
    """movmatrix: an 8x8 matrix of 16-bit elements, transposed."""
    s.require("sync")
    s.require("aligned")
    s.require("m8n8")
    s.require("trans")
    s.type()
    s.call("tensor.transpose", s.target(s.operands[0], "b32"), s.value(s.operands[1], "b32"))


@emits("mma", operands=(4,))
def mma(s: Statement) -> None:
    """mma.sync of f16, bf16, e4m3 and e5m2 with float32 or f16 accumulators."""
    s.require("sync")
    s.require("aligned")
    (shape,) = s.take_matching(_SHAPE.match) or [""]
    s.require("row")
    s.require("col")
    d, a, b, c = s.type(), s.type(), s.type(), s.type()
    allowed = _INPUT_TYPES.get(shape, ())
    if a not in allowed or b not in allowed or (a != b and shape != "m16n8k32"):
        s.refuse(f"mma of shape {shape} for {a} and {b}")
    if d != c or d not in ("f32", "f16") or (d == "f16" and "bf16" in (a, b)):
        s.refuse(f"mma with accumulators {c} and results {d}")
    counts = [len(operand.items) if isinstance(operand, Vector) else 1 for operand in s.operands]
    wanted = [4 if d == "f32" else 2, *(_A_AND_B_REGISTERS[shape]), 4 if d == "f32" else 2]
    if counts != wanted:
        s.refuse(f"mma of shape {shape} with {counts} registers")
    accumulator = "f32" if d == "f32" else "b32"
    s.call(
        "tensor.multiply",
        s.targets(s.operands[0], accumulator),
        s.fragment(s.operands[1], a, "a"),
        s.fragment(s.operands[2], b, "b"),
        s.values(s.operands[3], accumulator),
        repr(d),
    )
