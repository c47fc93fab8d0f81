"""``flashactor cache list`` and ``path``: which kernels are where."""

from __future__ import annotations

import argparse
from typing import Any

from flashactor.cli.cache.common import add_subparser, document_of, last_used, short_time
from flashactor.cli.output import amount, counted, print_error, print_json, print_table

COLUMNS = ("kernel", "size", "registers", "s", "created", "last used", "layer")


def add_parsers(subcommands: Any) -> None:
    """``list`` and ``path``."""
    parser = add_subparser(
        subcommands,
        "list",
        _list,
        "list the cached kernels",
        "List the kernels of every layer: the folder first, then the bundles. Times are UTC.",
    )
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="text that the labels hold")
    add_subparser(
        subcommands,
        "path",
        _path,
        "print the cache's folder",
        "Print the writable folder on one line; --json prints the bundles too.",
    )


def _list(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.inventory import take_inventory

    cache = CubinCache.from_settings()
    inventory = take_inventory(cache)
    found = [held for held in inventory.holdings if options.pattern in held.record.label]
    for layer, key in inventory.unreadable:
        print_error(f"{layer}: the record of {key} is damaged; see flashactor cache verify")
    if options.json:
        print_json([document_of(held) for held in found])
        return 0
    if found:
        print_table(
            COLUMNS,
            [
                (
                    held.record.label,
                    amount(held.record.size),
                    str(held.record.registers),
                    f"{held.record.compile_seconds:.2f}" if held.record.compile_seconds else "-",
                    short_time(held.record.created),
                    short_time(last_used(held)),
                    "folder" if held.layer is cache.folder else held.layer.path.name,
                )
                for held in found
            ],
        )
    print(f"{counted(len(found))}, {amount(sum(held.record.size for held in found))}")
    return 0


def _path(options: argparse.Namespace) -> int:
    from flashactor.settings import Settings

    settings = Settings.from_environment()
    if options.json:
        bundles = [str(bundle) for bundle in settings.cache_bundles]
        print_json({"folder": str(settings.cache_dir), "bundles": bundles})
    else:
        print(settings.cache_dir)
    return 0
