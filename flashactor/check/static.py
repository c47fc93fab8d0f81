"""What can be said of a kernel without running it: its figures, its memory, its instructions."""

from __future__ import annotations

import re
from collections import Counter

from flashactor.cache import CachedKernel, CubinRecord
from flashactor.check.expectation import Expectation
from flashactor.check.expectations import expectations
from flashactor.check.findings import Finding
from flashactor.check.sass import ResourceUsage, Sass, disassemble, resource_usage
from flashactor.kernels.sm80 import SHARED_BYTES_PER_BLOCK
from flashactor.kernels.sm90 import HopperSpec
from flashactor.kernels.spec import KernelSpec
from flashactor.types import SmArch

MAX_REGISTERS = 255
REGISTERS_PER_SM = 65536
REGISTER_GRANULARITY = 8
"""A warp gets registers in units of 256, 8 a thread, on every architecture from sm_80 on."""

RESERVED_SHARED_BYTES = 1024
"""What the system keeps of a block's shared memory. SHARED_BYTES_PER_BLOCK is without it."""

_COUNTS_RESERVED = (SmArch.SM90A, SmArch.SM100, SmArch.SM120)
"""Where the cubin's header counts it as the kernel's own; ptxas never does."""


def static_findings(spec: KernelSpec, kernel: CachedKernel) -> tuple[Finding, ...]:
    """Every static check of a compiled kernel.

    Raises:
        DeviceUnavailableError: a tool that reads cubins is not there.
        CompileError: a tool does not read this cubin.
    """
    code = disassemble(kernel.cubin)
    return (
        *record_findings(spec, kernel.record),
        usage_finding(spec, kernel.record, resource_usage(kernel.cubin)),
        *sass_findings(spec, code),
        *split_findings(spec, kernel.record, code),
    )


def record_findings(spec: KernelSpec, record: CubinRecord) -> tuple[Finding, ...]:
    """What the compiler said, against what a block of the architecture may have."""
    return (
        _registers(spec, record),
        Finding("spills", record.spill_bytes == 0, f"{record.spill_bytes} bytes of spill stores and loads"),
        Finding("stack", record.stack_bytes == 0, f"a stack frame of {record.stack_bytes} bytes"),
        _shared_memory(spec, record),
        Finding("compiler's log", record.log == "", record.log or "empty"),
    )


def usage_finding(spec: KernelSpec, record: CubinRecord, usages: tuple[ResourceUsage, ...]) -> Finding:
    """Whether the cubin's header asks for what the compiler's log said, and for no local memory."""
    has_any = record.shared_bytes + spec.shared_bytes > 0
    shared = record.shared_bytes + RESERVED_SHARED_BYTES * (has_any and spec.arch in _COUNTS_RESERVED)
    logged = ResourceUsage(spec.entry, record.registers, record.stack_bytes, shared, 0)
    if usages == (logged,):
        return Finding("cubin's header", True, "asks for what the compiler's log says")
    return Finding("cubin's header", False, f"asks for {_listed(usages)}; the log says {_listed((logged,))}")


def sass_findings(spec: KernelSpec, functions: tuple[Sass, ...]) -> tuple[Finding, ...]:
    """Whether the code is one function, with the instructions that the table of expectations names."""
    names = ", ".join(function.name for function in functions)
    found = Counter(opcode for function in functions for opcode in function.opcodes)
    return (
        Finding("one function", names == spec.entry, f"the code is of {names}; expected {spec.entry} alone"),
        *(_instructions(row, found) for row in expectations(spec)),
    )


def split_findings(spec: KernelSpec, record: CubinRecord, functions: tuple[Sass, ...]) -> tuple[Finding, ...]:
    """Where warpgroups share registers out anew: whether what one gives back is enough for the others.

    A claim waits until there are so many; where there never are, the kernel hangs.
    """
    if not isinstance(spec, HopperSpec) or spec.consumers == 1:
        return ()
    text = " ".join(opcode for function in functions for opcode in function.opcodes)
    released, claimed = (
        max(map(int, re.findall(rf"USETMAXREG\.{what}\S*\((\d+)\)", text)), default=0)
        for what in ("DEALLOC", "TRY_ALLOC")
    )
    groups = spec.consumers + 1
    wanted, launched = released + spec.consumers * claimed, groups * _allocated(record)
    detail = (
        f"{released} and {spec.consumers} x {claimed} registers, of {groups} x {_allocated(record)} that a "
        f"thread of each warpgroup begins with"
    )
    return (Finding("register split", 0 < released < _allocated(record) and wanted <= launched, detail),)


def _allocated(record: CubinRecord) -> int:
    """Registers that a thread gets."""
    return -(-record.registers // REGISTER_GRANULARITY) * REGISTER_GRANULARITY


def _registers(spec: KernelSpec, record: CubinRecord) -> Finding:
    allocated = _allocated(record) * spec.threads
    ok = 0 < record.registers <= MAX_REGISTERS and allocated <= REGISTERS_PER_SM
    detail = (
        f"{record.registers} registers, {allocated} for {spec.threads} threads; at most {MAX_REGISTERS} and "
        f"{REGISTERS_PER_SM}"
    )
    return Finding("registers", ok, detail)


def _shared_memory(spec: KernelSpec, record: CubinRecord) -> Finding:
    total, most = record.shared_bytes + spec.shared_bytes, SHARED_BYTES_PER_BLOCK[spec.arch]
    detail = f"{record.shared_bytes} bytes static and {spec.shared_bytes} dynamic; at most {most}"
    return Finding("shared memory", total <= most, detail)


def _instructions(row: Expectation, found: Counter[str]) -> Finding:
    matching = {opcode: n for opcode, n in sorted(found.items()) if re.fullmatch(row.pattern, opcode)}
    listed = ", ".join(f"{n} {opcode}" for opcode, n in matching.items()) or "none"
    count = sum(matching.values())
    ok = count > 0 if row.most is None else count <= row.most
    wanted = "some" if row.most is None else str(row.most or "none")
    return Finding(row.what, ok, listed if ok else f"{listed}; expected {wanted}: {row.reason}")


def _listed(usages: tuple[ResourceUsage, ...]) -> str:
    return "; ".join(
        f"{usage.name}: {usage.registers} registers, {usage.stack_bytes} bytes of stack, "
        f"{usage.shared_bytes} shared, {usage.local_bytes} local"
        for usage in usages
    )
