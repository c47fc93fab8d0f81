"""A row of the tables that say which instructions a kernel must hold and which it must not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expectation:
    """A row.

    Attributes:
        what: what people call it.
        pattern: regular expression of whole opcodes.
        reason: why such an instruction must be there, or why there must not be more.
        most: how many there may be; None where there must be at least one.
    """

    what: str
    pattern: str
    reason: str
    most: int | None = None

    @property
    def present(self) -> bool:
        """Whether there must be such an instruction."""
        return self.most is None


def none(what: str, pattern: str, reason: str) -> Expectation:
    """A row that forbids."""
    return Expectation(what, pattern, reason, most=0)
