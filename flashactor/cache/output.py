"""Files that people asked for, wherever they asked to have them: a link, a pipe or a device too."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from flashactor.cache.folder import write_atomically
from flashactor.errors import OutputError


def write_output(path: Path, content: bytes) -> None:
    """Write a file, or what its link leads to, as a whole; a pipe or a device is written to, and stays.

    Raises:
        OutputError: it cannot be written; a file that was there before still is.
    """
    try:
        if _is_special(path):
            with path.open("wb") as stream:
                stream.write(content)
            return
        target = Path(os.path.realpath(path))
        write_atomically(target, content)
        umask = os.umask(0o077)
        os.umask(umask)
        target.chmod(0o666 & ~umask)
    except OSError as error:
        raise OutputError(
            field="output",
            got=f"{path}: {error.strerror or error}",
            expected="a place that takes the file",
            remedy="make its folder writable, free some space, or name another place",
        ) from error


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
