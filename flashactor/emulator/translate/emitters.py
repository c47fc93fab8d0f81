"""The table of opcodes: which function translates which."""

from __future__ import annotations

from collections.abc import Callable

from flashactor.emulator.translate.statement import Statement

Emitter = Callable[[Statement], None]
EMITTERS: dict[str, Emitter] = {}
OPERANDS: dict[str, tuple[int, ...]] = {}
"""How many operands an opcode may have, where all its forms have as many."""


def emits(*opcodes: str, operands: tuple[int, ...] = ()) -> Callable[[Emitter], Emitter]:
    """Register a function as the translator of some opcodes, which take so many operands."""

    def register(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(opcodes, emitter))
        if operands:
            OPERANDS.update(dict.fromkeys(opcodes, operands))
        return emitter

    return register
