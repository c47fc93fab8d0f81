"""The unit in which race checks remember memory: the smallest access of a kernel."""

from __future__ import annotations

from flashactor.emulator.ptx.module import Entry, Immediate, Instruction
from flashactor.emulator.ptx.types import TYPE_BYTES
from flashactor.emulator.translate.memory import SPACES


def grains_of(entry: Entry) -> tuple[int, int]:
    """The smallest access of an entry to shared and to global memory, in bytes: at most 16."""
    grains = {"shared": 16, "global": 16}
    for instruction in entry.instructions:
        for space, size in _access(instruction):
            grains[space] = min(grains[space], size)
    return grains["shared"], grains["global"]


def _access(instruction: Instruction) -> list[tuple[str, int]]:
    modifiers = instruction.modifiers
    if instruction.opcode == "mbarrier":
        return [("shared", 8)]
    if instruction.opcode == "cp" and "bulk" not in modifiers and len(instruction.operands) > 2:
        size = instruction.operands[2]
        return [(space, size.value) for space in ("shared", "global") if isinstance(size, Immediate)]
    if instruction.opcode not in ("ld", "ldu", "st", "atom", "red"):
        return []
    spaces = [name.split("::")[0] for name in modifiers if name in SPACES]
    types = [name for name in modifiers if name in TYPE_BYTES]
    count = next((int(name[1:]) for name in modifiers if name in ("v2", "v4", "v8")), 1)
    item = TYPE_BYTES[types[-1]]
    width = item if instruction.opcode in ("atom", "red") else min(16, item * count)
    wanted = spaces[0] if spaces else "generic"
    return [(space, width) for space in ("shared", "global") if wanted in (space, "generic")]
