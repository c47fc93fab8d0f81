"""Runs the scripts of ``benchmarks/peer_actors`` with the interpreter that has their packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import median

ROOT = Path(__file__).resolve().parents[2]
# (package, messages of a measurement): a round trip of Ray takes more than a millisecond.
PEERS = (("xoscar", 5000), ("ray", 2000))
ABSENT = (
    "xoscar and Ray were not measured: `python -m venv PEERS; PEERS/bin/pip install xoscar ray`, "
    "then `python -m benchmarks.dispatch --peers PEERS/bin/python`"
)


def run_peers(python: Path) -> list[dict[str, Any]]:
    """What the script of each peer prints, one after the other."""
    figures = []
    for peer, messages in PEERS:
        command = [str(python), "-m", f"benchmarks.peer_actors.{peer}_actor", "--messages", str(messages)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        figures.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(figures[-1]), file=sys.stderr)
    return figures


def peer_rows(passes: Sequence[Sequence[dict[str, Any]]]) -> list[tuple[str, str, str, str, str, str]]:
    """The medians over several passes as rows: who, awaited median and p99, pipelined, windowed, tasks."""
    rows = []
    for place, first in enumerate(passes[0]):
        for actor in first["actors"]:
            same = [one_pass[place]["actors"][actor] for one_pass in passes]
            middle, p99 = (median([run["awaited"][part] for run in same]) for part in ("median", "p99"))
            rates = [median([run[kind] for run in same]) for kind in ("pipelined", "windowed", "tasks")]
            pipelined, windowed, tasks = (f"{rate:.0f} us" for rate in rates)
            rows.append(
                (
                    f"{first['peer']} {first['version']}, {actor}",
                    f"{middle:.0f} us",
                    f"{p99:.0f} us",
                    pipelined,
                    windowed,
                    tasks,
                )
            )
    return rows
