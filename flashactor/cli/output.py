"""How commands print: tables for people, one JSON document for programs, plain text in a pipe."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 200


def print_json(document: Any) -> None:
    """One JSON document on stdout; a number that JSON does not know, such as NaN, is null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name:{width}}  {value}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their columns; as wide as the terminal, or wide enough for a pipe."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    with console.capture() as printed:
        console.print(table_of(columns, rows))
    print("\n".join(line.rstrip() for line in printed.get().strip("\n").splitlines()))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """What ``print_table`` prints, for a display that changes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table
    from rich.text import Text

    # fold: a name that is too long for a narrow terminal goes on in the next line, and is not cut off
    folding = (Column(name, overflow="fold") for name in columns)
    table = Table(*folding, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: "[torch]" is no markup
    return table


def print_error(message: object) -> None:
    """One line on stderr, whatever the message holds."""
    print("flashactor: error: " + " ".join(str(message).split()), file=sys.stderr)


def counted(count: int, noun: str = "kernel", plural: str = "") -> str:
    """``1 kernel``, ``2 kernels``; ``plural`` where an s is not enough."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def amount(count: int) -> str:
    """Bytes as people read them."""
    if count < 1024:
        return counted(count, "byte")
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"
