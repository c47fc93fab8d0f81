"""Static checks of what no execution in order can show: registers that an asynchronous wgmma owns.

A wgmma reads and writes registers until its group was waited for, and it may not see what threads did to them
before unless wgmma.fence lies between (PTX ISA, section 9.7.15, "Asynchronous warpgroup-level matrix
instructions"). The emulator computes a product when it is issued, so only a look at all paths finds these
mistakes. This one is a forward data-flow analysis: it joins what may hold on each path into a block, until
nothing changes (Kildall 1973, "A unified approach to global program optimization").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from flashactor.emulator.faults import location
from flashactor.emulator.ptx.module import Entry, Immediate, Instruction, Operand, Register, registers_of
from flashactor.emulator.translate.registers import written_registers
from flashactor.emulator.translate.translator import Kernel
from flashactor.errors import AsyncHazardError

_OLDEST = 8
"""Groups older than this count as this old: wait_group takes at most 7."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """A register that a wgmma in flight uses.

    Attributes:
        age: 0 if its wgmma was not committed; else 1 for the newest group, 2 for the one before, ...
        accumulates: whether it is a result, which nobody may touch; an A operand may be read.
        shape: the wgmma's shape and types, between equals of which no order is needed.
        instruction: the wgmma's index.
    """

    age: int
    accumulates: bool
    shape: tuple[str, ...]
    instruction: int


@dataclass(slots=True)
class _State:
    """What may hold at a point of the kernel.

    Attributes:
        flights: register number -> the newest wgmma in flight that uses it.
        pending: ages of groups in flight -> a wgmma of it; those without registers in ``flights`` too.
        is_fenced: whether every path has executed a wgmma.fence.
        written: registers that something other than wgmma wrote since.
    """

    flights: dict[int, _Flight] = field(default_factory=dict)
    pending: dict[int, int] = field(default_factory=dict)
    is_fenced: bool = False
    written: frozenset[int] = frozenset()

    def copy(self) -> _State:
        """An independent copy."""
        return _State(dict(self.flights), dict(self.pending), self.is_fenced, self.written)

    def join(self, other: _State) -> bool:
        """Add what may hold on another path; whether that changed anything."""
        before = (dict(self.flights), dict(self.pending), self.is_fenced, self.written)
        for number, flight in other.flights.items():
            mine = self.flights.get(number)
            if mine is None or (flight.age, not flight.accumulates) < (mine.age, not mine.accumulates):
                self.flights[number] = flight
        for age, instruction in other.pending.items():
            self.pending.setdefault(age, instruction)
        self.is_fenced &= other.is_fenced
        self.written |= other.written
        return before != (self.flights, self.pending, self.is_fenced, self.written)


def require_no_hazards(kernel: Kernel) -> None:
    """Refuse a kernel that touches registers of a wgmma in flight, or forgets a fence, a commit or a wait.

    Copies of registers (``mov``) are no accesses: the compiler writes them where control flow joins, and
    ptxas gives both sides one register. A copy is in flight like what it copies.

    Raises:
        AsyncHazardError: it does.
    """
    entry = kernel.entry
    if not any(instruction.opcode == "wgmma" for instruction in entry.instructions):
        return
    blocks = kernel.flow.blocks
    before: dict[int, _State] = {0: _State()}
    work = [0]
    while work:
        position = min(work)
        work.remove(position)
        block, state = blocks[position], before[position].copy()
        for index in range(block.start, block.stop):
            _step(entry, index, state)
        for successor in block.successors:
            if successor == len(blocks):
                _require_all_waited(entry, state)
                continue
            known = before.get(successor)
            if known is None:
                before[successor] = state.copy()
            elif not known.join(state):
                continue
            if successor not in work:
                work.append(successor)


def _step(entry: Entry, index: int, state: _State) -> None:
    """What one instruction does to the state."""
    instruction = entry.instructions[index]
    if instruction.opcode == "wgmma":
        _wgmma(entry, index, state)
        return
    written = written_registers(instruction)
    if _is_copy(instruction):
        _copy(instruction, state)
        return
    if state.flights:
        _require_untouched(entry, index, written, state)
    if written and state.is_fenced:
        state.written |= {register.number for register in written}


def _wgmma(entry: Entry, index: int, state: _State) -> None:
    instruction = entry.instructions[index]
    action = instruction.modifiers[0]
    if action == "fence":
        state.is_fenced, state.written = True, frozenset()
    elif action == "commit_group":
        _age(state)
    elif action == "wait_group":
        operand = instruction.operands[0]
        newest = operand.value if isinstance(operand, Immediate) else 0
        for number in [n for n, flight in state.flights.items() if flight.age > newest]:
            del state.flights[number]
        for age in [age for age in state.pending if age > newest]:
            del state.pending[age]
    else:
        _multiply(entry, index, state)


def _age(state: _State) -> None:
    """A group is committed: everything in flight is one group older."""
    for number, flight in state.flights.items():
        older = min(flight.age + 1, _OLDEST)
        state.flights[number] = _Flight(older, flight.accumulates, flight.shape, flight.instruction)
    aged: dict[int, int] = {}
    for age, instruction in state.pending.items():
        aged.setdefault(min(age + 1, _OLDEST), instruction)
    state.pending = aged


def _multiply(entry: Entry, index: int, state: _State) -> None:
    instruction = entry.instructions[index]
    shape = tuple(instruction.modifiers[3:])
    results = _numbers(instruction.operands[0])
    left = _numbers(instruction.operands[1]) if len(registers_of(instruction.operands[1])) > 1 else []
    for number in results:
        flight = state.flights.get(number)
        if flight is not None and not (flight.accumulates and flight.shape == shape):
            _touched(entry, index, number, flight)
    for number in left:
        flight = state.flights.get(number)
        if flight is not None and flight.accumulates:
            _touched(entry, index, number, flight)
    changed = [number for number in (*results, *left) if number in state.written]
    if not state.is_fenced or changed:
        name = entry.registers[changed[0]].name if changed else entry.registers[results[0]].name
        _fault(
            entry, index, "wgmma.fence", f"a wgmma that uses {name} with no fence after what wrote it",
            "wgmma.fence before the first wgmma, and after each change of its registers",
            "execute wgmma.fence between the two (and keep the compiler from moving the change behind it)",
        )  # fmt: skip
    for number in left:
        state.flights[number] = _Flight(0, False, shape, index)
    for number in results:
        state.flights[number] = _Flight(0, True, shape, index)
    state.pending[0] = index


def _is_copy(instruction: Instruction) -> bool:
    return (
        instruction.opcode == "mov"
        and instruction.guard is None
        and len(instruction.operands) == 2
        and all(isinstance(operand, Register) for operand in instruction.operands)
    )


def _copy(instruction: Instruction, state: _State) -> None:
    """``mov``: the target is from now on what the source is."""
    (target,), (source,) = (_numbers(operand) for operand in instruction.operands)
    flight = state.flights.get(source)
    if flight is None:
        state.flights.pop(target, None)
    else:
        state.flights[target] = flight
    if source in state.written:
        state.written |= {target}
    else:
        state.written -= {target}


def _require_untouched(entry: Entry, index: int, written: list[Register], state: _State) -> None:
    instruction = entry.instructions[index]
    targets = {register.number for register in written}
    for operand in instruction.operands:
        for number in _numbers(operand):
            flight = state.flights.get(number)
            if flight is not None and (flight.accumulates or number in targets):
                _touched(entry, index, number, flight)


def _touched(entry: Entry, index: int, number: int, flight: _Flight) -> NoReturn:
    product = entry.instructions[flight.instruction]
    what = f"{'a result' if flight.accumulates else 'an operand'} of the wgmma at line {product.line}"
    _fault(
        entry, index, "register", f"{entry.registers[number].name}, {what}, in flight",
        "registers of a wgmma left alone until wgmma.wait_group covers its group",
        "move the access behind the wait" + ("" if flight.age else ", and commit the group before it"),
    )  # fmt: skip


def _require_all_waited(entry: Entry, state: _State) -> None:
    for age, index in sorted(state.pending.items()):
        what = "waited for" if age else "committed"
        _fault(
            entry, index, "wgmma", f"a product that is never {what}", "wgmma.wait_group before the end",
            "commit the group and wait for it",
        )  # fmt: skip


def _numbers(operand: Operand) -> list[int]:
    return [register.number for register in registers_of(operand)]


def _fault(entry: Entry, index: int, field_: str, got: str, expected: str, remedy: str) -> NoReturn:
    at = location(entry.name, entry.instructions[index])
    raise AsyncHazardError(field=field_, got=got, expected=expected, remedy=remedy, at=at)
