"""A process that shows its actors to others of the same user: ``flashactor top`` reads it.

It listens on a Unix socket in a folder that nobody else may enter. Whoever connects gets one line of JSON
(``process_report``; docs/observability.md describes it) and nothing else: nothing can be changed from there.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flashactor.actor.census import ACTORS, Counted
from flashactor.errors import RequestError
from flashactor.telemetry.bound_log import bound_log
from flashactor.telemetry.endpoints import opened, start_once
from flashactor.telemetry.process_report import MAX_BYTES, process_report
from flashactor.telemetry.socket_folder import SocketFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flashactor.settings import Settings

SECONDS = 1.0
"""How long a reader may take to read; the next one waits meanwhile."""

_PEER = struct.Struct("iII")
"""SO_PEERCRED: process, user and group."""


class MonitorServer:
    """The socket and the thread that answers there; ``serve`` starts one."""

    def __init__(self, folder: SocketFolder, actors: Callable[[], list[Counted]]) -> None:
        self._folder = folder
        self._actors = actors
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._socket = folder.listen(self._pid)
        self._thread = threading.Thread(target=self._answer, name="flashactor-monitor", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        opened(self)

    @property
    def path(self) -> Path:
        """The socket."""
        return self._folder.path / f"{self._pid}.sock"

    def close(self) -> None:
        """Stop answering, and remove the socket; twice is once."""
        if self._closing.is_set():
            return
        self._closing.set()
        atexit.unregister(self.close)
        with suppress(OSError):  # the folder may be gone
            self._folder.remove(self._pid)
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._release()

    def forget(self) -> None:
        """In a forked child: the socket is the parent's."""
        self._closing.set()
        atexit.unregister(self.close)
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _release(self) -> None:
        self._socket.close()
        self._folder.close()

    def _answer(self) -> None:
        """On the thread: one line to each that connects."""
        log = bound_log("telemetry")
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:  # the socket is closed; or the process has no descriptor left
                if self._closing.wait(SECONDS):
                    return
                log.warning("monitor.failed", error=str(error))
                continue
            with connection:
                try:
                    self._tell(connection)
                except OSError as error:
                    log.debug("monitor.reader_lost", error=str(error))
                except Exception:
                    log.exception("monitor.failed")

    def _tell(self, connection: socket.socket) -> None:
        if _user_of(connection) != os.geteuid():
            return  # the folder keeps others out, but for root and those that it hands the folder to
        connection.settimeout(SECONDS)
        connection.sendall(_line(self._actors()))


def _user_of(connection: socket.socket) -> int:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    user: int = _PEER.unpack(packed)[1]
    return user


def _line(actors: list[Counted]) -> bytes:
    """The report as a line; of very many actors, only those that fit."""
    report = process_report(actors)
    while len(line := json.dumps(report, allow_nan=False).encode() + b"\n") > MAX_BYTES:
        dropped = len(report["actors"]) - len(report["actors"]) // 2
        report["actors"] = report["actors"][:-dropped]
        report["left_out"] += dropped
    return line


def serve() -> MonitorServer:
    """Show the actors of this process to its user.

    Raises:
        RequestError: the folder of sockets is no folder of this user alone, or takes no socket.
    """
    try:
        folder = SocketFolder(create=True)
        try:
            folder.sweep()
            server = MonitorServer(folder, ACTORS.live)
        except BaseException:
            folder.close()
            raise
    except OSError as error:
        raise RequestError(
            field="monitor",
            got=str(error),
            expected="a folder for the sockets of this user's processes",
            remedy="set XDG_RUNTIME_DIR to a folder of your own",
        ) from error
    return server


def serve_once(settings: Settings) -> None:
    """Do what FLASHACTOR_MONITOR asks for, the first time that an actor of this process starts.

    Where it cannot be, that is a warning and nothing else.
    """
    if settings.monitor:
        start_once("monitor", serve)
