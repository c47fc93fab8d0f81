"""Scratch memory of a request: its parts, one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class Workspace:
    """Parts of the scratch memory; a pure function of a request and an architecture.

    Attributes:
        parts: bytes of each part, by name.
    """

    parts: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(map(_aligned, self.parts.values()))

    def addresses(self, base: int) -> dict[str, int]:
        """Address of each part in memory that begins at ``base``."""
        found = {}
        for name, size in self.parts.items():
            found[name] = base
            base += _aligned(size)
        return found

    def __or__(self, other: Workspace) -> Workspace:
        """The parts of both."""
        return Workspace({**self.parts, **other.parts})


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
