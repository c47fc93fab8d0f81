"""Comparisons and selections (PTX ISA, section 9.7.7): setp, set, selp, slct."""

from __future__ import annotations

from flashactor.emulator.ptx.types import HALVES
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.statement import Statement

_COMPARE = {
    "eq": "np.equal({x}, {y})",
    "ne": "np.less({x}, {y}) | np.greater({x}, {y})",  # ordered, unlike NumPy's
    "lt": "np.less({x}, {y})",
    "le": "np.less_equal({x}, {y})",
    "gt": "np.greater({x}, {y})",
    "ge": "np.greater_equal({x}, {y})",
    "lo": "np.less({x}, {y})",
    "ls": "np.less_equal({x}, {y})",
    "hi": "np.greater({x}, {y})",
    "hs": "np.greater_equal({x}, {y})",
    "equ": "~(np.less({x}, {y}) | np.greater({x}, {y}))",
    "neu": "np.not_equal({x}, {y})",
    "ltu": "~np.greater_equal({x}, {y})",
    "leu": "~np.greater({x}, {y})",
    "gtu": "~np.less_equal({x}, {y})",
    "geu": "~np.less({x}, {y})",
    "num": "~(np.isnan({x}) | np.isnan({y}))",
    "nan": "np.isnan({x}) | np.isnan({y})",
}
_DIRECT = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
           "ge": "greater_equal", "lo": "less", "ls": "less_equal", "hi": "greater",
           "hs": "greater_equal"}  # fmt: skip
_FLOAT_ONLY = ("eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
_RELATIONS = {
    "s": ("eq", "ne", "lt", "le", "gt", "ge"),
    "u": ("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"),
    "b": ("eq", "ne"),
    "f": (),
}
"""Which comparisons there are, by the first letter of the type; of floats the other ones."""


def _comparison(s: Statement) -> tuple[str, str, list[str]]:
    """(comparison, type, operands as Python) of setp and set."""
    compare = s.require(*_COMPARE)
    ftz = s.flag("ftz")
    type_ = s.type()
    is_float = type_ in ("f32", "f64") or type_ in HALVES
    if compare not in (_FLOAT_ONLY if is_float else ()) and compare not in _RELATIONS[type_[0]]:
        s.refuse(f"a comparison {compare} of {type_}")
    if type_ in HALVES:
        s.refuse(f"a comparison of {type_}") if type_.endswith("x2") else None
        values = [f"halves.decode({s.value(operand, 'b16')}, {type_!r})" for operand in s.operands[1:3]]
        return compare, "f32", values
    values = [s.value(operand, type_) for operand in s.operands[1:3]]
    if ftz:
        values = [f"numeric.flush({value})" for value in values]
    return compare, type_, values


@emits("setp", operands=(3, 4))
def setp(s: Statement) -> None:
    """setp, with one or two results and an optional third predicate."""
    combine = s.choice("and", "or", "xor")
    if bool(combine) != (len(s.operands) == 4):
        s.refuse("setp with these operands")
    compare, type_, (x, y) = _comparison(s)
    first, second = s.pair(s.operands[0])
    is_float = type_ in ("f32", "f64")
    if not combine and second is None and compare in _DIRECT and not (is_float and compare == "ne"):
        return s.ufunc(_DIRECT[compare], s.target(first, "pred"), x, y)
    s.emit(f"t = {_COMPARE[compare].format(x=x, y=y)}")
    operator = {"and": "&", "or": "|", "xor": "^", "": ""}[combine]
    third = f" {operator} {s.value(s.operands[3], 'pred')}" if combine else ""
    s.emit(f"t, t2 = t{third}, ~t{third}")
    s.assign(s.target(first, "pred"), "t")
    if second is not None:
        s.assign(s.target(second, "pred"), "t2")
    return None


@emits("set", operands=(3,))
def set_(s: Statement) -> None:
    """set: all ones, or 1.0, where the comparison holds."""
    result = s.type()
    if result not in ("u32", "s32", "f32"):
        s.refuse(f"set with a result of {result}")
    compare, _, (x, y) = _comparison(s)
    true = "np.float32(1)" if result == "f32" else "np.uint32(0xFFFFFFFF)"
    false = "np.float32(0)" if result == "f32" else "np.uint32(0)"
    expression = f"np.where({_COMPARE[compare].format(x=x, y=y)}, {true}, {false})"
    s.assign(s.target(s.operands[0], "f32" if result == "f32" else "u32"), expression)


@emits("selp", operands=(4,))
def selp(s: Statement) -> None:
    """selp."""
    type_ = s.type()
    a, b = (s.value(operand, type_) for operand in s.operands[1:3])
    s.assign(s.target(s.operands[0], type_), f"np.where({s.value(s.operands[3], 'pred')}, {a}, {b})")


@emits("slct", operands=(4,))
def slct(s: Statement) -> None:
    """slct d, a, b, c: a where c >= 0."""
    ftz = s.flag("ftz")
    type_, decided_by = s.type(), s.type()
    a, b = (s.value(operand, type_) for operand in s.operands[1:3])
    c = s.value(s.operands[3], decided_by)
    if ftz:
        c = f"numeric.flush({c})"
    s.assign(s.target(s.operands[0], type_), f"np.where({c} >= 0, {a}, {b})")
