"""``flashactor cache verify``: is every entry what was stored?"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flashactor.cli.cache.common import add_subparser
from flashactor.cli.output import counted, print_error, print_json

if TYPE_CHECKING:
    from flashactor.cache.verification import Damage


def add_parsers(subcommands: Any) -> None:
    """``verify``."""
    parser = add_subparser(
        subcommands,
        "verify",
        _verify,
        "load every entry and compare it with its SHA-256",
        "Load every entry of every layer and compare it with its record. Exit code 1 if one is damaged, and "
        "was not set aside.",
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="move damaged entries of the folder to quarantine/, so that they are compiled anew",
    )


def _verify(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.verification import verify

    result = verify(CubinCache.from_settings(), repair=options.repair)
    aside = sum(damage.set_aside for damage in result.damages)
    if options.json:
        damaged = [{**asdict(damage), "layer": str(damage.layer)} for damage in result.damages]
        print_json({"entries": result.entries, "damaged": damaged})
    else:
        counts = f"{len(result.damages)} damaged"
        entries = counted(result.entries, "entry", "entries")
        print(f"{entries}, {counts}" + (f", {aside} of them set aside" if aside else ""))
        sys.stdout.flush()
        for damage in result.damages:
            print_error(_line(damage))
    return 0 if aside == len(result.damages) else 1


def _line(damage: Damage) -> str:
    name = " ".join(part for part in (damage.label, damage.key) if part)
    where = f"{damage.layer}: {name}" if name else str(damage.layer)
    return f"{where}: {damage.reason}" + ("; set aside" if damage.set_aside else "")
