"""From PTX text to a ``Module`` (PTX ISA, chapters 4, 5 and 11)."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from flashactor.emulator.faults import unsupported
from flashactor.emulator.ptx.module import (
    TYPE_BYTES,
    Address,
    Discard,
    Entry,
    Immediate,
    Instruction,
    Label,
    Module,
    Not,
    Operand,
    Pair,
    Register,
    SourceLine,
    Special,
    Symbol,
    Variable,
    Vector,
)
from flashactor.errors import FaultLocation, PtxSyntaxError

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_SPACE = re.compile(r"\s*")
_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"[^\n]*')
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:[^\n]*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?[^\n]*")
_SECTION = re.compile(r"\.section\s+\S+\s*\{[^}]*\}")
_HEADER = re.compile(r"\.(version|target|address_size)\s+([^\n]*)")
_LABEL = re.compile(r"([A-Za-z_$%][\w$]*)\s*:(?!:)")
_ENTRY = re.compile(r"(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\b")
_ENTRY_NAME = re.compile(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?([^{]*)\{", re.S)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr[^,]*?\s)?([\w$]+)\s*(?:\[(\d+)\])?$"
)
_VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|common)\s+)*(\.extern\s+)?\.(global|const|shared|local)\s+(?:\.align\s+(\d+)\s+)?"
    r"\.(\w+)\s+([\w$]+)((?:\s*\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.S,
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.S)
_RANGE = re.compile(r"(.*)<(\d+)>$")
_INSTRUCTION = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([a-z]\w*)((?:[.:][\w:]+)*)\s*(.*)$", re.S)
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?$")
_ADDRESS = re.compile(r"(.+?)\s*(?:([+-])\s*(-?\w+))?$", re.S)
_THREADS = re.compile(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)")

DYNAMIC_SHARED_ALIGNMENT = 1024


@dataclass(slots=True)
class _Scope:
    """A ``{ }`` block: names declared in it are seen in it alone."""

    outer: _Scope | None
    registers: dict[str, Register] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    symbols: dict[str, Variable] = field(default_factory=dict)

    def chain(self) -> Iterator[_Scope]:
        scope: _Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer


def parse(text: str) -> Module:
    """The module that a PTX text describes.

    Raises:
        PtxSyntaxError: the text is not PTX.
        UnsupportedPtxError: a declaration that the emulator does not know.
    """
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str) -> None:
        # Comments become blanks, so that offsets and line numbers stay those of the text.
        self._text = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._at = 0
        self._files: dict[str, str] = {}
        self._module = Module(target="", entries={}, variables={})
        self._globals = _Scope(None)

    def module(self) -> Module:
        """Parse the whole text."""
        self._collect_files()
        while self._skip_space():
            if not (self._match(_FILE) or self._match(_SECTION) or self._header()):
                if kind := _ENTRY.match(self._text, self._at):
                    if kind[1] == "func":
                        raise unsupported(self._line(), self._upto(";{"), "a function; kernels are inlined")
                    self._entry()
                else:
                    self._declaration(self._statement(), self._globals, None)
        if not self._module.target:
            raise PtxSyntaxError(
                field="ptx",
                got=repr(self._text.strip()[:40]),
                expected="PTX text, with a .target",
                remedy="pass what NVRTC's compile to PTX returns",
            )
        return self._module

    def _collect_files(self) -> None:
        # NVRTC writes the .file directives behind the code that refers to them.
        for found in _FILE.finditer(self._text):
            self._files[found[1]] = found[2]

    def _header(self) -> bool:
        found = self._match(_HEADER)
        if found and found[1] == "target":
            self._module.target = found[2].split(",")[0].strip()
        return found is not None

    def _entry(self) -> None:
        found = _ENTRY_NAME.search(self._text, self._at)
        if found is None:
            raise self._syntax("an entry", "an entry with a body")
        parameters, offset = {}, 0
        for declaration in _split(found[2] or ""):
            parsed = _PARAMETER.match(declaration.strip())
            if parsed is None or parsed[2] not in TYPE_BYTES:
                raise unsupported(self._line(), declaration.strip(), "a parameter")
            unit = TYPE_BYTES[parsed[2]]
            offset = _align(offset, int(parsed[1] or unit))
            size = unit * int(parsed[4] or 1)
            parameters[parsed[3]] = (offset, size)
            offset += size
        limit = _THREADS.search(found[3])
        threads = None
        if limit:
            threads = 1
            for extent in limit[1].split(","):
                threads *= int(extent)
        is_exact = limit is not None and limit[0].startswith(".reqntid")
        entry = Entry(found[1], parameters, offset, threads, is_exact)
        self._at = found.end()
        _Body(self, entry).parse()
        self._place_shared(entry)
        self._module.entries[entry.name] = entry

    def _place_shared(self, entry: Entry) -> None:
        static = [v for v in self._module.variables.values() if v.space == "shared" and v.size]
        entry.shared_bytes = max((v.offset + v.size for v in static), default=0)
        entry.dynamic_offset = _align(entry.shared_bytes, DYNAMIC_SHARED_ALIGNMENT)
        for index, instruction in enumerate(entry.instructions):
            if "shared_dynamic" in repr(instruction.operands):
                moved = tuple(_moved(operand, entry.dynamic_offset) for operand in instruction.operands)
                entry.instructions[index] = Instruction(
                    instruction.opcode,
                    instruction.modifiers,
                    moved,
                    instruction.guard,
                    instruction.guard_inverted,
                    instruction.line,
                    instruction.text,
                    instruction.source,
                )

    def _declaration(self, statement: str, scope: _Scope, entry: Entry | None) -> None:
        found = _VARIABLE.match(statement)
        if found is None or found[4] not in TYPE_BYTES:
            raise unsupported(self._line(), statement, "a declaration")
        external, space, alignment, type_, name, extents, initial = found.groups()
        unit = TYPE_BYTES[type_]
        count = 1
        for extent in re.findall(r"\[(\d*)\]", extents):
            count *= int(extent or 0)
        size, aligned = unit * count, int(alignment or unit)
        if space == "shared" and external:
            space = "shared_dynamic"
        variables = self._module.variables.values()
        if space == "local" and entry is not None:
            offset = _align(entry.local_bytes, aligned)
            entry.local_bytes = offset + size
        else:
            ends = [v.offset + v.size for v in variables if v.space == space and space != "shared_dynamic"]
            offset = _align(max(ends, default=0), aligned)
        data = None if initial is None else _initial_bytes(initial, type_, size)
        variable = Variable(name, space, offset, size, aligned, data)
        scope.symbols[name] = variable
        if space != "local":
            self._module.variables[name] = variable

    # ---- the text
    def _skip_space(self) -> bool:
        found = _SPACE.match(self._text, self._at)
        assert found
        self._at = found.end()
        return self._at < len(self._text)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _statement(self) -> str:
        end = self._text.find(";", self._at)
        if end < 0:
            raise self._syntax("a statement without an end", "a semicolon")
        statement = self._text[self._at : end]
        self._at = end + 1
        return statement.strip()

    def _upto(self, characters: str) -> str:
        found = re.compile(f"[^{re.escape(characters)}]*").match(self._text, self._at)
        return " ".join(found[0].split()) if found else ""

    def _line(self, at: int | None = None) -> int:
        return bisect_right(self._breaks, (self._at if at is None else at) - 1) + 1

    def _syntax(self, got: str, expected: str) -> PtxSyntaxError:
        return PtxSyntaxError(
            field=f"line {self._line()} of the PTX",
            got=f"{got} at {self._upto(chr(10))[:60]!r}",
            expected=expected,
            remedy="pass PTX as a compiler writes it",
        )


class _Pending(NamedTuple):
    """An instruction whose names are not resolved yet."""

    line: int
    scope: _Scope
    statement: str
    found: re.Match[str]
    source: SourceLine | None


class _Body:
    """The statements of one entry."""

    def __init__(self, parser: _Parser, entry: Entry) -> None:
        self._parser = parser
        self._entry = entry
        self._scope = _Scope(parser._globals)
        self._source: SourceLine | None = None
        self._places: dict[tuple[str, str, str], SourceLine] = {}
        self._pending: list[_Pending] = []

    def parse(self) -> None:
        """Read up to the entry's closing brace, then resolve names: a label may follow its branch."""
        parser, depth = self._parser, 1
        while depth:
            if not parser._skip_space():
                raise parser._syntax("the end", "the entry's closing brace")
            character = parser._text[parser._at]
            if character == "{":
                self._scope = _Scope(self._scope)
                depth += 1
                parser._at += 1
            elif character == "}":
                assert self._scope.outer is not None
                self._scope = self._scope.outer
                depth -= 1
                parser._at += 1
            elif found := parser._match(_LOC):
                self._source = self._source_line(found)
            elif found := parser._match(_LABEL):
                self._scope.labels[found[1]] = len(self._pending)
            else:
                self._statement()
        self._resolve()

    def _source_line(self, found: re.Match[str]) -> SourceLine:
        """The place that a .loc names; the place of a call was named before it, with its own caller."""
        file, line, column, *call = found.groups()
        caller = None
        if call[0] is not None:
            position = (call[0], call[1], call[2])
            caller = self._places.get(position) or SourceLine(
                self._parser._files.get(call[0], "?"), int(call[1])
            )
        place = SourceLine(self._parser._files.get(file, "?"), int(line), caller)
        self._places[file, line, column] = place
        return place

    def _statement(self) -> None:
        parser = self._parser
        line = parser._line()
        statement = parser._statement()
        if statement.startswith("."):
            if found := _REGISTERS.match(statement):
                self._registers(found)
            elif not statement.startswith((".pragma", ".callprototype")):
                parser._declaration(statement, self._scope, self._entry)
            return
        found = _INSTRUCTION.match(statement)
        if found is None:
            raise unsupported(line, statement, "a statement")
        self._pending.append(_Pending(line, self._scope, statement, found, self._source))

    def _registers(self, found: re.Match[str]) -> None:
        type_, names = found.groups()
        for name in names.split(","):
            ranged = _RANGE.match(name.strip())
            each = [f"{ranged[1]}{i}" for i in range(int(ranged[2]))] if ranged else [name.strip()]
            for one in each:
                register = Register(one, type_, len(self._entry.registers))
                self._entry.registers.append(register)
                self._scope.registers[one] = register

    def _resolve(self) -> None:
        for line, scope, statement, found, source in self._pending:
            inverted, guard, opcode, modifiers, operands = found.groups()
            resolve = partial(self._name, scope, line, statement)
            guard_register = resolve(guard) if guard else None
            if guard_register is not None and not isinstance(guard_register, Register):
                raise unsupported(line, statement, f"the guard {guard}")
            try:
                parsed = tuple(_operand(part.strip(), resolve) for part in _split(operands))
            except (AssertionError, IndexError, ValueError) as error:
                raise PtxSyntaxError(
                    field=f"line {line} of the PTX",
                    got=repr(" ".join(statement.split())),
                    expected="operands",
                    remedy="pass PTX as a compiler writes it",
                    at=FaultLocation(ptx_line=line, instruction=" ".join(statement.split())),
                ) from error
            self._entry.instructions.append(
                Instruction(
                    opcode=opcode,
                    modifiers=tuple(modifiers.split(".")[1:]) if modifiers else (),
                    operands=parsed,
                    guard=guard_register,
                    guard_inverted=bool(inverted),
                    line=line,
                    text=" ".join(statement.split()),
                    source=source,
                )
            )

    def _name(self, scope: _Scope, line: int, statement: str, name: str) -> Operand:
        for each in scope.chain():
            if name in each.registers:
                return each.registers[name]
            if name in each.labels:
                return Label(name, each.labels[name])
            if name in each.symbols:
                variable = each.symbols[name]
                return Symbol(name, variable.space, variable.offset)
        if name in self._entry.parameters:
            return Symbol(name, "param", self._entry.parameters[name][0])
        if name.startswith("%") or name == "WARP_SZ":
            return Immediate(32) if name == "WARP_SZ" else Special(name)
        raise unsupported(line, " ".join(statement.split()), f"the name {name}")


def _operand(text: str, resolve: Callable[[str], Operand]) -> Operand:
    first = text[0]
    if first == "{":
        return Vector(tuple(_operand(part.strip(), resolve) for part in _split(text[1:-1])))
    if first == "[":
        parts = _split(text[1:-1])
        coordinates: tuple[Operand, ...] = ()
        if len(parts) > 1:
            tensor = _operand(parts[1].strip(), resolve)
            coordinates = tensor.items if isinstance(tensor, Vector) else (tensor,)
        found = _ADDRESS.match(parts[0].strip())
        assert found
        name, sign, offset = found.groups()
        shift = int(offset or "0", 0) * (-1 if sign == "-" else 1)
        return Address(_operand(name.strip(), resolve), shift, coordinates)
    if "|" in text:
        left, right = text.split("|", 1)
        return Pair(_operand(left.strip(), resolve), _operand(right.strip(), resolve))
    if first == "!":
        register = resolve(text[1:].strip())
        assert isinstance(register, Register)
        return Not(register)
    if first.isdigit() or first == "-":
        return _constant(text)
    if text == "_":
        return Discard()
    if "+" in text:
        name, _, distance = text.partition("+")
        symbol = resolve(name.strip())
        if isinstance(symbol, Symbol):
            return Symbol(symbol.name, symbol.space, symbol.offset + int(distance, 0))
    return resolve(text)


def _constant(text: str) -> Immediate:
    if text[:2] in ("0f", "0F"):
        return Immediate(int(text[2:], 16), "f32")
    if text[:2] in ("0d", "0D"):
        return Immediate(int(text[2:], 16), "f64")
    if _INTEGER.match(text):
        digits = text.rstrip("U")
        octal = re.match(r"-?0\d+$", digits)
        return Immediate(int(digits, 8 if octal else 0))
    return Immediate(struct.unpack("<Q", struct.pack("<d", float(text)))[0], "f64")


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    if not text.strip():
        return []
    if "{" not in text and "[" not in text:
        return text.split(",")
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        elif character == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts


def _moved(operand: Operand, distance: int) -> Operand:
    """The operand with dynamic shared memory at its place behind the static variables."""
    match operand:
        case Symbol(name, "shared_dynamic", offset):
            return Symbol(name, "shared", offset + distance)
        case Address(base, offset, coordinates):
            return Address(_moved(base, distance), offset, tuple(_moved(c, distance) for c in coordinates))
        case Vector(items):
            return Vector(tuple(_moved(item, distance) for item in items))
    return operand


def _initial_bytes(text: str, type_: str, size: int) -> bytes:
    values = re.findall(r"[^\s,{}]+", text)
    unit = TYPE_BYTES[type_]
    data = b"".join(
        (_constant(value).value & ((1 << (8 * unit)) - 1)).to_bytes(unit, "little") for value in values
    )
    return data.ljust(size, b"\0")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
