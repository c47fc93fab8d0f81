"""The private folder where processes show themselves to their own user: one Unix socket a process.

The folder is opened once and everything in it is reached through its descriptor: nobody can put another
folder in its place meanwhile, and a long path is no problem for a socket's address.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from flashactor.errors import RequestError
from flashactor.settings import runtime_dir

SUFFIX = ".sock"


class SocketFolder:
    """An open folder of this user's; close it, or use it as a context manager."""

    def __init__(self, path: Path | None = None, *, create: bool = False) -> None:
        """Open the folder.

        Args:
            path: default: that of the settings.
            create: make it if it is not there.

        Raises:
            RequestError: it is a link or no folder, another user's, or others may look into it.
            FileNotFoundError: it is not there.
        """
        self.path = path or runtime_dir()
        if create:
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _refusal(self.path, error.strerror or str(error)) from error
        found = os.fstat(self._fd)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or mode & 0o077:
            self.close()
            raise _refusal(self.path, f"a folder of user {found.st_uid} with mode {mode:o}")

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pids(self) -> list[int]:
        """The processes that have a socket here, dead or alive; in order."""
        names = (name.removesuffix(SUFFIX) for name in os.listdir(self._fd) if name.endswith(SUFFIX))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def listen(self, pid: int) -> socket.socket:
        """A socket of a process that others can connect to."""
        # Under another name until it listens: whoever finds a socket where nobody does removes it.
        name = f"{pid}.new"
        self._remove(name)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(self._address(name))
            listening.listen()
            os.rename(name, f"{pid}{SUFFIX}", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            listening.close()
            self._remove(name)
            raise
        return listening

    def connect(self, pid: int, timeout: float) -> socket.socket | None:
        """A connection to a process; None if it is dead, and its socket is removed then.

        Raises:
            TimeoutError: it does not answer within ``timeout`` seconds, which hold for what is read, too.
        """
        name = f"{pid}{SUFFIX}"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(self._address(name))
        except ConnectionRefusedError:
            self._remove(name)
        except FileNotFoundError:
            pass
        except BlockingIOError as error:  # nobody accepts, and the backlog is full
            connection.close()
            raise TimeoutError("no place in the backlog") from error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
        connection.close()
        return None

    def sweep(self) -> None:
        """Remove the sockets of processes that have died without doing it themselves."""
        for pid in self.pids():
            if not _exists(pid):
                # It may still live where processes are numbered otherwise, in a container: asking it is safe.
                with suppress(OSError):
                    connection = self.connect(pid, timeout=1.0)
                    if connection is not None:
                        connection.close()

    def remove(self, pid: int) -> None:
        """Remove a process's socket, if it is there."""
        self._remove(f"{pid}{SUFFIX}")

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._fd}/{name}"

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)


def _exists(pid: int) -> bool:
    """Whether a process of this number runs here."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _refusal(path: Path, got: str) -> RequestError:
    return RequestError(
        field="folder of sockets",
        got=f"{path}: {got}",
        expected="a folder of this user that nobody else may enter (mode 700), and no link",
        remedy="remove it, or set XDG_RUNTIME_DIR to a folder of your own",
    )
