"""What may go from the writable folder, first as a plan and then in fact. Only files of ours are touched."""

from __future__ import annotations

import math
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flashactor.cache.claim import KeyClaim, forget
from flashactor.cache.folder import ABANDONED_SECONDS, CubinFolder, Entry, exceeding, is_key
from flashactor.cache.inventory import is_current
from flashactor.errors import OutputError

_ENTRY_NAME = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Removal:
    """A kernel that goes.

    Attributes:
        key: its key.
        label: its label; "" if its record cannot be read.
        size: bytes of its cubin.
        reason: ``stale``, ``unused``, ``size limit`` or ``cleared``.
    """

    key: str
    label: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was to go and stays: a kernel's label or key, or a file's name, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """What goes, or went, from a folder.

    Attributes:
        kernels: the kernels.
        busy: those that stay because a process is busy with them; known once the sweep was done.
        failed: what could not be removed; known once the sweep was done.
        quarantined: files of damaged entries.
        temporary: files that killed processes left.
        orphans: cubins that no record and no lock belongs to.
        locks: keys whose lock file and note go: nobody has the lock, and there is no kernel.
        size: bytes of all this, without the locks, which are next to nothing.
    """

    kernels: tuple[Removal, ...]
    busy: tuple[Removal, ...]
    failed: tuple[Failure, ...]
    quarantined: tuple[Path, ...]
    temporary: tuple[Path, ...]
    orphans: tuple[Path, ...]
    locks: tuple[str, ...]
    size: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        files = self.quarantined or self.temporary or self.orphans or self.locks
        return not (self.kernels or self.busy or self.failed or files)


def plan_prune(
    folder: CubinFolder,
    *,
    max_bytes: int | None = None,
    unused_seconds: float | None = None,
    stale: bool = False,
) -> Sweep:
    """What goes by these limits, beside the litter that always goes. Nothing is changed.

    Args:
        folder: the writable folder.
        max_bytes: most bytes of cubins; the least recently used go.
        unused_seconds: those that were not used for so long go.
        stale: whether kernels go that this installation would never look up.

    Raises:
        CachePermissionError: others may write the folder.
        DeviceUnavailableError: ``stale`` without an NVRTC library.
        OSError: it cannot be read.
    """
    kernels, left = [], []
    for entry in folder.entries():
        if stale and not is_current(entry.record):
            kernels.append(_removal(entry, "stale"))
        elif unused_seconds is not None and entry.last_used < time.time() - unused_seconds:
            kernels.append(_removal(entry, "unused"))
        else:
            left.append(entry)
    if max_bytes is not None:
        kernels += [_removal(entry, "size limit") for entry in exceeding(left, max_bytes)]
    return _plan(folder, kernels, time.time() - ABANDONED_SECONDS)


def plan_clear(folder: CubinFolder) -> Sweep:
    """Everything; nothing is changed. Raises as ``plan_prune``."""
    known = {entry.record.key: _removal(entry, "cleared") for entry in folder.entries()}
    kernels = [known.get(key, Removal(key, "", 0, "cleared")) for key in folder.list_keys()]
    return _plan(folder, kernels, math.inf)


def carry_out(folder: CubinFolder, plan: Sweep) -> Sweep:
    """Remove what a plan names, to the end; what went, what a process is busy with, and what failed.

    Raises:
        CachePermissionError: others may write the folder.
        OutputError: there is no folder for locks, and none can be made.
    """
    if plan.is_empty:
        return plan
    try:
        folder.create()
    except OSError as error:
        raise OutputError(
            field="cache folder",
            got=f"{folder.path}, which cannot be changed: {error.strerror or error}",
            expected="a folder that can be written",
            remedy="make it writable, or set FLASHACTOR_CACHE_DIR to another",
        ) from error
    gone: list[Removal] = []
    busy: list[Removal] = []
    failed: list[Failure] = []
    for removal in plan.kernels:
        with _noting(failed, removal.label or removal.key):
            (gone if forget(folder, removal.key) else busy).append(removal)
    recorded = set(map(folder.cubin_path, folder.list_keys()))
    unclaimed = [path for path in plan.orphans if path not in recorded]
    sizes = {path: _size(path) for path in (*plan.quarantined, *plan.temporary, *unclaimed)}
    quarantined, temporary, orphans = (
        tuple(path for path in files if _unlinked(path, failed))
        for files in (plan.quarantined, plan.temporary, unclaimed)
    )
    locks: list[str] = []
    for key in plan.locks:
        with _noting(failed, key):
            if forget(folder, key, only_litter=True):
                locks.append(key)
    size = sum(removal.size for removal in gone)
    size += sum(sizes[path] for path in (*quarantined, *temporary, *orphans))
    return Sweep(tuple(gone), tuple(busy), tuple(failed), quarantined, temporary, orphans, tuple(locks), size)


def quarantined_files(folder: CubinFolder) -> list[Path]:
    """The files of entries that were set aside."""
    return _ours(folder.quarantine_path, (".json", ".cubin"))


def _plan(folder: CubinFolder, kernels: list[Removal], orphaned_before: float) -> Sweep:
    temporary = tuple(path for path in folder.abandoned() if _is_file(path))
    quarantined = tuple(quarantined_files(folder))
    recorded = set(folder.list_keys())
    locked = {path.stem for path in _ours(folder.locks_path, (".lock", ".json"))}
    free = tuple(key for key in sorted(locked - recorded) if _is_free(folder, key))
    orphans = tuple(_orphans(folder, recorded | locked, orphaned_before))
    size = sum(removal.size for removal in kernels) + sum(map(_size, (*temporary, *quarantined, *orphans)))
    return Sweep(tuple(kernels), (), (), quarantined, temporary, orphans, free, size)


def _orphans(folder: CubinFolder, claimed: set[str], before: float) -> Iterator[Path]:
    """Cubins of none of these keys that were written before a time: a writer makes the record last."""
    known = set(map(folder.cubin_path, claimed))
    for path in sorted((folder.path / "cubins" / "entries").glob("*/*")):
        is_entry = _ENTRY_NAME.fullmatch(f"{path.parent.name}{path.name}")
        if is_entry and path not in known and _is_file(path):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    yield path


def _removal(entry: Entry, reason: str) -> Removal:
    return Removal(entry.record.key, entry.record.label, entry.record.size, reason)


def _ours(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files that are named like a key's."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    named = (path for path in found if path.suffix in suffixes and is_key(path.with_suffix(".json")))
    return [path for path in named if _is_file(path)]


def _is_file(path: Path) -> bool:
    """Whether it is a regular file, which all of ours are."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _is_free(folder: CubinFolder, key: str) -> bool:
    claim = KeyClaim(folder.locks_path, key)
    if not (folder.locks_path / f"{key}.lock").exists():  # a note alone; a plan makes no file
        return True
    with suppress(OSError):
        if claim.acquire():
            claim.release()
            return True
    return False


@contextmanager
def _noting(failed: list[Failure], name: str) -> Iterator[None]:
    """Go on after what cannot be removed."""
    try:
        yield
    except OSError as error:
        failed.append(Failure(name, error.strerror or str(error)))


def _unlinked(path: Path, failed: list[Failure]) -> bool:
    with _noting(failed, path.name), suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
