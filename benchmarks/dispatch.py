"""What dispatch costs: asks of an actor beside the bare thread hop that they need, and beside other packages.

    python -m benchmarks.dispatch [--peers PYTHON]  # writes benchmarks/results/dispatch.{json,md}

PYTHON is the interpreter of an environment that has xoscar and Ray. Everything is measured on one processor
and on any; the peers, which have several processes, on any, in turn with ours. How is said below the table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.actor.figures import Figures, measure, new_message
from benchmarks.actor.measuring import Trip
from benchmarks.actor.page import NOTES, ask_rows, peer_table
from benchmarks.actor.peers import ABSENT, peer_rows, run_peers
from benchmarks.report import median, seconds, write
from flashactor import lookup

LOOKUPS = 20_000


def key_microseconds() -> float:
    """From a request to the cell of the dispatch table."""
    request = new_message().request
    return seconds(lambda: [lookup(request.dispatch_key()) for _ in range(LOOKUPS)]) / LOOKUPS * 1e6


def import_milliseconds(repeats: int) -> tuple[float, float]:
    """Median time of a process that imports flashactor, and of one that imports nothing."""

    def run(statement: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", statement], check=True)) * 1e3

    bare, importing = [], []
    for _ in range(repeats):
        bare.append(run("pass"))
        importing.append(run("import flashactor"))
    return median(importing), median(bare)


def on_one_processor(rounds: int, repeats: int) -> Figures:
    """The figures with all threads on one processor."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        return asyncio.run(measure(rounds, repeats))
    finally:
        os.sched_setaffinity(0, processors)


def middle(passes: Sequence[Figures]) -> Figures:
    """The median of each figure over several passes."""
    trips = {
        name: Trip(
            *(median(list(values)) for values in zip(*(one.trips[name] for one in passes), strict=True))
        )
        for name in passes[0].trips
    }
    rates = {name: median([one.rates[name] for one in passes]) for name in passes[0].rates}
    return Figures(trips, rates, sum(one.scrapes for one in passes))


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds of 50 samples of each kind of ask")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the other measurements")
    parser.add_argument("--passes", type=int, default=3, help="passes over ours and the peers in turn")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="interpreter that has xoscar and ray")
    options = parser.parse_args()
    on_one, on_any, peers = [], [], []
    for _ in range(options.passes):
        on_one.append(on_one_processor(options.rounds, options.repeats))
        on_any.append(asyncio.run(measure(options.rounds, options.repeats)))
        if options.peers is not None:
            peers.append(run_peers(options.peers))
    one, free = middle(on_one), middle(on_any)
    key = key_microseconds()
    with_import, bare_process = import_milliseconds(options.repeats)
    rows = [
        *ask_rows(one, free),
        ("dispatch_key + lookup", f"{key:.2f} us", "5 us"),
        (
            "process that imports flashactor",
            f"{with_import:.0f} ms, {with_import - bare_process:.0f} ms of it the import",
            "150 ms",
        ),
    ]
    results = {
        "one_processor": [figures.document() for figures in on_one],
        "any_processor": [figures.document() for figures in on_any],
        "peers": peers,
        "dispatch_key_and_lookup_us": key,
        "import_ms": with_import,
        "bare_process_ms": bare_process,
    }
    beside = peer_table(free, peer_rows(peers)) if peers else ABSENT
    print(write("dispatch", results, rows, f"{NOTES}\n\n{beside}").read_text())


if __name__ == "__main__":
    main()
