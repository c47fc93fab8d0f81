"""What a process tells of its actors, as a JSON object, and how it is read.

docs/observability.md describes the fields. A reader refuses another ``format``; new fields may come without a
new one.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from flashactor.actor.census import Counted
from flashactor.actor.meter import ActorStats, Histogram
from flashactor.telemetry.socket_folder import SocketFolder

FORMAT = 1
NUMBERS = tuple(field.name for field in fields(ActorStats) if field.name not in ("errors", "phases"))
MAX_BYTES = 1 << 20
"""No report is longer; some thousand actors fit."""

SECONDS = 2.0
"""When a process counts as hung that does not answer."""


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What a process tells of an actor.

    Attributes:
        id: tells actors of one label apart, as long as the process runs.
        label, executor: of the actor.
        stats: of the moment.
    """

    id: int
    label: str
    executor: str
    stats: ActorStats


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What a process tells.

    Attributes:
        pid: the process.
        actors: its actors.
        document: the whole report as it was sent.
    """

    pid: int
    actors: tuple[ActorReport, ...]
    document: dict[str, Any]


class Unreadable(NamedTuple):
    """A process that gave no report.

    Attributes:
        pid: the process.
        reason: why, in words.
    """

    pid: int
    reason: str


def process_report(actors: Iterable[Counted]) -> dict[str, Any]:
    """The report of this process."""
    return {
        "format": FORMAT,
        "pid": os.getpid(),
        "command": " ".join(sys.orig_argv)[:200],
        "time": time.time(),
        "actors": [_actor_report(actor) for actor in actors],
        "left_out": 0,
    }


def _actor_report(actor: Counted) -> dict[str, Any]:
    stats = actor.stats()
    return {
        "id": id(actor),
        "label": actor.props.label,
        "executor": actor.executor_name,
        "max_in_flight": actor.props.max_in_flight,
        "mailbox_size": actor.props.mailbox_size,
        **{name: getattr(stats, name) for name in NUMBERS},
        "errors": dict(stats.errors),
        "phases": {name: asdict(histogram) for name, histogram in stats.phases.items()},
    }


def read_reports(pid: int | None = None) -> tuple[list[ProcessReport], list[Unreadable]]:
    """The reports of all this user's processes that show their actors, or of one; and of which there is none.

    Processes that have died are not among them; their sockets are removed.

    Raises:
        RequestError: the folder of sockets is no folder of this user alone.
    """
    reports: list[ProcessReport] = []
    unreadable: list[Unreadable] = []
    try:
        folder = SocketFolder()
    except FileNotFoundError:
        return reports, unreadable
    with folder:
        for each in folder.pids() if pid is None else (pid,):
            try:
                connection = folder.connect(each, SECONDS)
                if connection is not None:
                    reports.append(parse_report(_received(connection)))
            except TimeoutError:
                unreadable.append(Unreadable(each, f"no answer within {SECONDS:g} s"))
            except (OSError, ValueError) as error:
                unreadable.append(Unreadable(each, str(error)))
    return reports, unreadable


def _received(connection: socket.socket) -> bytes:
    """All that a process sends."""
    deadline = time.monotonic() + SECONDS
    text = bytearray()
    with connection:
        while part := connection.recv(1 << 16):
            text += part
            if len(text) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
    return bytes(text)


def parse_report(text: bytes) -> ProcessReport:
    """The report in a line of JSON.

    Raises:
        ValueError: it is none, or one of another format.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no report: {error}") from error
    try:
        if document["format"] != FORMAT:
            raise ValueError(f"a report of format {document['format']}; this flashactor reads {FORMAT}")
        actors = tuple(
            ActorReport(actor["id"], actor["label"], actor["executor"], _stats_of(actor))
            for actor in document["actors"]
        )
        return ProcessReport(document["pid"], actors, document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no report of this format: {type(error).__name__}: {error}") from error


def _stats_of(actor: dict[str, Any]) -> ActorStats:
    numbers = {name: int(actor[name]) for name in NUMBERS}
    phases = {
        name: Histogram(tuple(phase["bounds"]), tuple(phase["counts"]), phase["sum"])
        for name, phase in actor["phases"].items()
    }
    return ActorStats(**numbers, errors=actor["errors"], phases=phases)
