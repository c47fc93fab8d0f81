"""What all layers of a cache hold, without loading it, and how people name one kernel of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from flashactor.cache.cubin_cache import CubinCache, Layer
from flashactor.cache.record import CubinRecord, cache_key
from flashactor.compiler.nvrtc import nvrtc_version, options
from flashactor.compiler.source import source_digest
from flashactor.errors import CacheCorruptError, UnknownKernelError
from flashactor.kernels.catalog import all_specs

_log = logging.getLogger("flashactor.cache")

CANDIDATES = 5
"""How many names an error lists."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A kernel in a layer.

    Attributes:
        record: what is known of it.
        layer: where it is.
        last_used: seconds since 1970; None in a bundle, which keeps no such time.
    """

    record: CubinRecord
    layer: Layer
    last_used: float | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The kernels of every layer, in the order of the layers and then of the labels.

    Attributes:
        holdings: what could be read.
        unreadable: layer and key of each record that is none.
    """

    holdings: tuple[Holding, ...]
    unreadable: tuple[tuple[Path, str], ...]


def take_inventory(cache: CubinCache) -> Inventory:
    """Every record of every layer.

    Raises:
        CachePermissionError: others may write a folder.
        BundleError: a bundle is none; OSError: the writable folder cannot be read.
    """
    holdings: list[Holding] = []
    unreadable: list[tuple[Path, str]] = []
    for layer, keys in readable_layers(cache):
        found: list[Holding] = []
        for key in keys:
            try:
                entry = layer.entry(key)
            except FileNotFoundError:
                continue  # evicted meanwhile
            except (CacheCorruptError, OSError):
                unreadable.append((layer.path, key))
                continue
            found.append(Holding(entry.record, layer, entry.last_used if layer is cache.folder else None))
        holdings += sorted(found, key=lambda held: (held.record.label, held.record.created, held.record.key))
    return Inventory(tuple(holdings), tuple(unreadable))


def readable_layers(cache: CubinCache) -> list[tuple[Layer, list[str]]]:
    """The layers and their keys; a bundle that cannot be read costs a warning, as when it is searched.

    Raises:
        As ``take_inventory``.
    """
    found: list[tuple[Layer, list[str]]] = []
    for layer in cache.layers:
        try:
            found.append((layer, layer.list_keys()))
        except OSError as error:
            if layer is cache.folder:
                raise
            reason = error.strerror or error
            _log.warning("cannot read bundle %s of FLASHACTOR_CACHE_BUNDLES: %s", layer.path, reason)
    return found


def find_holding(holdings: Sequence[Holding], name: str) -> Holding:
    """The kernel of a label or key, or of a prefix of one that no other has, in the first layer that has it.

    Of several kernels with the label, the one that this installation compiles counts.

    Raises:
        UnknownKernelError: there is none, or there are several; it lists some.
    """
    exact = [held for held in holdings if name in (held.record.label, held.record.key)]
    matching = exact or [held for held in holdings if name and _starts(held.record, name)]
    keys = _by_key(matching)
    if len(keys) > 1:
        keys = _by_key(held for held in matching if exact and is_current(held.record)) or keys
    if len(keys) == 1:
        return next(iter(keys.values()))
    if keys:
        raise UnknownKernelError(
            field="kernel",
            got=f"{name}, which {len(keys)} kernels match: "
            + _list(f"{held.record.label} ({key[:12]})" for key, held in keys.items()),
            expected="the label, the key, or a prefix that one kernel alone has",
            remedy="name more of the label, or the key",
        )
    labels = sorted({held.record.label for held in holdings})
    close = get_close_matches(name, labels, CANDIDATES, 0.0)
    raise UnknownKernelError(
        field="kernel",
        got=f"{name}, which no layer of the cache has",
        expected="the label or key of a cached kernel" + (f", such as {_list(close)}" if close else ""),
        remedy="see flashactor cache list, or compile it with flashactor warm --kernel LABEL",
    )


def is_current(record: CubinRecord) -> bool:
    """Whether this installation looks a record's key up. No file that the record names is read.

    Raises:
        CompileError: a source file of this installation is missing.
        DeviceUnavailableError: there is no NVRTC library.
    """
    return record.key in _current_keys(nvrtc_version())


@functools.cache
def _current_keys(version: str) -> frozenset[str]:
    specs = all_specs()
    digests = {source: source_digest(source) for source in {spec.source for spec in specs}}
    return frozenset(cache_key(digests[spec.source], options(spec), version) for spec in specs)


def _starts(record: CubinRecord, prefix: str) -> bool:
    return record.label.startswith(prefix) or record.key.startswith(prefix)


def _by_key(holdings: Iterator[Holding] | Sequence[Holding]) -> dict[str, Holding]:
    first: dict[str, Holding] = {}
    for held in holdings:
        first.setdefault(held.record.key, held)
    return first


def _list(names: Iterator[str] | Sequence[str]) -> str:
    names = list(names)
    more = len(names) - CANDIDATES
    return ", ".join(names[:CANDIDATES]) + (f" and {more} more" if more > 0 else "")
