"""Data movement between registers, and conversions (PTX ISA, section 9.7.9: mov, cvt, cvta)."""

from __future__ import annotations

from flashactor.emulator.ptx.module import Discard, Register, Vector
from flashactor.emulator.ptx.types import NUMPY, TYPE_BYTES
from flashactor.emulator.translate.emitters import emits
from flashactor.emulator.translate.registers import WIDTHS
from flashactor.emulator.translate.statement import Statement

_INTEGER_MODES = ("rni", "rzi", "rmi", "rpi")
_FLOAT_MODES = ("rn", "rz", "rm", "rp")
_ROUNDING = {"rni": "np.rint", "rzi": "np.trunc", "rmi": "np.floor", "rpi": "np.ceil"}


@emits("mov", operands=(2,))
def mov(s: Statement) -> None:
    """mov, also packing into and unpacking from a wider register."""
    type_ = s.type()
    to, source = s.operands
    width = TYPE_BYTES[type_]
    for operand in (to, source):
        if isinstance(operand, Vector):
            sizes = {WIDTHS[item.type] for item in operand.items if isinstance(item, Register)}
            if len(operand.items) not in (2, 4) or sizes - {width // len(operand.items)}:
                s.refuse(f"mov.{type_} with parts of other sizes")
    if isinstance(source, Vector):
        part = f"b{8 * width // len(source.items)}"
        parts = ", ".join(s.value(item, part) for item in source.items)
        return s.assign(s.target(to, type_), f"w.packed([{parts}], {NUMPY[type_]!r})")
    if isinstance(to, Vector):
        part = f"b{8 * width // len(to.items)}"
        s.emit(f"t = w.unpacked({s.value(source, type_)}, {NUMPY[part]!r}, {len(to.items)})")
        for index, item in enumerate(to.items):
            if not isinstance(item, Discard):
                s.assign(s.target(item, part), f"t[..., {index}]")
        return None
    return s.assign(s.target(to, type_), s.value(source, type_))


@emits("cvta", operands=(2,))
def cvta(s: Statement) -> None:
    """cvta: between an address of a state space and a generic one."""
    type_ = s.type()
    to_space = s.flag("to")
    space = s.require("global", "shared", "shared::cta", "shared::cluster", "local", "const", "param")
    value = s.value(s.operands[1], "u64")
    operator = "-" if to_space else "+"
    s.assign(s.target(s.operands[0], type_), f"{value} {operator} M.address_window({space.split('::')[0]!r})")


@emits("cvt", operands=(2, 3))
def cvt(s: Statement) -> None:
    """cvt between integers and floats of all widths, also packed."""
    ftz, sat, satfinite, relu = s.flag("ftz"), s.flag("sat"), s.flag("satfinite"), s.flag("relu")
    mode = s.choice(*_INTEGER_MODES, *_FLOAT_MODES)
    to, source = s.type(), s.type()
    if len(s.operands) != (3 if to.endswith("x2") and source == "f32" else 2):
        s.refuse(f"cvt from {source} to {to} with {len(s.operands)} operands")
    if to in ("f16x2", "bf16x2") and not satfinite and not sat:
        return _pack_halves(s, to, source, mode, relu)
    if to in ("e4m3x2", "e5m2x2") and satfinite:
        return _pack_fp8(s, to, source, mode, relu)
    if satfinite or (relu and to not in ("f16", "bf16")) or mode not in _modes(to, source):
        s.refuse(f"cvt.{mode}{'.satfinite' * satfinite}{'.relu' * relu} from {source} to {to}")
    value = _decoded(s, source, ftz)
    if _is_integer(to):
        return _to_integer(s, to, source, value, mode, sat)
    if to in ("f16", "bf16"):
        return _to_half(s, to, source, value, mode, sat, relu)
    return _to_float(s, to, source, value, mode, sat, ftz)


def _is_integer(type_: str) -> bool:
    return type_[0] in "us"


def _modes(to: str, source: str) -> tuple[str, ...]:
    """The roundings that a conversion may have; "" stands for none."""
    widths = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
    if _is_integer(to):
        return ("",) if _is_integer(source) else _INTEGER_MODES
    if to not in widths or not (_is_integer(source) or source in widths):
        return ()
    if to == source:
        return ("", *_INTEGER_MODES)
    if to in ("f16", "bf16"):
        return ("rn",)
    if not _is_integer(source) and widths[to] > widths[source]:
        return ("",)
    return _FLOAT_MODES if to == "f32" and source not in ("u64", "s64") else ("rn",)


def _decoded(s: Statement, source: str, ftz: bool) -> str:
    if source in ("f16", "bf16"):
        return f"halves.decode({s.value(s.operands[1], 'b16')}, {source!r})"
    value = s.value(s.operands[1], source)
    return f"numeric.flush({value})" if ftz and source == "f32" else value


def _to_half(s: Statement, to: str, source: str, value: str, mode: str, sat: bool, relu: bool) -> None:
    if mode in _ROUNDING:
        value = f"{_ROUNDING[mode]}({value})"
    elif _is_integer(source):
        value = f"numeric.odd_f64({value})"
    if relu:
        value = f"numeric.relu({value})"
    if sat:
        value = f"numeric.saturate({value})"
    s.assign(s.target(s.operands[0], "b16"), f"halves.encode({value}, {to!r})")


def _to_integer(s: Statement, to: str, source: str, value: str, mode: str, sat: bool) -> None:
    code = NUMPY[to]
    if _is_integer(source):
        limited = f"numeric.clamp({value}, '{code}')" if sat else value
        value = f"w.full({limited}).astype('{code}')"
    else:
        value = f"numeric.to_integer({value}, np.dtype('{code}').type, {mode!r})"
    s.assign(s.target(s.operands[0], to), value)


def _to_float(s: Statement, to: str, source: str, value: str, mode: str, sat: bool, ftz: bool) -> None:
    code = NUMPY[to]
    if mode in _ROUNDING:
        value = f"{_ROUNDING[mode]}({value})"
    if mode in ("rz", "rm", "rp"):
        value = f"numeric.round_f32(np.float64({value}), {mode!r})"
    else:
        value = f"np.asarray({value}).astype('{code}')"
    if sat:
        value = f"numeric.saturate({value})"
    if ftz and to == "f32":
        value = f"numeric.flush({value})"
    s.assign(s.target(s.operands[0], to), value)


def _pack_halves(s: Statement, to: str, source: str, mode: str, relu: bool) -> None:
    """The first source goes to the upper half; from fp8 pairs, both halves come from one register."""
    if mode != "rn":
        s.refuse(f"cvt.{mode}.{to}")
    if source in ("e4m3x2", "e5m2x2"):
        codes, table = s.value(s.operands[1], "b16"), f"numeric.fp8_values({source[:4]!r})"
        low, high = f"{table}[{codes} & np.uint16(0xFF)]", f"{table}[{codes} >> np.uint16(8)]"
    elif source == "f32":
        high, low = (s.value(operand, "f32") for operand in s.operands[1:3])
    else:
        s.refuse(f"cvt to {to} from {source}")
    if relu:
        high, low = (f"numeric.relu({x})" for x in (high, low))
    function = f"numeric.{to[:-2]}_bits"
    expression = f"{function}({high}) << np.uint32(16) | {function}({low})"
    s.assign(s.target(s.operands[0], "b32"), expression)


def _pack_fp8(s: Statement, to: str, source: str, mode: str, relu: bool) -> None:
    if mode != "rn":
        s.refuse(f"cvt.{mode}.{to}")
    format_ = to[:4]
    if source == "f32":
        high, low = (s.value(operand, "f32") for operand in s.operands[1:3])
    elif source in ("f16x2", "bf16x2"):
        value = s.value(s.operands[1], "b32")
        high = f"halves.decode(({value} >> np.uint32(16)).astype('u2'), {source[:-2]!r})"
        low = f"halves.decode(np.asarray({value}).astype('u2'), {source[:-2]!r})"
    else:
        s.refuse(f"cvt to {to} from {source}")
    if relu:
        high, low = (f"numeric.relu({x})" for x in (high, low))
    expression = (
        f"numeric.fp8_bits({high}, {format_!r}).astype('u2') << np.uint16(8) | "
        f"numeric.fp8_bits({low}, {format_!r})"
    )
    s.assign(s.target(s.operands[0], "b16"), expression)
