"""``flashactor top``: what the actors of running processes do, again and again."""

from __future__ import annotations

import argparse
import math
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from flashactor.cli.options import reject
from flashactor.cli.output import counted, print_error, print_json, print_table, table_of

if TYPE_CHECKING:
    from flashactor.actor.meter import Histogram
    from flashactor.errors import RequestError
    from flashactor.telemetry.process_report import ActorReport, ProcessReport, Unreadable

LEFT = ("pid", "actor", "executor", "gen", "queued", "waiting", "in flight")
RIGHT = ("requests/s", "p50 ms", "p99 ms", "requests", "errors", "restarts")
COLUMNS = LEFT + RIGHT
LEAST_INTERVAL = 0.1


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "top",
        help="show what the actors of running processes do",
        description="Show the actors of all processes of this user that run with FLASHACTOR_MONITOR=1, until "
        "Ctrl-C. Requests a second and percentiles of the time from ask to answer are those of the last "
        "interval; with --once, percentiles are of all requests so far.",
    )
    parser.add_argument("--pid", type=int, help="this process alone")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between two looks (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="one look")
    parser.add_argument("--json", action="store_true", help="one look, as one JSON document on stdout")
    parser.set_defaults(run=run)


class Look(NamedTuple):
    """What was seen at one time, in seconds of ``time.monotonic``."""

    at: float
    reports: list[ProcessReport]
    unreadable: list[Unreadable]

    def actors(self) -> dict[tuple[int, int], ActorReport]:
        """Every actor by its process and id."""
        return {(report.pid, actor.id): actor for report in self.reports for actor in report.actors}


def run(options: argparse.Namespace) -> int:
    """Look once, or until Ctrl-C."""
    if not LEAST_INTERVAL <= options.interval < math.inf:
        expected = f"seconds, at least {LEAST_INTERVAL}"
        raise reject("--interval", options.interval, expected, "choose such a number")
    look = _look(options.pid)
    if not look.reports and not look.unreadable:
        raise _nobody(options.pid)
    if options.json:
        print_json(
            {
                "processes": [report.document for report in look.reports],
                "unreadable": [process._asdict() for process in look.unreadable],
            }
        )
    elif options.once:
        _print(look, None)
    else:
        with suppress(KeyboardInterrupt):  # this is how one leaves
            _watch(look, options)
    return 0


def _look(pid: int | None) -> Look:
    from flashactor.telemetry.process_report import read_reports

    return Look(time.monotonic(), *read_reports(pid))


def _nobody(pid: int | None) -> RequestError:
    if pid is not None:
        return reject("--pid", pid, "a process of this user that shows its actors", _SWITCH)
    return reject("processes", "none that shows its actors", "one at least, of this user", _SWITCH)


_SWITCH = "start it with FLASHACTOR_MONITOR=1, or have it call flashactor.telemetry.monitor.serve()"


def _watch(look: Look, options: argparse.Namespace) -> None:
    """A table that changes on a terminal; one after the other in a pipe, until nobody reads there."""
    if not sys.stdout.isatty():
        before = None
        while getattr(sys.stdout, "is_read", True):
            _print(look, before)
            print(flush=True)
            time.sleep(options.interval)
            before, look = look, _look(options.pid)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def shown(look: Look, before: Look | None) -> Group:
        notes = "\n".join((_summary(look), *_notes(look)))
        return Group(table_of(COLUMNS, _rows(look, before)), Text(notes))

    with Live(shown(look, None), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(options.interval)
            before, look = look, _look(options.pid)
            live.update(shown(look, before), refresh=True)


def _print(look: Look, before: Look | None) -> None:
    print_table(COLUMNS, _rows(look, before))
    for note in _notes(look):
        print_error(note)


def _summary(look: Look) -> str:
    actors = sum(len(report.actors) for report in look.reports)
    processes = counted(len(look.reports), "process", "processes")
    return f"{counted(actors, 'actor')} of {processes}; Ctrl-C leaves"


def _notes(look: Look) -> list[str]:
    """What the table lacks."""
    notes = [f"process {pid}: {reason}" for pid, reason in look.unreadable]
    for report in look.reports:
        left_out = report.document.get("left_out")
        if left_out:
            notes.append(f"process {report.pid}: {counted(left_out, 'more actor')}")
    return notes


def _rows(look: Look, before: Look | None) -> list[tuple[str, ...]]:
    known = {} if before is None else before.actors()
    seconds = 0.0 if before is None else look.at - before.at
    return [
        _row(pid, actor, known.get((pid, number)), seconds) for (pid, number), actor in look.actors().items()
    ]


def _row(pid: int, actor: ActorReport, before: ActorReport | None, seconds: float) -> tuple[str, ...]:
    stats = actor.stats
    rate, total = "-", stats.phases.get("total")
    if before is not None:
        answered = stats.completed + stats.failed - before.stats.completed - before.stats.failed
        rate = f"{answered / seconds:.1f}"
        total = _since(total, before.stats.phases.get("total"))
    return (
        str(pid),
        actor.label,
        actor.executor,
        str(stats.generation),
        str(stats.queued - stats.waiting),
        str(stats.waiting),
        str(stats.in_flight),
        rate,
        _milliseconds(total, 0.5),
        _milliseconds(total, 0.99),
        str(stats.received),
        str(stats.failed),
        str(stats.restarts),
    )


def _since(now: Histogram | None, before: Histogram | None) -> Histogram | None:
    """The durations of one histogram that an earlier one does not have."""
    if now is None or before is None:
        return now
    from flashactor.actor.meter import Histogram

    counts = tuple(a - b for a, b in zip(now.counts, before.counts, strict=True))
    return Histogram(now.bounds, counts, now.sum - before.sum)


def _milliseconds(histogram: Histogram | None, quantile: float) -> str:
    if histogram is None or not histogram.count:
        return "-"
    return f"{histogram.quantile(quantile) * 1e3:.3g}"
