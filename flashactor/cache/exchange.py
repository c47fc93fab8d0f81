"""Kernels out of a cache into a bundle, and out of bundles into a cache; each verified on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from flashactor.cache.claim import KeyClaim
from flashactor.cache.cubin_cache import CubinCache, Layer
from flashactor.cache.folder import CubinFolder
from flashactor.cache.inventory import CANDIDATES, is_current, readable_layers
from flashactor.cache.record import CachedKernel, now
from flashactor.compiler.nvrtc import Compilable
from flashactor.errors import CacheCorruptError, CacheMissError, CompileError, OutputError


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        stored: kernels that are new in the folder.
        present: kernels that were there, whole.
    """

    stored: tuple[CachedKernel, ...]
    present: tuple[CachedKernel, ...]


def read_specs(cache: CubinCache, specs: Sequence[Compilable]) -> list[CachedKernel]:
    """The kernels of these specifications, from any layer; looking is no use.

    Raises:
        CacheMissError: one of them is in no layer.
        CacheCorruptError: one of them is damaged.
        CompileError, DeviceUnavailableError: as ``CubinCache.key``.
        OSError: a layer cannot be read.
    """
    layers = [layer for layer, _ in readable_layers(cache)]
    found, missing = [], []
    for spec in specs:
        kernel = _peek(layers, cache.key(spec))
        if kernel is None:
            missing.append(spec.label)
        else:
            found.append(kernel)
    if missing:
        more = f" and {len(missing) - CANDIDATES} more" if len(missing) > CANDIDATES else ""
        named = " ".join(missing[:CANDIDATES])
        raise CacheMissError(
            field="kernel",
            got=f"{named}{more}, not cached for this source and compiler",
            expected="kernels that are in the cache",
            remedy=f"run: flashactor warm --kernel {named}",
        )
    return found


def read_folder(folder: CubinFolder, *, stale: bool) -> list[CachedKernel]:
    """The kernels of a folder.

    Args:
        folder: the folder.
        stale: whether those count too that this installation would never look up.

    Raises:
        CacheMissError: there is none.
        CacheCorruptError: one of them is damaged.
        DeviceUnavailableError: there is no NVRTC library.
        OSError: it cannot be read.
    """
    found = (_whole_or_absent(folder, key) for key in folder.list_keys())
    kernels = [kernel for kernel in found if kernel is not None and (stale or is_current(kernel.record))]
    if not kernels:
        raise CacheMissError(
            field="cache folder",
            got=f"{folder.path} without a kernel of this source and compiler",
            expected="kernels to export",
            remedy="run: flashactor warm",
        )
    return kernels


def store_kernels(folder: CubinFolder, kernels: Iterable[CachedKernel]) -> Imported:
    """Keep kernels that a folder does not have yet, each under its key's claim; a damaged one is replaced.

    Raises:
        CachePermissionError: others may write the folder.
        OutputError: it cannot be written; what was stored before stays.
    """
    stored: list[CachedKernel] = []
    present: list[CachedKernel] = []
    try:
        folder.create()
        for kernel in kernels:
            (stored if _store(folder, kernel) else present).append(kernel)
    except OSError as error:
        raise OutputError(
            field="cache folder",
            got=f"{folder.path}, which takes no file: {error.strerror or error}",
            expected="a folder that can be written, on a disk with space",
            remedy="free some space, or set FLASHACTOR_CACHE_DIR to a writable folder",
        ) from error
    return Imported(tuple(stored), tuple(present))


def _store(folder: CubinFolder, kernel: CachedKernel) -> bool:
    """Whether the kernel was not there."""
    key, record = kernel.record.key, replace(kernel.record, created=now())
    claim = KeyClaim(folder.locks_path, key)
    while True:
        try:
            found = claim.wait(lambda: _whole(folder, key))
        except CompileError:  # another process could not make what is at hand here
            continue
        except TimeoutError:  # it hangs; whole files of one content take each other's place without harm
            folder.store(record, kernel.cubin)
            return True
        if found is not None:
            return False
        with claim:
            folder.store(record, kernel.cubin)
            claim.succeed()
        return True


def _whole(folder: CubinFolder, key: str) -> CachedKernel | None:
    with suppress(CacheCorruptError):
        return folder.peek(key)
    return None


def _peek(layers: Sequence[Layer], key: str) -> CachedKernel | None:
    for layer in layers:
        kernel = _whole_or_absent(layer, key)
        if kernel is not None:
            return kernel
    return None


def _whole_or_absent(layer: Layer, key: str) -> CachedKernel | None:
    try:
        return layer.peek(key)
    except CacheCorruptError as error:
        raise CacheCorruptError(
            field="cache entry",
            got=f"{key} of {layer.path}: {error.got}",
            expected=error.expected,
            remedy="run: flashactor cache verify --repair, then flashactor warm",
        ) from error
