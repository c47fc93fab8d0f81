"""One million messages to one actor whose executors fail: nothing is lost, doubled, mixed up or leaked.

    python -m benchmarks.soak [--messages N]  # writes benchmarks/results/soak.{json,md}

The exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict

from benchmarks.actor.soaking import (
    COMPILE_ERROR_RATE,
    FAULT_RATE,
    HANG_RATE,
    MAILBOX_SIZE,
    MANY,
    TASKS,
    THREADS,
    Soak,
    soak,
)
from benchmarks.report import write

MESSAGES = 1_000_000
PARTS, WARM_UP_PARTS = 20, 2
GROWTH_GOAL = 5 * 2**20
NOTES = f"""{TASKS} asyncio tasks and {THREADS} threads ask one actor. A tenth of the asks has a timeout of
0.1 to 10 ms; some are cancelled, by their pending reply or by the task that awaits; some are sent with
`ask_many`, {MANY} at once. The mailbox has {MAILBOX_SIZE} places, so asks wait outside of it. Of each two
generations of the actor, one answers in `submit`, the other on a thread of its own.

Faults, drawn with a seed: {FAULT_RATE:.1%} of the launches are refused, find no memory, poison the context,
break the executor or are slow; {HANG_RATE:.1%} hang; {COMPILE_ERROR_RATE:.1%} of the prepared requests do not
compile.

Each message carries its number, and the mock returns it. Right is: one answer each, of its own number;
computed at most once, and not at all where AskTimeoutError or AskCancelledError say that a retry is safe; the
actor's own counts agree, and its observers hear of each request once. Memory is the resident set, after a
collection, at the end of each of {PARTS} parts; the first {WARM_UP_PARTS} are the warm-up."""


def growth(found: Soak) -> int:
    """Bytes that the process has more at its largest than after the warm-up."""
    _, *after = found.resident_bytes[WARM_UP_PARTS - 1 :]
    return max(after) - found.resident_bytes[WARM_UP_PARTS - 1]


def main() -> int:
    """Soak, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=MESSAGES, help="how many, 1000 or more")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and of who does what")
    options = parser.parse_args()
    logging.getLogger("flashactor").setLevel(logging.CRITICAL)  # else each injected fault is a warning
    found = soak(options.messages, options.seed, PARTS)
    grown = growth(found)
    replies = found.outcomes.get("reply", 0)
    ends = sorted(found.outcomes.items(), key=_by_count)
    rows = [
        ("messages", f"{found.messages:,} in {found.seconds:.0f} s", ""),
        ("against the rules", "; ".join(found.wrong) or "none", "none"),
        ("answered with a result", f"{replies:,}", ""),
        ("answered with an error", ", ".join(f"{name} {n:,}" for name, n in ends if name != "reply"), ""),
        ("injected faults", ", ".join(f"{name} {n:,}" for name, n in sorted(found.injected.items())), ""),
        ("restarts", f"{found.restarts:,}", ""),
        ("memory more than after the warm-up, at most", f"{grown / 2**20:.1f} MiB", "5 MiB"),
        ("threads before and after", f"{found.threads[0]}, {found.threads[1]}", "the same"),
        ("open files before and after", f"{found.files[0]}, {found.files[1]}", "the same"),
    ]
    print(write("soak", {**asdict(found), "growth_bytes": grown}, rows, NOTES).read_text())
    same = found.threads[0] == found.threads[1] and found.files[0] == found.files[1]
    return int(bool(found.wrong) or grown > GROWTH_GOAL or not same)


def _by_count(end: tuple[str, int]) -> int:
    return -end[1]


if __name__ == "__main__":
    sys.exit(main())
