"""What a PTX text says, as data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Register:
    """A virtual register: its name, its type, and a number that is unique in its entry."""

    name: str
    type: str
    number: int


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant. A floating-point one carries its bits and ``f32`` or ``f64`` as its kind."""

    value: int
    kind: str = "int"


@dataclass(frozen=True, slots=True)
class Special:
    """A special register such as ``%tid.x``."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or parameter: its state space, and its offset there."""

    name: str
    space: str
    offset: int


@dataclass(frozen=True, slots=True)
class Label:
    """A place to branch to; ``target`` indexes the entry's instructions."""

    name: str
    target: int


@dataclass(frozen=True, slots=True)
class Not:
    """A predicate used inverted."""

    register: Register


@dataclass(frozen=True, slots=True)
class Discard:
    """``_``: a result that nobody wants."""


@dataclass(frozen=True, slots=True)
class Vector:
    """``{a, b, ...}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``a|b``: two results."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Address:
    """``[base + offset]``; of a tensor also its coordinates, ``[base, {x, y}]``."""

    base: Operand
    offset: int = 0
    coordinates: tuple[Operand, ...] = ()


Operand = Register | Immediate | Special | Symbol | Label | Not | Discard | Vector | Pair | Address


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Where an instruction comes from in the CUDA source, as ``-lineinfo`` says.

    Attributes:
        file, line: the place.
        caller: the place where the function that it is in was inlined, or None.
    """

    file: str
    line: int
    caller: SourceLine | None = None

    def __str__(self) -> str:
        here = f"{self.file}({self.line})"
        return here if self.caller is None else f"{here} in {self.caller}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: what comes before the first dot.
        modifiers: what comes after it, in order.
        operands: as written.
        guard: the predicate register that decides, or None.
        guard_inverted: whether it is ``@!p``.
        line: line of the PTX text, from 1.
        text: the statement.
        source: the CUDA line.
    """

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    guard_inverted: bool
    line: int
    text: str
    source: SourceLine | None


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the module: its space, offset there, size, alignment and initial bytes."""

    name: str
    space: str
    offset: int
    size: int
    alignment: int
    initial: bytes | None = None


@dataclass(slots=True)
class Entry:
    """A kernel.

    Attributes:
        name: its symbol.
        parameters: name -> (offset, bytes) in parameter memory.
        parameter_types: name -> the declared type; of a struct, ``b8``.
        parameter_bytes: size of the parameter memory.
        instructions: in textual order.
        registers: every virtual register.
        shared_bytes: static shared memory; dynamic shared memory begins at ``dynamic_offset``.
        dynamic_offset: offset of dynamic shared memory.
        local_bytes: stack of a thread.
        threads_limit: ``.maxntid`` or ``.reqntid``, or None.
        is_limit_exact: whether it is ``.reqntid``.
    """

    name: str
    parameters: dict[str, tuple[int, int]]
    parameter_types: dict[str, str]
    parameter_bytes: int
    threads_limit: int | None = None
    is_limit_exact: bool = False
    instructions: list[Instruction] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    shared_bytes: int = 0
    dynamic_offset: int = 0
    local_bytes: int = 0


@dataclass(slots=True)
class Module:
    """A PTX text: its target, its entries and its variables."""

    target: str
    entries: dict[str, Entry]
    variables: dict[str, Variable]


def registers_of(operand: Operand) -> list[Register]:
    """The registers that an operand names, at any depth."""
    match operand:
        case Register():
            return [operand]
        case Not(register):
            return [register]
        case Vector(items):
            return [register for item in items for register in registers_of(item)]
        case Pair(first, second):
            return registers_of(first) + registers_of(second)
        case Address(base, _, coordinates):
            return [register for item in (base, *coordinates) for register in registers_of(item)]
    return []
