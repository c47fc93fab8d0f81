"""Matrix products of a warpgroup (PTX ISA, section 9.7.15: wgmma)."""

from __future__ import annotations

import re

from flashactor.emulator.ptx.module import Vector
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.statement import Statement

_SHAPE = re.compile(r"m64n(\d+)k(\d+)$")
_DEPTH = {"f16": 16, "bf16": 16, "e4m3": 32, "e5m2": 32}


@emits("wgmma")
def wgmma(s: Statement) -> None:
    """wgmma.fence, .commit_group, .wait_group, .mma_async."""
    action = s.require("fence", "commit_group", "wait_group", "mma_async")
    s.require("sync")
    s.require("aligned")
    if action == "fence":
        return s.call("warpgroups.fence")
    if action == "commit_group":
        return s.call("warpgroups.commit")
    if action == "wait_group":
        return s.call("warpgroups.wait", str(s.immediate(s.operands[0])))
    (shape,) = s.take_matching(_SHAPE.match)
    columns, depth = (int(extent) for extent in re.findall(r"[nk](\d+)", shape))
    d, a, b = s.type(), s.type(), s.type()
    if a not in _DEPTH or b not in _DEPTH or _DEPTH[a] != depth or _DEPTH[b] != depth:
        s.refuse(f"wgmma of {a} and {b} with k = {depth}")
    if columns % 8 or not 8 <= columns <= 256 or d not in ("f32", "f16"):
        s.refuse(f"wgmma with n = {columns} and results of {d}")
    if (a != b and "f16" in a + b) or (d == "f16" and "bf16" in (a, b)):
        s.refuse(f"wgmma of {a} and {b} with results of {d}")
    results, left, right, scale_d, *constants = s.operands
    from_registers = isinstance(left, Vector)
    wanted = columns // (2 if d == "f32" else 4)
    if not isinstance(results, Vector) or len(results.items) != wanted:
        s.refuse(f"wgmma with other than {wanted} registers of results")
    if isinstance(left, Vector) and len(left.items) != 4:
        s.refuse("wgmma with other than 4 registers of A")
    numbers = [s.immediate(operand) for operand in constants]
    scale_a, scale_b = numbers[:2]
    transposes = numbers[2:]
    if (
        abs(scale_a) != 1
        or abs(scale_b) != 1
        or len(transposes) != (0 if depth == 32 else 1 if from_registers else 2)
    ):
        s.refuse("wgmma with these constants")
    transpose_b = bool(transposes and transposes[-1])
    transpose_a = bool(len(transposes) == 2 and transposes[0])
    operand_a = s.values(left, "b32") if from_registers else s.value(left, "b64")
    s.call(
        "warpgroups.multiply",
        str(columns),
        repr(d),
        repr(a),
        repr(b),
        s.targets(results, "f32" if d == "f32" else "b32"),
        operand_a,
        s.value(right, "b64"),
        s.value(scale_d, "pred"),
        str(scale_a * scale_b),
        repr(transpose_a),
        repr(transpose_b),
    )
    return None
