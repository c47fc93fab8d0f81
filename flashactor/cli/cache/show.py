"""``flashactor cache show``: all that is known of one kernel, and its cubin for other tools."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashactor.cli.cache.common import add_force_option, add_subparser, check_output, document_of
from flashactor.cli.output import print_json, print_pairs
from flashactor.errors import UnknownKernelError

if TYPE_CHECKING:
    from flashactor.cache.inventory import Holding


def add_parsers(subcommands: Any) -> None:
    """``show``."""
    parser = add_subparser(
        subcommands,
        "show",
        _show,
        "show one kernel's record",
        "Show the whole record of a kernel, by its label, its key, or a prefix that no other has.",
    )
    parser.add_argument("kernel", metavar="KERNEL", help="label, key, or the beginning of one")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the cubin there, for nvdisasm or cuobjdump"
    )
    add_force_option(parser)


def _show(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.inventory import find_holding, is_current, take_inventory

    if options.output:
        check_output("--output", options.output, force=options.force)
    held = find_holding(take_inventory(CubinCache.from_settings()).holdings, options.kernel)
    if options.output:
        _write_cubin(held, options.output)
    document = {**asdict(held.record), **document_of(held), "current": is_current(held.record)}
    if options.json:
        print_json(document)
    else:
        print_pairs([(name.replace("_", " "), _text(value)) for name, value in document.items()])
    return 0


def _write_cubin(held: Holding, path: Path) -> None:
    from flashactor.cache.output import write_output

    kernel = held.layer.peek(held.record.key)
    if kernel is None:
        raise UnknownKernelError(
            field="kernel",
            got=f"{held.record.label}, which was removed just now",
            expected="a cached kernel",
            remedy="compile it again with flashactor warm",
        )
    write_output(path, kernel.cubin)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)
