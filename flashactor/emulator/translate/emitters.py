"""The table of opcodes: which function translates which."""

from __future__ import annotations

from collections.abc import Callable

from flashactor.emulator.translate.statement import Statement

Emitter = Callable[[Statement], None]
EMITTERS: dict[str, Emitter] = {}


def emits(*opcodes: str) -> Callable[[Emitter], Emitter]:
    """Register a function as the translator of some opcodes."""

    def register(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(opcodes, emitter))
        return emitter

    return register
