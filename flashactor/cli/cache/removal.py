"""``flashactor cache prune`` and ``clear``: what goes from the writable folder."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashactor.cli.cache.common import add_subparser
from flashactor.cli.output import amount, counted, print_error, print_json
from flashactor.settings import parse_size

if TYPE_CHECKING:
    from flashactor.cache.upkeep import Sweep

SECONDS_PER_DAY = 86400.0

NAMED = 5
"""How many names an error lists."""


def add_parsers(subcommands: Any) -> None:
    """``prune`` and ``clear``."""
    prune = add_subparser(
        subcommands,
        "prune",
        _prune,
        "remove kernels by size, age or source, and litter",
        "Remove kernels from the writable folder by the limits that are given, and always what killed "
        "processes left, the quarantine, and locks of kernels that are gone.",
    )
    prune.add_argument(
        "--max-bytes",
        type=_size,
        metavar="SIZE",
        help="keep so many bytes, such as 500M, the most recently used; default: FLASHACTOR_CACHE_MAX_BYTES",
    )
    prune.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="remove what was not used for so many days"
    )
    prune.add_argument(
        "--stale",
        action="store_true",
        help="remove kernels of another source or NVRTC version, which this installation never looks up",
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    add_subparser(
        subcommands,
        "clear",
        _clear,
        "remove every kernel",
        "Remove every kernel of the writable folder, the quarantine and the locks, and nothing else. Kernels "
        "that a process is busy with stay.",
    )


def _prune(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.upkeep import carry_out, plan_prune
    from flashactor.settings import Settings

    settings = Settings.from_environment()
    folder = CubinCache.from_settings(settings).folder
    plan = plan_prune(
        folder,
        max_bytes=settings.cache_max_bytes if options.max_bytes is None else options.max_bytes,
        unused_seconds=None if options.older_than is None else options.older_than * SECONDS_PER_DAY,
        stale=options.stale,
    )
    sweep = plan if options.dry_run else carry_out(folder, plan)
    return _report(sweep, folder.path, options.json, dry_run=options.dry_run)


def _clear(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.upkeep import carry_out, plan_clear

    folder = CubinCache.from_settings().folder
    return _report(carry_out(folder, plan_clear(folder)), folder.path, options.json, dry_run=False)


def _report(sweep: Sweep, folder: Path, as_json: bool, *, dry_run: bool) -> int:
    """Say what went; 1 if anything could not be removed."""
    quarantined = len({path.stem for path in sweep.quarantined})
    code = 1 if sweep.failed else 0
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "kernels": [asdict(removal) for removal in sweep.kernels],
                "busy": [asdict(removal) for removal in sweep.busy],
                "failed": [asdict(failure) for failure in sweep.failed],
                "quarantined": quarantined,
                "temporary": len(sweep.temporary),
                "orphans": len(sweep.orphans),
                "locks": len(sweep.locks),
                "bytes": sweep.size,
            }
        )
        return code
    for removal in sweep.kernels:
        print(f"{removal.label or removal.key} ({removal.reason})")
    parts = [f"{counted(count)} ({reason})" for reason, count in _reasons(sweep).items()]
    for count, what, plural in (
        (quarantined, "quarantined entry", "quarantined entries"),
        (len(sweep.temporary), "temporary file", ""),
        (len(sweep.orphans), "cubin without a record", "cubins without a record"),
        (len(sweep.locks), "lock", ""),
    ):
        parts += [counted(count, what, plural)] if count else []
    if parts:
        print(("would remove " if dry_run else "removed ") + ", ".join(parts) + f": {amount(sweep.size)}")
    elif not (sweep.busy or sweep.failed):
        print("nothing to remove")
    for removal in sweep.busy:
        print_error(f"{removal.label or removal.key} stays: a process is busy with it")
    for reason in dict.fromkeys(failure.reason for failure in sweep.failed):
        names = [failure.name for failure in sweep.failed if failure.reason == reason]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        print_error(f"{', '.join(names[:NAMED])}{more} cannot be removed: {reason}; see to {folder}")
    return code


def _reasons(sweep: Sweep) -> Counter[str]:
    return Counter(removal.reason for removal in sweep.kernels)


def _size(text: str) -> int:
    size = parse_size(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 500000000 or 500M")
    return size


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not (math.isfinite(days) and days >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days, such as 30")
    return days
