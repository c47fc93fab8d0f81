"""Cubins in memory, in a folder and in bundles, each verified when it is loaded and compiled once at most.

docs/cache.md has the format and the guarantees.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol, Self

from flashactor.cache.bundle import BundleFile
from flashactor.cache.claim import KeyClaim, forget
from flashactor.cache.folder import CubinFolder, Entry, exceeding
from flashactor.cache.record import CachedKernel, CubinRecord, cache_key, now
from flashactor.compiler.nvrtc import Compilable, CompiledKernel, compile_cubin, nvrtc_version, options
from flashactor.compiler.source import source_digest
from flashactor.errors import (
    CacheCorruptError,
    CacheMissError,
    CachePermissionError,
    CompileError,
)
from flashactor.settings import Settings

_log = logging.getLogger("flashactor.cache")


@dataclass(slots=True)
class CacheCounts:
    """What a cache did since it was opened.

    Attributes:
        memory_hits, disk_hits, bundle_hits: kernels found, by layer.
        compiled: kernels that this cache compiled.
        failed: compiles that failed here.
        waited: kernels that another thread or process made while this one was about to; each is a hit too.
        damaged: entries that were not what was stored.
        not_stored: kernels that are in memory alone, because the folder takes none or they exceed its limit.
        evicted: kernels that went because the folder was full.
    """

    memory_hits: int = 0
    disk_hits: int = 0
    bundle_hits: int = 0
    compiled: int = 0
    failed: int = 0
    waited: int = 0
    damaged: int = 0
    not_stored: int = 0
    evicted: int = 0


class Layer(Protocol):
    """Where cubins are looked for."""

    @property
    def path(self) -> Path:
        """The folder or file."""

    def load(self, key: str) -> CachedKernel | None:
        """The verified kernel of a key, now used; None when it is not there."""

    def peek(self, key: str) -> CachedKernel | None:
        """As ``load``, but looking is no use."""

    def list_keys(self) -> list[str]:
        """The keys of its records."""

    def entry(self, key: str) -> Entry:
        """A key's record."""


class CubinCache:
    """Memory, then one writable folder, then bundles; every method may be called from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        root: Path | None = None,
        bundles: Sequence[Path] = (),
        max_bytes: int | None = None,
        compiling: bool = True,
        shared: bool = False,
    ) -> None:
        """Nothing is read or created yet.

        Args:
            path: the cache's folder, ``Settings.cache_dir``.
            root: folder of the CUDA sources (default: ``sources_root()``).
            bundles: folders and bundle files that are searched after it and never changed.
            max_bytes: most bytes of cubins in the folder; the least recently used go first.
            compiling: whether a kernel that is nowhere is compiled.
            shared: take the folder even if others may write it.
        """
        self.folder = CubinFolder(path, shared=shared)
        self.bundles: tuple[Layer, ...] = tuple(_bundle(bundle, shared) for bundle in bundles)
        self._root = root
        self._max_bytes = max_bytes
        self._compiling = compiling
        self._lock = threading.Lock()
        self._keys: dict[Compilable, str] = {}
        self._memory: dict[str, CachedKernel] = {}
        self._counts = CacheCounts()
        self._warned: set[str] = set()
        self._alone: dict[str, threading.Lock] = {}

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """The cache that the settings describe (default: those of the environment)."""
        chosen = settings or Settings.from_environment()
        return cls(
            chosen.cache_dir,
            bundles=chosen.cache_bundles,
            max_bytes=chosen.cache_max_bytes,
            compiling=not chosen.no_compile,
            shared=chosen.cache_shared,
        )

    @property
    def path(self) -> Path:
        """The writable folder."""
        return self.folder.path

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Where kernels are looked for, in order, after memory."""
        return (self.folder, *self.bundles)

    def key(self, spec: Compilable) -> str:
        """SHA-256 over source text, options and NVRTC's version: the same on every machine.

        Raises:
            CompileError: a source file is missing.
            DeviceUnavailableError: there is no NVRTC library.
        """
        key = self._keys.get(spec)
        if key is None:
            digest = source_digest(spec.source, self._root)
            key = self._keys[spec] = cache_key(digest, options(spec), nvrtc_version())
        return key

    def lookup(self, spec: Compilable) -> CachedKernel | None:
        """The kernel from memory, folder or bundles; None when it has to be compiled.

        Raises:
            CompileError, DeviceUnavailableError: as ``key``.
            CachePermissionError: others may write the folder.
            BundleError: a bundle is none.
        """
        return self._find(self.key(spec), self.layers)

    def get_or_compile(self, spec: Compilable) -> CachedKernel:
        """The kernel from memory, folder or bundles, else compiled and stored.

        Of several threads and processes that want one kernel of a folder, one compiles, and the others wait
        for it. They get its error too, if it fails; an error is not kept. A folder that cannot be written
        costs no more than that: one warning, and the kernel is in memory alone.

        Raises:
            CacheMissError: the kernel is nowhere, and compiling is switched off.
            CompileError: the source does not compile, or a source file is missing.
            DeviceUnavailableError: there is no NVRTC library.
            CachePermissionError: others may write the folder, or its path is no folder.
            BundleError: a bundle is none.
        """
        key = self.key(spec)
        kernel = self._find(key, self.layers)
        if kernel is None:
            if not self._compiling:
                raise _miss_error(spec, self.layers)
            kernel = self._compile_once(key, spec)
        return kernel

    def counts(self) -> CacheCounts:
        """What this cache did so far."""
        with self._lock:
            return replace(self._counts)

    def records(self) -> list[CubinRecord]:
        """Every readable record of the folder, by label and architecture."""
        found = (entry.record for entry in self.folder.entries())
        return sorted(found, key=lambda record: (record.label, record.arch, record.created))

    def evict(self, max_bytes: int) -> list[CubinRecord]:
        """Forget the least recently used kernels of the folder until the rest fits; those that went."""
        unused = exceeding(self.folder.entries(), max_bytes)
        return [entry.record for entry in unused if forget(self.folder, entry.record.key)]

    def _find(self, key: str, layers: Sequence[Layer]) -> CachedKernel | None:
        with self._lock:
            kept = self._memory.get(key)
            if kept is not None:
                self._counts.memory_hits += 1
                return kept
        for layer in layers:
            kernel = self._load(layer, key)
            if kernel is not None:
                self._count("disk_hits" if kernel.source == "disk" else "bundle_hits")
                self._keep(key, kernel)
                return kernel
        return None

    def _load(self, layer: Layer, key: str) -> CachedKernel | None:
        try:
            return layer.load(key)
        except CacheCorruptError as error:
            if layer is self.folder:
                return self._repair(key, error)
            self._count("damaged")
            _log.warning("cubin %s of %s is damaged, looking elsewhere: %s", key, layer.path, error.got)
            return None
        except OSError as error:
            self._warn_once(f"cannot read {layer.path}: {error}")
            return None

    def _repair(self, key: str, error: CacheCorruptError) -> CachedKernel | None:
        """Set a damaged entry aside, under the key's claim: it may be a whole one again by now."""
        try:
            self.folder.create()
            claim = KeyClaim(self.folder.locks_path, key)
            if not claim.acquire():
                return None  # whoever has it sees the damage too
            with claim:
                return self._load_or_set_aside(key)
        except OSError as refusal:
            self._count("damaged")
            self._warn_once(f"cubin {key} is damaged ({error.got}) and cannot be set aside: {refusal}")
            return None

    def _load_or_set_aside(self, key: str) -> CachedKernel | None:
        """With the key's claim: what the folder has; what is damaged leaves it."""
        try:
            return self.folder.load(key)
        except CacheCorruptError as error:
            self.folder.set_aside(key)
            self._count("damaged")
            _log.warning("cubin %s is damaged and was set aside: %s", key, error.got)
            return None

    def _compile_once(self, key: str, spec: Compilable) -> CachedKernel:
        """The kernel, compiled by this process or by one that was faster."""
        try:
            self.folder.create()
            claim = KeyClaim(self.folder.locks_path, key)
            kernel = claim.wait(lambda: self._find(key, (self.folder,)))
        except TimeoutError as busy:
            _log.warning("%s with %s; compiling it here", busy, spec.label)
            kernel = self._compile(key, spec)
            self._store(kernel)  # whole or not at all, and of the same content as the other's
            return kernel
        except OSError as error:
            self._not_stored(error)
            return self._compile_alone(key, spec)
        if kernel is not None:
            self._count("waited")
            return kernel
        with claim:
            with suppress(OSError):  # damage that came up while this process waited
                self._load_or_set_aside(key)
            claim.begin()
            try:
                kernel = self._compile(key, spec)
            except CompileError as error:
                claim.fail(error)
                raise
            self._store(kernel)
            claim.succeed()
        self._make_room()
        return kernel

    def _compile_alone(self, key: str, spec: Compilable) -> CachedKernel:
        """Without a folder, and so without claims: one thread of this process compiles a key."""
        with self._lock:
            alone = self._alone.setdefault(key, threading.Lock())
        with alone:
            return self._find(key, ()) or self._compile(key, spec)

    def _compile(self, key: str, spec: Compilable) -> CachedKernel:
        try:
            compiled = compile_cubin(spec, root=self._root)
        except CompileError:
            self._count("failed")
            raise
        self._count("compiled")
        kernel = CachedKernel(compiled.cubin, self._record(spec, compiled), "compiled")
        self._keep(key, kernel)
        return kernel

    def _store(self, kernel: CachedKernel) -> None:
        if self._max_bytes is not None and kernel.record.size > self._max_bytes:
            self._count("not_stored")  # all others would have to go, and then this one
            return
        try:
            self.folder.store(kernel.record, kernel.cubin)
        except OSError as error:
            self._not_stored(error)

    def _make_room(self) -> None:
        if self._max_bytes is None:
            return
        try:
            self._count("evicted", len(self.evict(self._max_bytes)))
        except OSError as error:
            self._warn_once(f"cannot remove kernels from {self.path}: {error}")

    def _not_stored(self, error: OSError) -> None:
        """A path that is no folder is the user's to change; a full or read-only one costs a compile."""
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise CachePermissionError(
                field="cache folder",
                got=f"{self.path}, where writing fails: {error.strerror}",
                expected="a folder that can be created and written",
                remedy="set FLASHACTOR_CACHE_DIR to a writable folder",
            ) from error
        self._count("not_stored")
        self._warn_once(f"kernels stay in memory: {self.path} takes no file: {error.strerror or error}")

    def _warn_once(self, message: str) -> None:
        with self._lock:
            known = message in self._warned
            self._warned.add(message)
        _log.log(logging.DEBUG if known else logging.WARNING, message)

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            setattr(self._counts, name, getattr(self._counts, name) + number)

    def _keep(self, key: str, kernel: CachedKernel) -> None:
        with self._lock:
            self._memory[key] = replace(kernel, source="memory")

    def _record(self, spec: Compilable, compiled: CompiledKernel) -> CubinRecord:
        return CubinRecord(
            label=spec.label,
            entry=spec.entry,
            source=spec.source,
            arch=spec.arch.target,
            nvrtc_version=compiled.nvrtc_version,
            options=options(spec),
            source_digest=source_digest(spec.source, self._root),
            sha256=sha256(compiled.cubin).hexdigest(),
            size=len(compiled.cubin),
            registers=compiled.registers,
            shared_bytes=compiled.shared_bytes,
            spill_bytes=compiled.spill_store_bytes + compiled.spill_load_bytes,
            stack_bytes=compiled.stack_bytes,
            log=compiled.log,
            compile_seconds=round(compiled.compile_seconds, 4),
            created=now(),
        )


def _bundle(path: Path, shared: bool) -> Layer:
    return (
        CubinFolder(path, read_only=True, shared=shared) if path.is_dir() else BundleFile(path, shared=shared)
    )


def _miss_error(spec: Compilable, layers: Sequence[Layer]) -> CacheMissError:
    """The error of a kernel that may not be compiled; it says whether another compiler's is there."""
    others = {
        entry.record.nvrtc_version
        for layer in layers
        for entry in _entries(layer)
        if entry.record.label == spec.label
    }
    hint = (
        f"; there is one for another source or of another compiler: {', '.join(sorted(others))}"
        if others
        else ""
    )
    searched = ", ".join(str(layer.path) for layer in layers)
    return CacheMissError(
        field="kernel",
        got=f"{spec.label}, which is not in {searched} for this source and NVRTC {nvrtc_version()}{hint}",
        expected="a cached kernel, because FLASHACTOR_NO_COMPILE is set",
        remedy=f"run: FLASHACTOR_NO_COMPILE=0 flashactor warm --kernel {spec.label}",
    )


def _entries(layer: Layer) -> Iterator[Entry]:
    with suppress(OSError):
        for key in layer.list_keys():
            with suppress(OSError, CacheCorruptError):
                yield layer.entry(key)
