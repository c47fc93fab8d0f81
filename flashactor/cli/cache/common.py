"""What several subcommands do alike: parsers, kernels as documents, times as people read them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashactor.cli.options import reject

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


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """``--force``."""
    parser.add_argument("--force", action="store_true", help="write over an existing file")


def check_output(field: str, path: Path, *, force: bool) -> None:
    """Raise RequestError for a folder, and without ``force`` for all that exists: a file, link or device."""
    if path.is_dir() or (os.path.lexists(path) and not force):
        raise reject(field, path, "a file that does not exist yet", "name another, or --force")


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
