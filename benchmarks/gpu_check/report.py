"""The result of one run as JSON, for programs, and as Markdown, for people."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.correctness import Checked
from benchmarks.gpu_check.speed import OURS, Measurement

SCHEMA = "flashactor.gpu_check/1"


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
class Report:
    """Everything that one run found.

    Attributes:
        date: ISO 8601, with the time.
        command: what was typed.
        library: array library of the correctness check.
        not_checked: kernels that the library has no element type for.
        checked: every correctness case.
        measurements: rows of the benchmark; empty without PyTorch.
    """

    date: str
    command: str
    machine: Machine
    library: str
    not_checked: int
    checked: Sequence[Checked]
    measurements: Sequence[Measurement] = field(default=())

    @property
    def failures(self) -> list[Checked]:
        """The cases that failed."""
        return [each for each in self.checked if each.problem is not None]

    @property
    def stem(self) -> str:
        """Name of the result files: ``gpu_nvidia-h200_2026-11-21``."""
        device = re.sub(r"[^a-z0-9]+", "-", self.machine.device.lower()).strip("-")
        return f"gpu_{device}_{self.date[:10]}"

    def write(self, folder: Path) -> list[Path]:
        """Write both forms, and return where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        forms = {".json": json.dumps(document(self), indent=2) + "\n", ".md": markdown(self)}
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
            "kernels_not_checked": report.not_checked,
            "largest_share_of_allowed_error": max((each.ratio for each in passed), default=0.0),
            "largest_lse_error": max((each.lse_error for each in passed), default=0.0),
            "failures": [{"case": each.title, "problem": each.problem} for each in report.failures],
        },
        "benchmark": [_row(each) for each in report.measurements],
    }


def _row(measurement: Measurement) -> dict[str, Any]:
    problem = measurement.problem
    return {
        "head_dim": problem.head_dim,
        "causal": problem.causal,
        "batch": problem.batch,
        "seqlen": problem.seqlen,
        "heads": problem.heads,
        "milliseconds": measurement.milliseconds,
        "tflops": {name: measurement.tflops(name) for name in measurement.milliseconds},
        "ratio": {
            name: measurement.ratio(name)
            for name in measurement.milliseconds
            if name != OURS and OURS in measurement.milliseconds
        },
        "unavailable": measurement.unavailable,
    }


def markdown(report: Report) -> str:
    """The report as a page."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"# {machine.device}, {report.date[:10]}",
        "",
        f"- command: `{report.command}`",
        f"- device: {machine.device} ({machine.arch}), driver {machine.driver}; host: {machine.cpu}",
        f"- versions: {versions}",
        "",
        "## Correctness",
        "",
        _summary(report),
        "",
    ]
    lines += [f"- FAILED {each.title}: {each.problem}" for each in report.failures]
    if report.failures:
        lines.append("")
    if report.measurements:
        lines += ["## Forward, bf16, batch x seqlen = 16k, TFLOP/s (median)", "", *table(report.measurements)]
    return "\n".join(lines).rstrip() + "\n"


def _summary(report: Report) -> str:
    figures = document(report)["correctness"]
    failed = len(report.failures)
    text = (
        f"{figures['cases'] - failed} of {figures['cases']} cases right, with {report.library} arrays: "
        f"largest error {figures['largest_share_of_allowed_error']:.2f} of what is allowed, "
        f"largest lse error {figures['largest_lse_error']:.1e}."
    )
    if report.not_checked:
        text += f" {report.not_checked} kernels not checked: {report.library} has no array of their type."
    return text


def table(measurements: Sequence[Measurement]) -> list[str]:
    """The benchmark as lines of a Markdown table; a contender that did not run shows a dash."""
    names = [OURS]
    for each in measurements:
        names += [name for name in (*each.milliseconds, *each.unavailable) if name not in names]
    others = names[1:]
    header = ["head_dim", "mask", "seqlen", *names, *(f"ratio to {name}" for name in others)]
    lines = [_cells(header), _cells(["---:"] * len(header))]
    for each in measurements:
        problem = each.problem
        lines.append(
            _cells(
                [
                    str(problem.head_dim),
                    "causal" if problem.causal else "full",
                    str(problem.seqlen),
                    *(_number(each.tflops(name), ".0f") for name in names),
                    *(_number(each.ratio(name), ".2f") for name in others),
                ]
            )
        )
    return lines


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
