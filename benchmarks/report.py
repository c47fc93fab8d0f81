"""What every benchmark shares: the machine's facts, medians, and results as JSON and a table."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "flashactor",
    "cuda-core",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "numpy",
    "pykka",
    "torch",
    "cupy-cuda13x",
)


def machine() -> dict[str, Any]:
    """Facts that a number means nothing without."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "command": "python -m " + " ".join([_module_name(), *sys.argv[1:]]),
    }


def write(name: str, results: dict[str, Any], rows: Sequence[tuple[str, str, str]], notes: str = "") -> Path:
    """Write ``results/<name>.json`` and ``.md`` of rows (what, measured, goal); returns the Markdown file."""
    RESULTS.mkdir(exist_ok=True)
    facts = machine()
    document = {"machine": facts, **results}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    lines = [
        f"# {name}",
        "",
        f"`{facts['command']}`, {facts['date'][:10]}, Python {facts['python']}, "
        f"{facts['cpus']} x {facts['cpu']}",
        "",
        "| what | measured | goal |",
        "| --- | --- | --- |",
        *(f"| {what} | {measured} | {goal} |" for what, measured, goal in rows),
    ]
    if notes:
        lines += ["", notes]
    page = RESULTS / f"{name}.md"
    page.write_text("\n".join(lines) + "\n")
    return page


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number, the upper of the two."""
    return sorted(values)[len(values) // 2]


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    from time import perf_counter

    start = perf_counter()
    function()
    return perf_counter() - start


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"
