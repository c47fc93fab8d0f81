"""From PTX text to a ``Module`` (PTX ISA, chapters 4, 5 and 11)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from flashactor.emulator.faults import unsupported
from flashactor.emulator.ptx.module import (
    Entry,
    Immediate,
    Instruction,
    Label,
    Module,
    Operand,
    Register,
    SourceLine,
    Special,
    Symbol,
    Variable,
)
from flashactor.emulator.ptx.operands import parse_constant, parse_operand, split_list
from flashactor.emulator.ptx.types import TYPE_BYTES
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
_THREADS = re.compile(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)")

DYNAMIC_SHARED_ALIGNMENT = 1024
MOST_REGISTERS = 1_000_000
"""Of one declaration; what asks for more is no kernel."""


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
        self._ends = dict.fromkeys(("global", "const", "shared", "local"), 0)

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
        parameters: dict[str, tuple[int, int]] = {}
        types: dict[str, str] = {}
        offset = 0
        for declaration in split_list(found[2] or ""):
            parsed = _PARAMETER.match(declaration.strip())
            if parsed is None or parsed[2] not in TYPE_BYTES:
                raise unsupported(self._line(), declaration.strip(), "a parameter")
            unit = TYPE_BYTES[parsed[2]]
            offset = _align(offset, int(parsed[1] or unit))
            size = unit * int(parsed[4] or 1)
            parameters[parsed[3]] = (offset, size)
            types[parsed[3]] = parsed[2]
            offset += size
        if "cluster" in found[3] and not re.search(r"\.\w*cluster\s+1\s*(,\s*1\s*)*(\n|$)", found[3]):
            raise unsupported(self._line(), " ".join(found[3].split()), "a cluster of blocks")
        limit = _THREADS.search(found[3])
        threads = None
        if limit:
            threads = 1
            for extent in limit[1].split(","):
                threads *= int(extent)
        is_exact = limit is not None and limit[0].startswith(".reqntid")
        entry = Entry(found[1], parameters, types, offset, threads, is_exact)
        self._at = found.end()
        entry.shared_bytes = self._ends["shared"]
        _Body(self, entry).parse()
        self._module.entries[entry.name] = entry

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
            space, offset = "shared_dynamic", 0  # its place follows from the entry's static variables
        elif entry is not None and space in ("local", "shared"):
            ends = entry.local_bytes if space == "local" else entry.shared_bytes
            offset = _align(ends, aligned)
            if space == "local":
                entry.local_bytes = offset + size
            else:
                entry.shared_bytes = offset + size
        else:
            offset = _align(self._ends[space], aligned)
            self._ends[space] = offset + size
        try:
            data = None if initial is None else _initial_bytes(initial, type_, size)
        except ValueError as error:
            raise unsupported(self._line(), statement, "an initial value that is an address") from error
        variable = Variable(name, space, offset, size, aligned, data)
        scope.symbols[name] = variable
        if space in ("global", "const"):
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
        self._end_with_return()
        self._entry.dynamic_offset = _align(self._entry.shared_bytes, DYNAMIC_SHARED_ALIGNMENT)
        self._resolve()

    def _end_with_return(self) -> None:
        """Threads that run past the last instruction leave; so do those of an entry without any."""
        last = self._pending[-1].found if self._pending else None
        if last and last[2] is None and last[3] in ("ret", "exit", "trap", "bra"):
            return
        found = _INSTRUCTION.match("ret")
        assert found
        self._pending.append(_Pending(self._parser._line(), self._scope, "ret", found, self._source))

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
            if ranged and int(ranged[2]) > MOST_REGISTERS:
                raise unsupported(self._parser._line(), name.strip(), f"more than {MOST_REGISTERS} registers")
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
            if guard_register is not None and (
                not isinstance(guard_register, Register) or guard_register.type != "pred"
            ):
                raise unsupported(line, statement, f"the guard {guard}")
            try:
                parsed = tuple(parse_operand(part.strip(), resolve) for part in split_list(operands))
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
                if variable.space == "shared_dynamic":
                    return Symbol(name, "shared", self._entry.dynamic_offset)
                return Symbol(name, variable.space, variable.offset)
        if name in self._entry.parameters:
            return Symbol(name, "param", self._entry.parameters[name][0])
        if name.startswith("%") or name == "WARP_SZ":
            return Immediate(32) if name == "WARP_SZ" else Special(name)
        raise unsupported(line, " ".join(statement.split()), f"the name {name}")


def _initial_bytes(text: str, type_: str, size: int) -> bytes:
    values = re.findall(r"[^\s,{}]+", text)
    unit = TYPE_BYTES[type_]
    data = b"".join(
        (parse_constant(value).value & ((1 << (8 * unit)) - 1)).to_bytes(unit, "little") for value in values
    )
    return data.ljust(size, b"\0")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
