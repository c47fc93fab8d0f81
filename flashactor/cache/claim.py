"""One process at a time works on a key: a lock file each, and a note of how the owner fares.

The operating system releases the lock of a process that dies, whatever kills it, so a waiter needs no clock
to notice. The note tells waiters that the owner's compile failed, and why, so that they need not try it too.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from flashactor.cache.folder import CubinFolder, write_atomically
from flashactor.errors import CompileError

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long one compile of another process is waited for: many times what the slowest kernel takes."""

FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.002, 0.05


class KeyClaim:
    """The right to write one key, for one process at a time. Use it as a context manager once acquired."""

    def __init__(self, locks: Path, key: str) -> None:
        """Nothing is locked yet.

        Args:
            locks: the folder of the lock files; it must exist.
            key: the cache key.
        """
        from filelock import FileLock

        self._lock = FileLock(locks / f"{key}.lock", thread_local=False)
        self._note = locks / f"{key}.json"
        self._attempt = ""

    def wait(self, done: Callable[[], T | None]) -> T | None:
        """Wait until this process has the right (None), or until ``done`` has what the right is wanted for.

        Args:
            done: looks for what the present owner makes.

        Raises:
            CompileError: the owner's compile failed.
            TimeoutError: the owner lives, and has been busy with one compile for too long.
            OSError: the lock file cannot be made.
        """
        attempt, since, pause = "", time.monotonic(), FIRST_POLL_SECONDS
        while not self.acquire():
            current, owner = self._owner()
            if current and current != attempt:
                attempt, since = current, time.monotonic()
            if time.monotonic() - since > PATIENCE_SECONDS:
                raise TimeoutError(f"{owner} has been busy for {PATIENCE_SECONDS:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LAST_POLL_SECONDS)
            if (found := done()) is not None:
                return found
        try:
            if (found := done()) is None and (failure := self._failure_of(attempt)) is not None:
                raise failure
        except BaseException:
            self.release()
            raise
        if found is not None:
            self.release()
        return found

    def acquire(self) -> bool:
        """Take the right if nobody has it.

        Raises:
            OSError: the lock file cannot be made.
        """
        from filelock import Timeout

        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Give the right back."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def begin(self) -> None:
        """Note that the owner compiles now."""
        self._attempt = uuid.uuid4().hex
        self._write({})

    def succeed(self) -> None:
        """Drop the note."""
        with suppress(OSError):
            self._note.unlink()

    def discard(self) -> None:
        """Remove the lock file and the note of a key that is done with; by its owner.

        A process that opened the file and waits sees that it is gone, and makes another.
        """
        for path in (self._note, Path(self._lock.lock_file)):
            with suppress(OSError):
                path.unlink()

    def fail(self, error: CompileError) -> None:
        """Note why the compile failed, for those that wait."""
        self._write({"failure": vars(error)})

    def _owner(self) -> tuple[str, str]:
        """The attempt under way, "" when none is noted or only one that failed, and who makes it."""
        note = self._read()
        if "pid" not in note or "failure" in note:  # an old failure: the present owner has not begun yet
            return "", "another process"
        return str(note.get("attempt", "")), f"process {note['pid']}"

    def _failure_of(self, attempt: str) -> CompileError | None:
        """How the compile failed that this process waited for; None if another began since, or it did not."""
        note = self._read()
        if not attempt or note.get("attempt") != attempt or "failure" not in note:
            return None
        with suppress(TypeError):
            return CompileError(**note["failure"])
        return None

    def _write(self, more: dict[str, Any]) -> None:
        note = {"attempt": self._attempt, "pid": os.getpid(), **more}
        with suppress(OSError):  # a full disk: waiters learn less, that is all
            write_atomically(self._note, json.dumps(note, default=str).encode())

    def _read(self) -> dict[str, Any]:
        try:
            note = json.loads(self._note.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}


def forget(folder: CubinFolder, key: str, *, only_litter: bool = False) -> bool:
    """Remove all there is of a key, its lock too; False if a process is busy with it.

    Args:
        folder: where from.
        key: the cache key.
        only_litter: leave the key alone if it has a record. Without one, there may still be a cubin, of a
            process that was killed between the two.

    Raises:
        OSError: the folder cannot be written.
    """
    claim = KeyClaim(folder.locks_path, key)
    if not claim.acquire():
        return False
    with claim:
        if only_litter and folder.record_path(key).exists():
            return False
        folder.remove(key)
        claim.discard()
    return True
