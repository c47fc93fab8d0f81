"""The result of one run, and the same as JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import page
from benchmarks.gpu_check.agreement import Agreement
from benchmarks.gpu_check.correctness import Checked
from benchmarks.gpu_check.speed import (
    OURS,
    Attention,
    Decode,
    Measurement,
    Problem,
    gigabytes_per_second,
    tflops,
)

SCHEMA = "flashactor.gpu_check/2"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what a run was made.

    Attributes:
        versions: package -> version, of those that are installed.
    """

    device: str
    arch: str
    driver: str
    cpu: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured, all in one run.

    Attributes:
        copy: GB/s of a copy on the device, bytes read and written together.
    """

    attention: Sequence[Measurement[Attention]]
    decode: Sequence[Measurement[Decode]]
    copy: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run found.

    Attributes:
        date: ISO 8601, with the time.
        command: what was typed.
        library: array library of the correctness check.
        checked: every correctness case.
        graphs: the replayed CUDA graphs; none without PyTorch.
        agreements: cases that were emulated, too.
        speed: what was measured; None without PyTorch.
    """

    date: str
    command: str
    machine: Machine
    library: str
    checked: Sequence[Checked]
    graphs: Sequence[Checked] = field(default=())
    agreements: Sequence[Agreement] = field(default=())
    speed: Speed | None = None

    @property
    def failures(self) -> list[tuple[str, str]]:
        """(title, problem) of every case that failed, and of every problem that we did not run."""
        everything: list[Checked | Agreement] = [*self.checked, *self.agreements, *self.graphs]
        found = [(each.title, each.problem) for each in everything if each.problem is not None]
        if self.speed is not None:
            measured: list[Measurement[Attention] | Measurement[Decode]]
            measured = [*self.speed.attention, *self.speed.decode]
            found += [
                (str(each.problem), each.unavailable[OURS]) for each in measured if OURS in each.unavailable
            ]
        return found

    @property
    def stem(self) -> str:
        """Name of the result files: ``gpu_nvidia-h200_2026-11-21``."""
        device = re.sub(r"[^a-z0-9]+", "-", self.machine.device.lower()).strip("-")
        return f"gpu_{device}_{self.date[:10]}"

    def write(self, folder: Path) -> list[Path]:
        """Write both forms, and return where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        data = document(self)
        forms = {".json": json.dumps(data, indent=2) + "\n", ".md": page.markdown(data)}
        paths = []
        for suffix, text in forms.items():
            paths.append(folder / f"{self.stem}{suffix}")
            paths[-1].write_text(text)
        return paths


def document(report: Report) -> dict[str, Any]:
    """The report as plain values. ``SCHEMA`` changes when a key changes its meaning or goes."""
    passed = [each for each in report.checked if each.problem is None]
    return {
        "schema": SCHEMA,
        "date": report.date,
        "command": report.command,
        "machine": asdict(report.machine),
        "correctness": {
            "library": report.library,
            "cases": len(report.checked),
            "right": len(passed),
            "largest_error_ratio": max((each.error_ratio or 0.0 for each in passed), default=0.0),
            "largest_lse_error": max((each.lse_error or 0.0 for each in passed), default=0.0),
        },
        "cuda_graph": {"right": all(each.problem is None for each in report.graphs)}
        if report.graphs
        else None,
        "emulator": _emulator(report.agreements),
        "failures": [{"case": title, "problem": problem} for title, problem in report.failures],
        "attention": [_attention(each) for each in report.speed.attention] if report.speed else [],
        "decode": [_decode(each, report.speed.copy) for each in report.speed.decode] if report.speed else [],
        "copy_gb_per_s": report.speed.copy if report.speed else None,
    }


def _emulator(agreements: Sequence[Agreement]) -> list[dict[str, Any]]:
    """For each kind of kernel: cases, those that are equal, and the largest difference of each output."""
    rows = []
    for kind in dict.fromkeys(each.kind for each in agreements):
        compared = [each.differences for each in agreements if each.kind == kind and each.problem is None]
        names = dict.fromkeys(name for each in compared for name in each)
        rows.append(
            {
                "kind": kind,
                "cases": len(compared),
                "equal": sum(not any(each.values()) for each in compared),
                "largest_difference": {name: max(each.get(name, 0.0) for each in compared) for name in names},
            }
        )
    return rows


def _attention(measurement: Measurement[Attention]) -> dict[str, Any]:
    problem = measurement.problem
    return {
        "pass": problem.direction.value,
        "head_dim": problem.head_dim,
        "mask": problem.mask,
        "batch": problem.batch,
        "seqlen": problem.seqlen,
        "heads": problem.heads,
        "milliseconds": dict(measurement.milliseconds),
        "tflops": {name: tflops(measurement, name) for name in measurement.milliseconds},
        "ratio": _ratios(measurement),
        "unavailable": dict(measurement.unavailable),
    }


def _ratios(measurement: Measurement[Problem]) -> dict[str, float | None]:
    """Our speed as a multiple of that of each contender that ran, if we did."""
    names = measurement.milliseconds
    return {name: measurement.ratio(name) for name in names if name != OURS and OURS in names}


def _decode(measurement: Measurement[Decode], copy: float) -> dict[str, Any]:
    speed = gigabytes_per_second(measurement)
    return {
        "context": measurement.problem.context,
        "page": measurement.problem.page,
        "batch": measurement.problem.batch,
        "milliseconds": dict(measurement.milliseconds),
        "gb_per_s": speed,
        "share_of_copy": None if speed is None else speed / copy,
        "ratio": _ratios(measurement),
        "unavailable": dict(measurement.unavailable),
    }
