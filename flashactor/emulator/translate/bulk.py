"""The copy engine: cp.async, cp.async.bulk and its tensor form (PTX ISA, section 9.7.9.25)."""

from __future__ import annotations

import re

from flashactor.emulator.machine.bulk import REDUCED
from flashactor.emulator.ptx.module import Operand
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.memory import copy_async
from flashactor.emulator.translate.statement import Statement

_RANK = re.compile(r"[1-5]d$")
_COMPLETION = "mbarrier::complete_tx::bytes"


@emits("cp")
def copy(s: Statement) -> None:
    """cp.async, cp.async.bulk, cp.async.bulk.tensor, cp.reduce.async.bulk."""
    if "bulk" not in s.instruction.modifiers:
        return copy_async(s)
    reduction = s.flag("reduce")
    s.require("async")
    s.require("bulk")
    if s.flag("commit_group"):
        return s.call("bulk.commit")
    if s.flag("wait_group"):
        reading = s.flag("read")
        return s.call("bulk.wait", str(s.immediate(s.operands[0])), repr(reading))
    if s.flag("prefetch"):
        s.ignore("tensor", "L2", "global", "tile", "L2::cache_hint")
        s.take_matching(_RANK.match)
        return None
    s.ignore_prefixed("L2::")
    if s.flag("tensor"):
        return _tensor(s, reduction)
    return _plain(s, reduction)


def _plain(s: Statement, reduction: bool) -> None:
    to_shared = _direction(s)
    size = s.value(s.operands[2], "u32")
    to, source = (_place(s, operand) for operand in s.operands[:2])
    if to_shared:
        s.require(_COMPLETION)
        if reduction:
            s.refuse("cp.reduce.async.bulk into shared memory")
        return s.call("bulk.load", to, source, size, _place(s, s.operands[3]))
    s.require("bulk_group")
    operation, type_ = ("None", "None")
    if reduction:
        name, reduced = s.require("add", "min", "max", "inc", "dec", "and", "or", "xor"), s.type()
        if reduced not in REDUCED or ("f" in reduced and name not in ("add", "min", "max")):
            s.refuse(f"a bulk reduction by {name} of {reduced}")
        s.ignore("noftz")
        operation, type_ = repr(name), repr(reduced)
    return s.call("bulk.store", to, source, size, operation, type_)


def _tensor(s: Statement, reduction: bool) -> None:
    (rank,) = s.take_matching(_RANK.match) or [""]
    s.ignore("tile")
    to_shared = _direction(s)
    tensor = s.operands[1] if to_shared else s.operands[0]
    coordinates = getattr(tensor, "coordinates", ())
    if len(coordinates) != int(rank[:1] or 0):
        s.refuse(f"a tensor of rank {rank} with {len(coordinates)} coordinates")
    at = "[" + ", ".join(s.value(coordinate, "s32") for coordinate in coordinates) + "]"
    map_ = _place(s, tensor)
    if to_shared:
        s.require(_COMPLETION)
        if reduction:
            s.refuse("a reduction into shared memory")
        return s.call("bulk.load_tensor", _place(s, s.operands[0]), map_, at, _place(s, s.operands[2]))
    s.require("bulk_group")
    operation = repr(s.require("add", "min", "max")) if reduction else "None"
    return s.call("bulk.store_tensor", map_, at, _place(s, s.operands[1]), operation)


def _direction(s: Statement) -> bool:
    """Whether data flows into shared memory; takes both spaces."""
    spaces = [
        name for name in s.instruction.modifiers if name in ("global", "shared::cluster", "shared::cta")
    ]
    if len(spaces) != 2:
        s.refuse("this pair of state spaces")
    s.flag(spaces[0])
    s.flag(spaces[1])
    if (spaces[0] == "global") == (spaces[1] == "global"):
        s.refuse("a copy from shared to shared memory")
    return spaces[1] == "global"


def _place(s: Statement, operand: Operand) -> str:
    base, offset = s.address(operand)
    return f"({base}, {offset})"
