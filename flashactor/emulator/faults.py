"""How the emulator words its errors: what happened, and where."""

from __future__ import annotations

from flashactor.emulator.ptx.module import Instruction
from flashactor.errors import FaultLocation, UnsupportedPtxError


def unsupported(line: int, text: str, what: str) -> UnsupportedPtxError:
    """The error for PTX that the emulator does not know."""
    return UnsupportedPtxError(
        field="ptx",
        got=what,
        expected="an instruction or declaration that the emulator knows (docs/emulator.md lists them)",
        remedy="write the kernel without it, or teach it to flashactor/emulator/translate",
        at=FaultLocation(ptx_line=line, instruction=text),
    )


def unsupported_instruction(instruction: Instruction, what: str) -> UnsupportedPtxError:
    """The same, for an instruction that was parsed."""
    return unsupported(instruction.line, instruction.text, what)


def location(
    kernel: str,
    instruction: Instruction,
    block: tuple[int, int, int] | None = None,
    thread: int | None = None,
    address: int | None = None,
) -> FaultLocation:
    """Where an instruction is and who executed it."""
    return FaultLocation(
        kernel=kernel,
        ptx_line=instruction.line,
        instruction=instruction.text,
        cuda_line=None if instruction.source is None else str(instruction.source),
        block=block,
        thread=thread,
        address=address,
    )
