"""What may go from the writable folder, first as a plan and then in fact. Only files of ours are touched."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flashactor.cache.claim import KeyClaim, forget
from flashactor.cache.folder import CubinFolder, Entry, exceeding, is_key
from flashactor.cache.inventory import is_current


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
class Sweep:
    """What goes, or went, from a folder.

    Attributes:
        kernels: the kernels.
        busy: those that stay because a process is busy with them; known once the sweep was done.
        quarantined: files of damaged entries.
        temporary: files that killed processes left.
        locks: keys whose lock file and note go: nobody has the lock, and there is no kernel.
        size: bytes of all this, without the locks, which are next to nothing.
    """

    kernels: tuple[Removal, ...]
    busy: tuple[Removal, ...]
    quarantined: tuple[Path, ...]
    temporary: tuple[Path, ...]
    locks: tuple[str, ...]
    size: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.kernels or self.busy or self.quarantined or self.temporary or self.locks)


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
    return _plan(folder, kernels)


def plan_clear(folder: CubinFolder) -> Sweep:
    """Everything; nothing is changed. Raises as ``plan_prune``."""
    known = {entry.record.key: _removal(entry, "cleared") for entry in folder.entries()}
    return _plan(folder, [known.get(key, Removal(key, "", 0, "cleared")) for key in folder.list_keys()])


def carry_out(folder: CubinFolder, plan: Sweep) -> Sweep:
    """Remove what a plan names; what went, and which kernels a process is busy with.

    Raises:
        OSError: the folder cannot be written.
    """
    if plan.is_empty:
        return plan
    folder.create()
    gone: list[Removal] = []
    busy: list[Removal] = []
    for removal in plan.kernels:
        (gone if forget(folder, removal.key) else busy).append(removal)
    quarantined = tuple(path for path in plan.quarantined if _unlinked(path))
    temporary = tuple(path for path in plan.temporary if _unlinked(path))
    locks = tuple(key for key in plan.locks if forget(folder, key, only_litter=True))
    size = plan.size - sum(removal.size for removal in busy)
    return Sweep(tuple(gone), tuple(busy), quarantined, temporary, locks, size)


def _plan(folder: CubinFolder, kernels: list[Removal]) -> Sweep:
    temporary = tuple(folder.abandoned())
    quarantined = tuple(_ours(folder.quarantine_path, (".json", ".cubin")))
    recorded = set(folder.list_keys())
    locked = {path.stem for path in _ours(folder.locks_path, (".lock", ".json"))}
    free = tuple(key for key in sorted(locked - recorded) if _is_free(folder, key))
    size = sum(removal.size for removal in kernels) + sum(map(_size, (*temporary, *quarantined)))
    return Sweep(tuple(kernels), (), quarantined, temporary, free, size)


def _removal(entry: Entry, reason: str) -> Removal:
    return Removal(entry.record.key, entry.record.label, entry.record.size, reason)


def _ours(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files that are named like a key's."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix in suffixes and is_key(path.with_suffix(".json"))]


def _is_free(folder: CubinFolder, key: str) -> bool:
    claim = KeyClaim(folder.locks_path, key)
    if not (folder.locks_path / f"{key}.lock").exists():  # a note alone; a plan makes no file
        return True
    if not claim.acquire():
        return False
    with claim:
        return True


def _unlinked(path: Path) -> bool:
    with suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
