"""``flashactor cache stats``: each layer in numbers."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashactor.cli.cache.common import add_subparser, short_time
from flashactor.cli.output import amount, print_json, print_pairs

if TYPE_CHECKING:
    from flashactor.cache.cubin_cache import CubinCache, Layer
    from flashactor.cache.inventory import Inventory


def add_parsers(subcommands: Any) -> None:
    """``stats``."""
    add_subparser(
        subcommands,
        "stats",
        _stats,
        "count kernels and bytes of each layer",
        "Count the kernels and bytes of each layer. Compile seconds are what its kernels took to compile.",
    )


def _stats(options: argparse.Namespace) -> int:
    from flashactor.cache import CubinCache
    from flashactor.cache.inventory import take_inventory
    from flashactor.settings import Settings

    settings = Settings.from_environment()
    cache = CubinCache.from_settings(settings)
    inventory = take_inventory(cache)
    layers = [_of_layer(cache, layer, inventory, settings.cache_max_bytes) for layer in cache.layers]
    if options.json:
        print_json(layers)
        return 0
    for number, layer in enumerate(layers):
        if number:
            print()
        print_pairs(_rows(layer))
    return 0


def _of_layer(cache: CubinCache, layer: Layer, inventory: Inventory, max_bytes: int | None) -> dict[str, Any]:
    from flashactor.cache.upkeep import quarantined_files

    records = [held.record for held in inventory.holdings if held.layer is layer]
    created = sorted(record.created for record in records if record.created)
    is_folder = layer is cache.folder
    quarantined = {path.stem for path in quarantined_files(cache.folder)} if is_folder else ()
    return {
        "layer": str(layer.path),
        "kind": "folder" if is_folder else "bundle",
        "writable": is_folder and _is_writable(layer.path),
        "kernels": len(records),
        "bytes": sum(record.size for record in records),
        "limit": max_bytes if is_folder else None,
        "by_arch": dict(sorted(Counter(record.arch for record in records).items())),
        "compile_seconds": round(sum(record.compile_seconds for record in records), 3),
        "oldest": created[0] if created else None,
        "newest": created[-1] if created else None,
        "unreadable": sum(path == layer.path for path, _ in inventory.unreadable),
        "quarantined": len(quarantined),
    }


def _is_writable(folder: Path) -> bool:
    """Whether kernels can be stored there, in a folder that may have to be made first."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _rows(layer: dict[str, Any]) -> list[tuple[str, str]]:
    limit = "" if layer["limit"] is None else f" of {amount(layer['limit'])} at most"
    rows = [
        (layer["kind"], layer["layer"] + ("" if layer["writable"] else " (read only)")),
        ("kernels", str(layer["kernels"])),
        ("size", amount(layer["bytes"]) + limit),
    ]
    if layer["by_arch"]:
        rows.append(
            ("architectures", ", ".join(f"{count} {arch}" for arch, count in layer["by_arch"].items()))
        )
    if layer["kind"] == "folder":
        rows += [
            ("compile seconds", f"{layer['compile_seconds']:.1f}"),
            ("created", f"{short_time(layer['oldest'])} to {short_time(layer['newest'])}"),
            ("quarantined", str(layer["quarantined"])),
        ]
    if layer["unreadable"]:
        rows.append(("damaged records", str(layer["unreadable"])))
    return rows
