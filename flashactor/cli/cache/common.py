"""What several subcommands do alike: parsers, kernels as documents, times as people read them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashactor.cache.inventory import Holding


def add_subparser(
    subcommands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str
) -> argparse.ArgumentParser:
    """A subcommand with ``--json``."""
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=summary, description=description)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)
    return parser


def document_of(held: Holding) -> dict[str, Any]:
    """A kernel of a layer, for programs."""
    return {
        "label": held.record.label,
        "key": held.record.key,
        "arch": held.record.arch,
        "size": held.record.size,
        "registers": held.record.registers,
        "compile_seconds": held.record.compile_seconds,
        "created": held.record.created,
        "last_used": last_used(held),
        "layer": str(held.layer.path),
    }


def last_used(held: Holding) -> str | None:
    """When a kernel was last used, as records write a time; None in a bundle."""
    if held.last_used is None:
        return None
    return datetime.fromtimestamp(held.last_used, UTC).isoformat(timespec="seconds")


def short_time(text: str | None) -> str:
    """A record's time to the minute, in UTC; a dash where there is none."""
    return text[:16].replace("T", " ") if text else "-"
