"""A cubin as the machine sees it: its instructions, and the resources that its header asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flashactor.check.tools import read_cubin
from flashactor.errors import CompileError

# -c: only code. -ndf: no data-flow analysis, which only names targets of indirect branches, and takes time.
_DISASSEMBLE = ("-c", "-ndf")
_SECTION = re.compile(r"^\s*\.section\s+\.text\.([\w$.]+),")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?(?P<opcode>[A-Z][\w.]*)(?P<operands>[^;]*)")
_IMMEDIATE = re.compile(r"\b0x[0-9a-f]+$")
_USAGE = re.compile(
    r"Function (?P<entry>[^\s:]+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) "
    r"SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
)


@dataclass(frozen=True, slots=True)
class Sass:
    """The code of one function.

    Attributes:
        name: its symbol.
        opcodes: the instructions in order, with modifiers and without predicates and operands, such as
            ``HMMA.16816.F32.BF16``. Only setmaxnreg keeps its operand, registers of a thread:
            ``USETMAXREG.DEALLOC.CTAPOOL(24)``.
    """

    name: str
    opcodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What one function's header asks of the driver.

    Attributes:
        name: its symbol.
        registers: registers of a thread.
        stack_bytes: stack frame of a thread.
        shared_bytes: static shared memory of a thread block.
        local_bytes: local memory of a thread besides the stack.
    """

    name: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    local_bytes: int


def disassemble(cubin: bytes) -> tuple[Sass, ...]:
    """The code of every function of a cubin.

    Raises:
        DeviceUnavailableError: there is no nvdisasm.
        CompileError: nvdisasm does not read this cubin.
    """
    functions: dict[str, list[str]] = {}
    opcodes: list[str] | None = None
    for line in read_cubin("nvdisasm", _DISASSEMBLE, cubin).splitlines():
        if section := _SECTION.match(line):
            opcodes = functions.setdefault(section[1], [])
        elif opcodes is not None and (instruction := _INSTRUCTION.match(line)):
            opcodes.append(_opcode(instruction["opcode"], instruction["operands"].strip()))
    if not any(functions.values()):
        raise _nothing_in("nvdisasm", "instruction")
    return tuple(Sass(name, tuple(opcodes)) for name, opcodes in functions.items())


def _opcode(opcode: str, operands: str) -> str:
    if opcode.startswith("USETMAXREG") and (registers := _IMMEDIATE.search(operands)):
        return f"{opcode}({int(registers[0], 16)})"
    return opcode


def resource_usage(cubin: bytes) -> tuple[ResourceUsage, ...]:
    """What every function of a cubin asks for.

    Raises:
        DeviceUnavailableError: there is no cuobjdump.
        CompileError: cuobjdump does not read this cubin.
    """
    text = read_cubin("cuobjdump", ("--dump-resource-usage",), cubin)
    found = tuple(
        ResourceUsage(
            name=usage["entry"],
            registers=int(usage["registers"]),
            stack_bytes=int(usage["stack"]),
            shared_bytes=int(usage["shared"]),
            local_bytes=int(usage["local"]),
        )
        for usage in _USAGE.finditer(text)
    )
    if not found:
        raise _nothing_in("cuobjdump", "function")
    return found


def _nothing_in(tool: str, what: str) -> CompileError:
    return CompileError(
        field="cubin",
        got=f"no {what} in what {tool} prints",
        expected="a cubin with a kernel",
        remedy="report this with the version of the tool: its format may have changed",
    )
