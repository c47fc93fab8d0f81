"""Cubins on disk and in memory, each with a record of how it was made.

``<path>/cubins`` belongs to ``cuda.core.utils.FileStreamProgramCache`` and holds raw cubins;
``<path>/records/<key>.json`` holds one ``CubinRecord`` for each. A cubin counts only with a record that fits
it, so a damaged entry is compiled again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from flashactor.compiler.nvrtc import Compilable, CompiledKernel, compile_cubin, nvrtc_version, options
from flashactor.compiler.source import source_digest
from flashactor.errors import CacheCorruptError, CachePermissionError

_log = logging.getLogger("flashactor.compiler")


@dataclass(frozen=True, slots=True)
class CubinRecord:
    """What is known of a cubin without loading it.

    Attributes:
        label: what people call the kernel.
        entry: the kernel's name in the cubin.
        source: the file that it was compiled from, relative to the sources' root.
        arch: NVRTC's name of the architecture, such as ``sm_90a``.
        nvrtc_version: the compiler.
        options: the compiler's options.
        source_digest: SHA-256 of the translation unit.
        sha256: of the cubin.
        size: of the cubin in bytes.
        registers: registers of a thread.
        shared_bytes: static shared memory of a thread block.
        spill_bytes: bytes of spill stores and loads in the code.
        stack_bytes: stack frame of a thread.
        log: warnings of the compiler and of ptxas, "" when there is none.
        compile_seconds: wall-clock time in NVRTC.
        created: when, ISO 8601 in UTC.
    """

    label: str
    entry: str
    source: str
    arch: str
    nvrtc_version: str
    options: tuple[str, ...]
    source_digest: str
    sha256: str
    size: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int
    log: str
    compile_seconds: float
    created: str

    @property
    def key(self) -> str:
        """The cache key that this record belongs to."""
        return _key(self.source_digest, self.options, self.nvrtc_version)

    def to_json(self) -> str:
        """The record as a JSON object, one field a line."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> CubinRecord:
        """The record that ``to_json`` wrote.

        Raises:
            CacheCorruptError: the text is no record.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            record = cls(**{**values, "options": tuple(values["options"])})
            sound = all(type(getattr(record, f.name)).__name__ == f.type.split("[")[0] for f in fields(cls))
        except (ValueError, TypeError, KeyError) as error:
            raise _corrupt(f"{type(error).__name__}: {error}", "a record of a cubin") from error
        if not sound:
            raise _corrupt("a field of another type", "a record of a cubin")
        return record


@dataclass(frozen=True, slots=True)
class CachedKernel:
    """A cubin, its record, and where this cubin came from just now."""

    cubin: bytes
    record: CubinRecord
    source: Literal["compiled", "disk", "memory"]


class CubinCache:
    """The cubins of one folder, which processes may share; every method may be called from any thread."""

    def __init__(self, path: Path, *, root: Path | None = None) -> None:
        """Nothing is read or created yet.

        Args:
            path: the cache's folder, ``Settings.cache_dir``.
            root: folder of the CUDA sources (default: ``sources_root()``).
        """
        self.path = path
        self._root = root
        self._lock = threading.Lock()
        self._memory: dict[str, CachedKernel] = {}
        self._compiling: dict[str, Future[CachedKernel]] = {}

    def key(self, spec: Compilable) -> str:
        """SHA-256 over source text, options and NVRTC's version: the same on every machine.

        Raises:
            CompileError: a source file is missing.
            DeviceUnavailableError: there is no NVRTC library.
        """
        return _key(source_digest(spec.source, self._root), options(spec), nvrtc_version())

    def lookup(self, spec: Compilable) -> CachedKernel | None:
        """The kernel from memory or disk; None when it has to be compiled. It raises as ``key`` does."""
        return self._find(self.key(spec))

    def get_or_compile(self, spec: Compilable) -> CachedKernel:
        """The kernel from memory or disk, else compiled and stored.

        Threads that ask for one kernel at once share one compile, and its error. An error is not remembered.

        Raises:
            CompileError: the source does not compile, or a source file is missing.
            DeviceUnavailableError: there is no NVRTC library.
            CachePermissionError: the folder cannot be created or written.
        """
        key = self.key(spec)
        with self._lock:
            if kept := self._memory.get(key):
                return kept
            running = self._compiling.get(key)
            if running is None:
                mine = self._compiling[key] = Future()
        if running is not None:
            return running.result()
        try:
            kernel = self._find(key) or self._compile(key, spec)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(kernel)
            return kernel
        finally:
            with self._lock:
                del self._compiling[key]

    def records(self) -> list[CubinRecord]:
        """Every readable record on disk, by label and architecture."""
        found = []
        for path in sorted(self._records.glob("*.json")):
            with suppress(OSError, CacheCorruptError):
                found.append(CubinRecord.from_json(path.read_bytes()))
        return sorted(found, key=lambda record: (record.label, record.arch, record.created))

    @property
    def _records(self) -> Path:
        return self.path / "records"

    def _find(self, key: str) -> CachedKernel | None:
        with self._lock:
            kept = self._memory.get(key)
        if kept:
            return kept
        try:
            text = (self._records / f"{key}.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _log.warning("cubin %s has an unreadable record, compiling it again: %s", key, error)
            return None
        try:
            kernel = self._load(key, CubinRecord.from_json(text))
        except (CacheCorruptError, OSError) as error:
            _log.warning("cubin %s is damaged, compiling it again: %s", key, error)
            return None
        self._keep(key, kernel)
        return kernel

    def _load(self, key: str, record: CubinRecord) -> CachedKernel:
        if record.key != key:
            raise _corrupt(f"the record of {record.key}", f"the record of {key}")
        cubin: bytes | None = self._cubins().get(bytes.fromhex(key))
        if cubin is None:
            raise _corrupt("no cubin", f"{record.size} bytes")
        if len(cubin) != record.size or sha256(cubin).hexdigest() != record.sha256:
            raise _corrupt(f"{len(cubin)} bytes of another content", f"the {record.size} bytes of the record")
        return CachedKernel(cubin, record, "disk")

    def _compile(self, key: str, spec: Compilable) -> CachedKernel:
        self._require_folder()  # refused? Better now than after compiling
        compiled = compile_cubin(spec, root=self._root)
        kernel = CachedKernel(compiled.cubin, self._record(spec, compiled), "compiled")
        self._store(key, kernel)
        self._keep(key, kernel)
        return kernel

    def _require_folder(self) -> None:
        try:
            self._records.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._raise_if_refused(error)

    def _store(self, key: str, kernel: CachedKernel) -> None:
        try:
            self._records.mkdir(parents=True, exist_ok=True)
            # The record last: a cubin without one does not count.
            self._cubins()[bytes.fromhex(key)] = kernel.cubin
            _write_atomically(self._records / f"{key}.json", kernel.record.to_json())
        except OSError as error:
            self._raise_if_refused(error)
            _log.warning("cubin of %s is not stored in %s: %s", kernel.record.label, self.path, error)

    def _raise_if_refused(self, error: OSError) -> None:
        """A folder that takes no file is the user's to change; a full disk costs only the next compile."""
        refused = isinstance(error, PermissionError | NotADirectoryError | FileExistsError)
        if refused or error.errno == errno.EROFS:
            raise CachePermissionError(
                field="cache_dir",
                got=f"{self.path}, where writing fails: {error.strerror}",
                expected="a folder that can be created and written",
                remedy="set FLASHACTOR_CACHE_DIR to a writable folder",
            ) from error

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
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _keep(self, key: str, kernel: CachedKernel) -> None:
        with self._lock:
            self._memory[key] = replace(kernel, source="memory")

    def _cubins(self) -> Any:
        from cuda.core.utils import FileStreamProgramCache

        return FileStreamProgramCache(self.path / "cubins")


def _key(digest: str, compiler_options: tuple[str, ...], version: str) -> str:
    return sha256(json.dumps([digest, compiler_options, version]).encode()).hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _corrupt(got: str, expected: str) -> CacheCorruptError:
    return CacheCorruptError(
        field="cache entry", got=got, expected=expected, remedy="none is needed: the kernel is compiled again"
    )
