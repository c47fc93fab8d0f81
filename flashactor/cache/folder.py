"""One folder of cubins: raw files that any CUDA tool opens, and a record of each.

``cubins`` belongs to ``cuda.core.utils.FileStreamProgramCache``; ``records/<key>.json`` holds one
``CubinRecord`` for each cubin, and its modification time is when the cubin was last used. A cubin counts only
with a record that fits it. Everything is written to a temporary file and renamed, the record last, so a
process may die at any moment.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from flashactor.cache.record import CachedKernel, CubinRecord, corrupt_error
from flashactor.cache.trust import require_private
from flashactor.compiler.nvrtc import load_cuda_packages
from flashactor.errors import CacheCorruptError

ABANDONED_SECONDS = 3600.0
"""Age after which a temporary file belongs to nobody; a write takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in a layer, and when its cubin was last used (seconds since 1970)."""

    record: CubinRecord
    last_used: float


class CubinFolder:
    """A folder of cubins, which processes may share; every method may be called from any thread."""

    def __init__(self, path: Path, *, read_only: bool = False, shared: bool = False) -> None:
        """Nothing is read or created yet.

        Args:
            path: the folder.
            read_only: whether it is a bundle: never changed, and its owner may be anyone.
            shared: take it even if others may write it.
        """
        self.path = path
        self.records_path = path / "records"
        self.quarantine_path = path / "quarantine"
        self.locks_path = path / "locks"
        self._cubins_path = path / "cubins"
        self._read_only = read_only
        self._shared = shared
        self._lock = threading.Lock()
        self._trusted = False
        self._opened: Any = None

    def record_path(self, key: str) -> Path:
        """The file of a key's record."""
        return self.records_path / f"{key}.json"

    def cubin_path(self, key: str) -> Path:
        """The file of a key's cubin, as version 1 of cuda.core's cache names it; a test compares."""
        digest = sha256(bytes.fromhex(key)).hexdigest()
        return self._cubins_path / "entries" / digest[:2] / digest[2:]

    def load(self, key: str) -> CachedKernel | None:
        """The verified kernel of a key, now used; None when it is not there.

        Raises:
            CacheCorruptError: what is there is not what was stored.
            CachePermissionError: others may write the folder.
            OSError: it cannot be read.
        """
        kernel = self.peek(key)
        if kernel is not None and not self._read_only:
            with suppress(OSError):
                os.utime(self.record_path(key))
        return kernel

    def peek(self, key: str) -> CachedKernel | None:
        """As ``load``, but looking is no use."""
        self._require_trust()
        path = self.record_path(key)
        try:
            text = _read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        record = CubinRecord.from_json(text)
        cubin = self._cubin(key)
        if cubin is None and not path.exists():
            return None  # evicted between the two reads
        return CachedKernel(record.check(key, cubin), record, "bundle" if self._read_only else "disk")

    def store(self, record: CubinRecord, cubin: bytes) -> None:
        """Keep a cubin.

        Raises:
            CachePermissionError: others may write the folder.
            OSError: it cannot be written; nothing of it is left then.
        """
        self.create()
        cubins = self._cubins()
        cubins[bytes.fromhex(record.key)] = cubin
        write_atomically(self.record_path(record.key), record.to_json().encode())

    def create(self) -> None:
        """Make the folder, for this user alone.

        Raises:
            CachePermissionError: it is there, and others may write it.
            OSError: it cannot be made.
        """
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process made it just now
                self.path.mkdir(mode=0o700)
        self._require_trust()
        for folder in (self.records_path, self._cubins_path, self.locks_path):
            folder.mkdir(mode=0o700, exist_ok=True)

    def remove(self, key: str) -> bool:
        """Forget a cubin, its record first, without which it does not count; False if there was none."""
        try:
            self.record_path(key).unlink()
            found = True
        except (FileNotFoundError, NotADirectoryError):
            found = False
        if self._cubins_path.is_dir():
            with suppress(KeyError):
                del self._cubins()[bytes.fromhex(key)]
        return found

    def set_aside(self, key: str) -> None:
        """Move a damaged entry to ``quarantine``, where nothing looks for kernels but people do.

        Raises:
            OSError: it cannot be moved, and is still there.
        """
        self.quarantine_path.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.replace(self.record_path(key), self.quarantine_path / f"{key}.json")
        with suppress(OSError):  # it may be unreadable, and need not be kept
            cubin = self._cubin(key)
            if cubin is not None:
                write_atomically(self.quarantine_path / f"{key}.cubin", cubin)
        self.remove(key)

    def list_keys(self) -> list[str]:
        """The keys that have a record, readable or not."""
        self._require_trust()
        try:
            return sorted(path.stem for path in self.records_path.iterdir() if is_key(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def entry(self, key: str) -> Entry:
        """A key's record, without looking at the cubin.

        Raises:
            CacheCorruptError: it is no record; OSError: it cannot be read.
        """
        path = self.record_path(key)
        used = path.stat().st_mtime
        record = CubinRecord.from_json(_read(path))
        if record.key != key:
            raise corrupt_error(f"the record of {record.key}", f"the record of {key}")
        return Entry(record, used)

    def entries(self) -> Iterator[Entry]:
        """Every readable record."""
        for key in self.list_keys():
            with suppress(OSError, CacheCorruptError):
                yield self.entry(key)

    def abandoned(self) -> list[Path]:
        """Temporary files that their writers left behind when they were killed."""
        oldest, found = time.time() - ABANDONED_SECONDS, []
        for folder in (self.records_path, self.quarantine_path, self.locks_path, self._cubins_path / "tmp"):
            for path in sorted(folder.glob("*")) if folder.is_dir() else ():
                with suppress(OSError):
                    if _is_temporary(path) and path.stat().st_mtime < oldest:
                        found.append(path)
        return found

    def _require_trust(self) -> None:
        if self._trusted or self._shared:
            return
        parts = (self.records_path, self._cubins_path, self.locks_path, self.quarantine_path)
        for folder in (self.path, *parts):
            require_private(folder, any_owner=self._read_only)
        self._trusted = self.path.is_dir()

    def _cubin(self, key: str) -> bytes | None:
        if not self._read_only:
            cubin: bytes | None = self._cubins().get(bytes.fromhex(key))
            return cubin
        try:
            return _read(self.cubin_path(key))  # cuda.core's cache would make folders, and touch the file
        except FileNotFoundError:
            return None

    def _cubins(self) -> Any:
        with self._lock:
            if self._opened is None:
                load_cuda_packages()
                from cuda.core.utils import FileStreamProgramCache

                self._opened = FileStreamProgramCache(self._cubins_path)
            return self._opened


def exceeding(entries: Iterable[Entry], max_bytes: int) -> list[Entry]:
    """The entries that have to go so that the rest fits: the least recently used."""
    gone, total = [], 0
    for entry in sorted(entries, key=lambda entry: entry.last_used, reverse=True):
        total += entry.record.size
        if total > max_bytes:
            gone.append(entry)
    return gone


def is_key(path: Path) -> bool:
    """Whether a file is named like a key's record."""
    return path.suffix == ".json" and len(path.stem) == 64 and not set(path.stem) - set("0123456789abcdef")


def _read(path: Path) -> bytes:
    """The content of a regular file; anything else, such as a pipe, might never end.

    Raises:
        CacheCorruptError: it is something else; OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise corrupt_error(f"{path.name}, which is no regular file", "a file that was stored")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that others see whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _is_temporary(path: Path) -> bool:
    return path.name.startswith((".", "entry-")) and (path.suffix == ".tmp" or path.parent.name == "tmp")
