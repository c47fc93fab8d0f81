"""One instruction while it is translated: its modifiers are taken one by one, its operands become Python.

Whatever is left of the modifiers when an emitter is done was not understood, and that is an error: an
instruction is translated completely or not at all.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from flashactor.emulator.faults import unsupported_instruction
from flashactor.emulator.ptx.module import (
    Address,
    Discard,
    Immediate,
    Instruction,
    Not,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)
from flashactor.emulator.ptx.types import NUMPY, TYPE_BYTES
from flashactor.emulator.translate.registers import WIDTHS
from flashactor.emulator.translate.types import TYPES
from flashactor.errors import UnsupportedPtxError

_SPECIAL = frozenset(
    [f"%{base}.{axis}" for axis in "xyz"
     for base in ("tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid",
                  "cluster_ctaid", "cluster_nctaid")]
    + [f"%lanemask_{relation}" for relation in ("eq", "lt", "le", "gt", "ge")]
    + ["%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%gridid", "%clock", "%clock64",
       "%globaltimer", "%globaltimer_lo", "%cluster_ctarank", "%cluster_nctarank", "%is_explicit_cluster",
       "%dynamic_smem_size", "%total_smem_size"]
)  # fmt: skip
"""Those that ``machine/special.py`` knows."""


class Context(Protocol):
    """What a statement needs of the translator."""

    def slot(self, register: Register) -> int:
        """The register's slot."""

    def constant(self, value: Any) -> str:
        """The name that a constant has in the generated code."""

    def emit(self, line: str) -> None:
        """Append a line of Python."""

    def fragment(self, s: Statement, operand: Operand, type_: str, side: str) -> str:
        """The local that holds an unpacked matrix operand."""


class Statement:
    """An instruction under translation."""

    def __init__(self, instruction: Instruction, index: int, context: Context, mask: str) -> None:
        self.instruction = instruction
        self.index = index
        self.mask = mask
        self.operands = instruction.operands
        self._context = context
        self._left = list(instruction.modifiers)

    # ---- modifiers
    def flag(self, *names: str) -> bool:
        """Take a modifier if it is there, in any of its spellings."""
        for name in names:
            if name in self._left:
                self._left.remove(name)
                return True
        return False

    def choice(self, *names: str) -> str:
        """Take the one of several modifiers that is there, or ''."""
        return next((name for name in names if self.flag(name)), "")

    def require(self, *names: str) -> str:
        """Take one of several modifiers; none is an error."""
        return self.choice(*names) or self.refuse(f"{self.instruction.opcode} without .{' or .'.join(names)}")

    def ignore(self, *names: str) -> None:
        """Take modifiers that change speed or scope, not results."""
        for name in names:
            self.flag(name)

    def ignore_prefixed(self, *prefixes: str) -> None:
        """Take modifiers such as ``.L2::128B``."""
        self._left = [name for name in self._left if not name.startswith(prefixes)]

    def type(self) -> str:
        """Take the next type."""
        for name in self._left:
            if name in TYPE_BYTES:
                self._left.remove(name)
                if name not in TYPES.get(self.instruction.opcode, (name,)):
                    self.refuse(f"{self.instruction.opcode} of {name}")
                return name
        return str(self.refuse(f"{self.instruction.opcode} without a type"))

    def take_matching(self, predicate: Any) -> list[str]:
        """Take all modifiers that a predicate accepts."""
        taken = [name for name in self._left if predicate(name)]
        self._left = [name for name in self._left if not predicate(name)]
        return taken

    def finish(self) -> None:
        """Require that nothing is left."""
        if self._left:
            self.refuse(f"{self.instruction.opcode} with .{'.'.join(self._left)}")

    def refuse(self, what: str) -> Any:
        """Raise: this instruction, or this form of it, is unknown."""
        raise self.error(what)

    def error(self, what: str) -> UnsupportedPtxError:
        """The error that ``refuse`` raises."""
        return unsupported_instruction(self.instruction, what)

    # ---- operands
    def value(self, operand: Operand, type_: str) -> str:
        """The expression of an operand read as a type."""
        match operand:
            case Register():
                return self._register(operand, type_)
            case Not(register):
                return f"~p[{self._context.slot(register)}]"
            case Immediate(value, kind):
                return self._context.constant(_typed_constant(value, kind, type_))
            case Special(name) if name in _SPECIAL:
                return f"w.special({name!r}, {NUMPY[type_]!r})"
            case Symbol(_, space, offset):
                if space == "global" or space == "const":
                    return self._context.constant(np.dtype(NUMPY[type_]).type(offset)) + f" + M.{space}_base"
                return self._context.constant(np.dtype(NUMPY[type_]).type(offset))
        return str(self.refuse(f"the operand {operand}"))

    def target(self, operand: Operand, type_: str) -> str:
        """The array that a result of a type is written to; narrower results fill the register's width."""
        if isinstance(operand, Discard):
            return f"w.scratch({NUMPY[type_]!r})"
        if not isinstance(operand, Register):
            return str(self.refuse(f"a result in {operand}"))
        slot, width = self._context.slot(operand), WIDTHS[operand.type]
        code = NUMPY[type_]
        if width == 0 and code == "p":
            return f"p[{slot}]"
        if code == "p" or int(code[1]) > width:
            self.refuse(f"a result of type {type_} in {operand.name} of type {operand.type}")
        return f"{code if int(code[1]) == width else code[0] + str(width)}[{slot}]"

    def values(self, operand: Operand, type_: str) -> str:
        """A Python list of the expressions of a vector's items, or of one operand."""
        items = operand.items if isinstance(operand, Vector) else (operand,)
        return "[" + ", ".join(self.value(item, type_) for item in items) + "]"

    def targets(self, operand: Operand, type_: str) -> str:
        """A Python list of the arrays of a vector's items, or of one operand."""
        items = operand.items if isinstance(operand, Vector) else (operand,)
        return "[" + ", ".join(self.target(item, type_) for item in items) + "]"

    def address(self, operand: Operand) -> tuple[str, int]:
        """The expression of an address without its constant part, and that."""
        if not isinstance(operand, Address):
            self.refuse(f"{operand} as an address")
        assert isinstance(operand, Address)
        base = operand.base
        if not -(2**63) <= operand.offset < 2**63:
            self.refuse("an offset beyond 64 bits")
        if isinstance(base, Register):
            return self.value(base, "u64" if WIDTHS[base.type] == 8 else "u32"), operand.offset
        if isinstance(base, Symbol):
            if base.space in ("global", "const"):
                return f"np.uint64(M.{base.space}_base)", base.offset + operand.offset
            return "np.uint64(0)", base.offset + operand.offset
        if isinstance(base, Immediate):
            return "np.uint64(0)", base.value + operand.offset
        return str(self.refuse(f"{operand} as an address")), 0

    def pair(self, operand: Operand) -> tuple[Operand, Operand | None]:
        """The two results of ``a|b``, or one and None."""
        if isinstance(operand, Pair):
            return operand.first, operand.second
        return operand, None

    def slot(self, register: Register) -> int:
        """The slot of a register, for results that arrive later."""
        return self._context.slot(register)

    def fragment(self, operand: Operand, type_: str, side: str) -> str:
        """The expression of a matrix operand, unpacked to float32."""
        return self._context.fragment(self, operand, type_, side)

    def immediate(self, operand: Operand) -> int:
        """The value of a constant operand."""
        if isinstance(operand, Immediate):
            return operand.value
        return int(self.refuse(f"{operand} where a constant is needed"))

    # ---- code
    def emit(self, line: str) -> None:
        """Append a line of Python."""
        self._context.emit(line)

    def constant(self, value: Any) -> str:
        """The name of a constant."""
        return self._context.constant(value)

    def call(self, function: str, *arguments: str) -> None:
        """Append a call of a machine's method, with the window, the mask and this instruction's index."""
        self.emit(f"M.{function}({', '.join(['w', self.mask, str(self.index), *arguments])})")

    def ufunc(self, name: str, target: str, *arguments: str) -> None:
        """Append a NumPy ufunc that writes straight into a register."""
        self.emit(f"np.{name}({', '.join(arguments)}, out={target}, where={self.mask})")

    def assign(self, target: str, expression: str) -> None:
        """Append the assignment of an expression to a register."""
        if self.mask == "m":
            self.emit(f"put({target}, {expression}, m)")
        else:
            self.emit(f"np.copyto({target}, {expression}, casting='unsafe', where={self.mask})")

    def _register(self, register: Register, type_: str) -> str:
        slot, width = self._context.slot(register), WIDTHS[register.type]
        code = NUMPY[type_]
        if width == 0 and code == "p":
            return f"p[{slot}]"
        if code == "p" or int(code[1]) > width:
            self.refuse(f"{register.name} of type {register.type} read as {type_}")
        if int(code[1]) == width:
            return f"{code}[{slot}]"
        return f"u{width}[{slot}].astype('{code}')"


def _typed_constant(value: int, kind: str, type_: str) -> Any:
    """A constant as a NumPy scalar of the type that the instruction reads it as."""
    if type_ == "pred":
        return np.bool_(value)
    dtype = np.dtype(NUMPY[type_])
    if kind == "int" or dtype.kind != "f":
        if kind == "f64" and dtype.itemsize == 4:
            number = np.uint64(value).view(np.float64)
            return np.float32(number).view(np.uint32)
        bits = dtype.itemsize * 8
        unsigned = np.dtype(f"u{dtype.itemsize}")
        raw = np.array([value & ((1 << bits) - 1)], unsigned)
        if dtype.kind == "f":
            return dtype.type(value)
        return raw.view(dtype)[0]
    bits_of: Any = np.uint32(value).view(np.float32) if kind == "f32" else np.uint64(value).view(np.float64)
    return dtype.type(bits_of)
