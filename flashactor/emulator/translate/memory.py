"""Loads, stores, atomics and asynchronous copies (PTX ISA, section 9.7.9)."""

from __future__ import annotations

from flashactor.emulator.ptx.module import Discard, Operand, Register, Vector
from flashactor.emulator.ptx.types import HALVES, TYPE_BYTES
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.statement import Statement

SPACES = ("param", "global", "shared", "shared::cta", "shared::cluster", "local", "const")
_ORDERS = ("weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "mmio", "sc")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_CACHING = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "noftz")
_INTEGERS = ("u32", "s32", "u64", "s64")
_ATOMIC_TYPES = {
    "add": (*_INTEGERS, "f32", "f64", *HALVES),
    "cas": ("b16", "b32", "b64"),
    **dict.fromkeys(("min", "max"), (*_INTEGERS, *HALVES)),
    **dict.fromkeys(("and", "or", "xor", "exch"), ("b32", "b64")),
    **dict.fromkeys(("inc", "dec"), ("u32",)),
}


def space_of(s: Statement) -> str:
    """Take the state space; without one an address is generic."""
    s.ignore("param::entry")
    return s.choice(*SPACES).split("::")[0] or "generic"


def _qualifiers(s: Statement) -> str:
    """Take what does not change a result that every lane computes in program order; the order is kept."""
    order = s.choice(*_ORDERS)
    s.ignore(*_SCOPES, *_CACHING)
    s.ignore_prefixed("L1::", "L2::", "level::")
    return order


def _require_items(s: Statement, operand: Operand) -> None:
    """As many registers as ``.v2``, ``.v4`` or ``.v8`` says."""
    count = int((s.choice("v2", "v4", "v8") or "v1")[1:])
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        s.refuse(f"{len(items)} registers for {count} values")


@emits("ld", "ldu", operands=(2,))
def load(s: Statement) -> None:
    """ld of one to eight values, from any space."""
    order = _qualifiers(s)
    space = space_of(s)
    type_ = s.type()
    _require_items(s, s.operands[0])
    base, offset = s.address(s.operands[1])
    s.call(
        "memory.load",
        repr(space),
        base,
        str(offset),
        s.targets(s.operands[0], type_),
        str(TYPE_BYTES[type_]),
        repr(order in ("acquire", "relaxed", "volatile", "mmio")),
    )


@emits("st", operands=(2,))
def store(s: Statement) -> None:
    """st of one to eight values, to any space."""
    order = _qualifiers(s)
    space = space_of(s)
    type_ = s.type()
    _require_items(s, s.operands[1])
    base, offset = s.address(s.operands[0])
    if order == "release":
        s.call("fence_global")
    s.call(
        "memory.store",
        repr(space),
        base,
        str(offset),
        s.values(s.operands[1], type_),
        str(TYPE_BYTES[type_]),
        repr(order in ("release", "relaxed", "volatile", "mmio")),
    )


@emits("atom", "red")
def atomic(s: Statement) -> None:
    """atom, red."""
    order = s.choice(*_ORDERS)
    s.ignore(*_SCOPES, "noftz")
    s.ignore_prefixed("L2::")
    space = space_of(s)
    operation = s.require("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas")
    type_ = s.type()
    is_swap = operation in ("exch", "cas")
    if type_ not in _ATOMIC_TYPES[operation] or (is_swap and s.instruction.opcode == "red"):
        s.refuse(f"{s.instruction.opcode}.{operation} of {type_}")
    has_result = s.instruction.opcode == "atom" and not isinstance(s.operands[0], Discard)
    rest = s.operands[1:] if s.instruction.opcode == "atom" else s.operands
    _require_items(s, rest[1])
    base, offset = s.address(rest[0])
    if order in ("release", "acq_rel"):
        s.call("fence_global")
    s.call(
        "memory.atomic",
        repr(space),
        base,
        str(offset),
        repr(operation),
        repr(type_),
        s.targets(s.operands[0], type_) if has_result else "None",
        s.values(rest[1], type_),
        s.values(rest[2], type_) if len(rest) > 2 else "None",
    )


@emits("prefetch", "prefetchu", "discard", "applypriority")
def hint(s: Statement) -> None:
    """Hints to the caches; the address is not checked, for a prefetch of nonsense is legal."""
    s.ignore_prefixed("L1", "L2", "global", "local", "tensormap", "param", "const", "128B")


@emits("isspacep", operands=(2,))
def isspacep(s: Statement) -> None:
    """isspacep: whether a generic address lies in a space."""
    space = s.require("global", "shared", "shared::cta", "shared::cluster", "local", "const", "param")
    value = s.value(s.operands[1], "u64")
    s.assign(s.target(s.operands[0], "pred"), f"M.is_in({value}, {space.split('::')[0]!r})")


@emits("mapa")
def mapa(s: Statement) -> None:
    """mapa: the address of a variable in a block of the cluster, which is always the block itself."""
    type_ = s.type()
    s.require("shared::cluster")
    s.assign(s.target(s.operands[0], type_), s.value(s.operands[1], type_))


def copy_async(s: Statement) -> None:
    """cp.async without bulk."""
    s.flag("async")
    if s.flag("commit_group"):
        return s.call("copies.commit")
    if s.flag("wait_group"):
        return s.call("copies.wait", str(s.immediate(s.operands[0])))
    if s.flag("wait_all"):
        return s.call("copies.wait", "-1")
    if s.flag("mbarrier"):
        base, offset = s.address(s.operands[0])
        s.require("arrive")
        noinc = s.flag("noinc")
        s.ignore("shared", "shared::cta", "b64")
        return s.call("copies.arrive", base, str(offset), repr(noinc))
    caching = s.require("ca", "cg")
    s.require("shared", "shared::cta")
    s.require("global")
    s.ignore_prefixed("L2::")
    size = s.immediate(s.operands[2])
    if size not in ((4, 8, 16) if caching == "ca" else (16,)):
        s.refuse(f"cp.async.{caching} of {size} bytes")
    if len(s.operands) > 3 and isinstance(s.operands[3], Register) and s.operands[3].type == "pred":
        s.refuse("cp.async with ignore-src")
    to, to_offset = s.address(s.operands[0])
    source, source_offset = s.address(s.operands[1])
    taken = s.value(s.operands[3], "u32") if len(s.operands) > 3 else "None"
    s.call("copies.copy", to, str(to_offset), source, str(source_offset), str(size), taken)
    return None
