"""A kernel as Python functions, one for each basic block.

A block's function takes the machine, a window of it (some warps of some blocks) and a mask: True when all
lanes of the window run, else an array. What it returns tells the scheduler where the lanes go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

# The emitters register themselves.
import flashactor.emulator.translate.arithmetic
import flashactor.emulator.translate.bulk
import flashactor.emulator.translate.comparison
import flashactor.emulator.translate.conversion
import flashactor.emulator.translate.memory
import flashactor.emulator.translate.synchronization
import flashactor.emulator.translate.warp
import flashactor.emulator.translate.warpgroup  # noqa: F401
from flashactor.emulator import halves, numeric
from flashactor.emulator.ptx.flow import Flow, flow_of, is_wait
from flashactor.emulator.ptx.module import Entry, Instruction, Module, Operand, Register, Vector
from flashactor.emulator.ptx.parse import parse
from flashactor.emulator.translate.emitters import EMITTERS, OPERANDS
from flashactor.emulator.translate.registers import Slots, allocate, written_registers
from flashactor.emulator.translate.statement import Statement
from flashactor.errors import EmulationError

CONTROL = frozenset({"bra", "ret", "exit", "trap"})
"""What the scheduler does itself, without an emitter."""

BlockFunction = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A translated entry.

    Attributes:
        module: what it was parsed from.
        entry: the entry.
        flow: its basic blocks.
        slots: where its registers live.
        functions: one for each block.
        kinds: how each block ends: ``fall``, ``branch``, ``exit`` or ``wait``.
        python: the generated code, for people.
    """

    module: Module
    entry: Entry
    flow: Flow
    slots: Slots
    functions: tuple[BlockFunction, ...]
    kinds: tuple[str, ...]
    python: str


@lru_cache(maxsize=32)
def translate(ptx: str, entry: str) -> Kernel:
    """Parse and translate one entry of a PTX text.

    Raises:
        PtxSyntaxError: the text is no PTX, or has no such entry.
        UnsupportedPtxError: an instruction that the emulator does not know, with its line.
    """
    module = parse(ptx)
    if entry not in module.entries:
        from flashactor.errors import PtxSyntaxError

        raise PtxSyntaxError(
            field="entry",
            got=repr(entry),
            expected="one of " + (", ".join(sorted(module.entries)) or "no entry at all"),
            remedy='declare the kernel extern "C", or pass its mangled name',
        )
    found = module.entries[entry]
    flow = flow_of(found)
    slots = allocate(found, flow)
    translator = _Translator(found, flow, slots)
    return Kernel(
        module=module,
        entry=found,
        flow=flow,
        slots=slots,
        functions=translator.functions(),
        kinds=tuple(_kind(found.instructions[block.stop - 1]) for block in flow.blocks),
        python=translator.source,
    )


def _kind(last: Instruction) -> str:
    if last.opcode == "bra":
        return "branch"
    if last.opcode in ("ret", "exit", "trap"):
        return "exit"
    return "wait" if is_wait(last) else "fall"


class _Translator:
    """Collects the code of an entry's blocks; what statements need of their surroundings."""

    def __init__(self, entry: Entry, flow: Flow, slots: Slots) -> None:
        self._entry = entry
        self._flow = flow
        self._slots = slots
        self._constants: dict[tuple[str, bytes], str] = {}
        self._lines: list[str] = []
        self._indent = " "
        self._fragments: dict[tuple[str, ...], tuple[str, frozenset[int]]] = {}
        self._namespace: dict[str, Any] = {
            "np": np,
            "numeric": numeric,
            "halves": halves,
            "put": _put,
            "pair_of": _pair_of,
            "joined": _joined,
        }
        for position, block in enumerate(flow.blocks):
            self._block(position, block.start, block.stop)
        self.source = "\n".join(self._lines) + "\n"

    def functions(self) -> tuple[BlockFunction, ...]:
        """Compile the code."""
        exec(compile(self.source, f"<emulated {self._entry.name}>", "exec"), self._namespace)
        return tuple(self._namespace[f"block_{position}"] for position in range(len(self._flow.blocks)))

    # ---- what statements need
    def slot(self, register: Register) -> int:
        return self._slots.of[register.number]

    def constant(self, value: Any) -> str:
        scalar = np.asarray(value)
        key = (scalar.dtype.str, scalar.tobytes())
        if key not in self._constants:
            self._constants[key] = f"c{len(self._constants)}"
            self._namespace[self._constants[key]] = value
        return self._constants[key]

    def emit(self, line: str) -> None:
        self._lines.append(self._indent + line)

    def fragment(self, s: Statement, operand: Operand, type_: str, side: str) -> str:
        """The local with a matrix operand, unpacked; the same registers are unpacked once in a block."""
        registers = s.values(operand, "b32")
        expression = f"M.tensor.fragment(w, {s.mask}, {type_!r}, {side!r}, {registers})"
        if s.mask != "m":
            return expression
        key = (registers, type_, side)
        if key not in self._fragments:
            items = operand.items if isinstance(operand, Vector) else (operand,)
            numbers = frozenset(self.slot(item) for item in items if isinstance(item, Register))
            self._fragments[key] = (f"f{s.index}{side}", numbers)
            self.emit(f"f{s.index}{side} = {expression}")
        return self._fragments[key][0]

    # ---- blocks
    def _block(self, position: int, start: int, stop: int) -> None:
        self._indent = " "
        self._fragments.clear()
        self._lines.append(f"def block_{position}(M, w, m):")
        self.emit("p, u2, i2, f2, u4, i4, f4, u8, i8, f8 = w.registers")
        for index in range(start, stop):
            self._instruction(self._entry.instructions[index], index)

    def _instruction(self, instruction: Instruction, index: int) -> None:
        opcode = instruction.opcode
        guard = ""
        if instruction.guard is not None:
            guard = f"{'~' if instruction.guard_inverted else ''}p[{self.slot(instruction.guard)}]"
        if opcode in CONTROL:
            statement = Statement(instruction, index, self, "m")
            statement.ignore("uni")
            statement.finish()
        if opcode in ("bra", "ret", "exit"):
            self.emit(f"return {guard or 'None'}")
            return
        mask = "m"
        if guard:
            self.emit(f"g = w.guarded(m, {guard})")
            self.emit("if g is not None:")
            self._indent, mask = "  ", "g"
        before = len(self._lines)
        statement = Statement(instruction, index, self, mask)
        if opcode == "trap":
            self.emit(f"M.trap(w, {mask}, {index})")
        elif len(instruction.operands) not in OPERANDS.get(opcode, (len(instruction.operands),)):
            statement.refuse(f"{opcode} with {len(instruction.operands)} operands")
        elif opcode in EMITTERS:
            try:
                EMITTERS[opcode](statement)
            except EmulationError:
                raise
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                TypeError,
                ValueError,
                AssertionError,
            ) as error:
                raise statement.error(f"{opcode} with these operands") from error
            statement.finish()
        else:
            statement.refuse(f"the instruction {opcode}")
        if guard and len(self._lines) == before:
            self.emit("pass")
        self._indent = " "
        self._forget(instruction)

    def _forget(self, instruction: Instruction) -> None:
        """Drop the fragments whose registers have changed."""
        written = {
            self.slot(register)
            for register in written_registers(instruction)
            if register.type not in ("pred",) and register.number in self._slots.of
        }
        if written and self._fragments:
            kept = {key: value for key, value in self._fragments.items() if not value[1] & written}
            self._fragments = kept


def _put(target: Any, value: Any, mask: Any) -> None:
    """Assign to the lanes of a mask."""
    if mask is True:
        target[...] = value
    else:
        np.copyto(target, value, casting="unsafe", where=mask)


def _pair_of(value: Any) -> Any:
    """A 64-bit register as two float32, on a new last axis."""
    return np.ascontiguousarray(value).view(np.float32).reshape(*np.shape(value), 2)


def _joined(value: Any) -> Any:
    """The inverse of ``_pair_of``."""
    return np.ascontiguousarray(value).view(np.uint64).reshape(value.shape[:-1])
