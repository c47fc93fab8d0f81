"""``flashactor cache``: look at the cubin cache, keep it sound and small, and take kernels elsewhere."""

from __future__ import annotations

from typing import Any

from flashactor.cli.cache import exchange, listing, removal, show, stats, verify

GROUPS = (listing, show, verify, removal, exchange, stats)


def add_parser(commands: Any) -> None:
    """The subcommands."""
    parser = commands.add_parser(
        "cache",
        help="look at the kernel cache, check it, prune it, export and import kernels",
        description="Look at the cubin cache, keep it sound and small, and take kernels to other machines. "
        "FLASHACTOR_CACHE_DIR is its folder; FLASHACTOR_CACHE_BUNDLES are searched after it, and never "
        "changed.",
    )
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for group in GROUPS:
        group.add_parsers(subcommands)
