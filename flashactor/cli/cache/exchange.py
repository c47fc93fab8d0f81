"""``flashactor cache export`` and ``import``: kernels to and from machines that compile none."""

from __future__ import annotations

import argparse
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashactor.cli.cache.common import add_force_option, add_subparser, check_output
from flashactor.cli.options import reject
from flashactor.cli.output import amount, counted, print_json
from flashactor.cli.selection import (
    add_feature_option,
    add_kernel_option,
    add_selection_options,
    matching_specs,
    specs_of_labels,
)

if TYPE_CHECKING:
    from flashactor.cache import CubinCache
    from flashactor.cache.record import CachedKernel


def add_parsers(subcommands: Any) -> None:
    """``export`` and ``import``."""
    export = add_subparser(
        subcommands,
        "export",
        _export,
        "write kernels into one file",
        "Write kernels into a bundle: the same bytes on every machine that compiled the same kernels. "
        "Without a selection, all of the folder that this installation would look up.",
    )
    export.add_argument("bundle", type=Path, metavar="BUNDLE", help="the file to write")
    add_selection_options(export)
    add_feature_option(export)
    add_kernel_option(export)
    export.add_argument("--all", action="store_true", help="everything in the folder, whoever looks it up")
    add_force_option(export)
    import_ = add_subparser(
        subcommands,
        "import",
        _import,
        "take kernels from bundles into the folder",
        "Check bundles as a whole, then store what the folder does not have yet.",
    )
    import_.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="files that export wrote")


def _export(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.bundle import write_bundle

    check_output("BUNDLE", options.bundle, force=options.force)
    exported = _selected(CubinCache.from_settings(), options)
    content = write_bundle(options.bundle, exported)
    digest, size = sha256(content).hexdigest(), len(content)
    if options.json:
        labels = sorted(kernel.record.label for kernel in exported)
        print_json({"bundle": str(options.bundle), "kernels": labels, "bytes": size, "sha256": digest})
    else:
        print(f"{counted(len(exported))}, {amount(size)} in {options.bundle}")
        print(f"sha256 {digest}")
    return 0


def _selected(cache: CubinCache, options: argparse.Namespace) -> list[CachedKernel]:
    from flashactor.cache.exchange import read_folder, read_specs

    matrix = options.arch or options.dtype or options.head_dim or options.feature
    if bool(matrix) + bool(options.kernel) + options.all > 1:
        raise reject("--kernel, --all", "more than one selection", "one of them at most", "drop the others")
    if options.kernel:
        return read_specs(cache, specs_of_labels(options.kernel))
    if matrix:
        return read_specs(cache, matching_specs(options))
    return read_folder(cache.folder, stale=options.all)


def _import(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.bundle import BundleFile
    from flashactor.cache.exchange import store_kernels
    from flashactor.settings import Settings

    found = [kernel for bundle in options.bundles for kernel in BundleFile(bundle).read()]
    settings = Settings.from_environment()
    cache, limit = CubinCache.from_settings(settings), settings.cache_max_bytes
    imported = store_kernels(cache.folder, found)
    evicted = [] if limit is None else cache.evict(limit)
    if options.json:
        print_json(
            {
                "folder": str(cache.path),
                "imported": sorted(kernel.record.label for kernel in imported.stored),
                "already_there": sorted(kernel.record.label for kernel in imported.present),
                "evicted": sorted(record.label for record in evicted),
            }
        )
    else:
        print(f"{counted(len(imported.stored))} imported, {len(imported.present)} already there")
        if evicted:
            print(f"{counted(len(evicted))} removed: FLASHACTOR_CACHE_MAX_BYTES allows {amount(limit or 0)}")
    return 0
