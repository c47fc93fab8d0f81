"""``python -m benchmarks.gpu_check``: check every kernel on this machine's GPU, then measure them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.gpu_check.report import Report
from benchmarks.report import RESULTS
from flashactor.errors import FlashAttnError
from flashactor.executors.cuda import device_arch, device_count

if TYPE_CHECKING:
    from benchmarks.gpu_check.speed import Measurement

NO_DEVICE = "gpu_check: this machine has no CUDA device, so nothing was checked."
NO_LIBRARY = (
    "gpu_check: there is a CUDA device, but neither PyTorch nor CuPy to make arrays on it: install one."
)

Item = TypeVar("Item")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 0 if all is right, or if there is no device to check."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(typed)
    console = Console()
    if device_count() == 0:
        console.print(NO_DEVICE)
        return 0
    try:
        report = run(console, quick=options.quick, command=command(typed))
    except FlashAttnError as error:
        console.print(f"gpu_check: {type(error).__name__}: {error}", markup=False)
        return 1
    if report is None:
        console.print(NO_LIBRARY)
        return 1
    for path in report.write(options.results):
        console.print(f"wrote {path}", markup=False)
    for failure in report.failures:
        console.print(f"FAILED {failure.title}: {failure.problem}", markup=False)
    console.print(f"{len(report.checked) - len(report.failures)} of {len(report.checked)} cases right")
    return 1 if report.failures else 0


def command(typed: Sequence[str]) -> str:
    """What to type to repeat this run."""
    return shlex.join(["python", "-m", "benchmarks.gpu_check", *typed])


def run(console: Console, *, quick: bool, command: str) -> Report | None:
    """Check and measure on the first device; None without an array library for it.

    Raises:
        FlashAttnError: the device or the actor is not usable at all.
    """
    from benchmarks.gpu_check import cases, correctness, libraries, machine, sdpa
    from flashactor import FlashAttnActor
    from flashactor.kernels.sm80 import all_specs

    library = libraries.device_library()
    if library is None:
        return None
    specs = list(all_specs(device_arch()))
    small = cases.correctness_cases(specs, library.dtypes, quick=quick)
    measurements: list[Measurement] = []
    with _progress(console) as bar, FlashAttnActor.start(executor="cuda") as actor:
        checked = _shown(bar, "correctness", correctness.check_cases(actor, library, small), len(small))
        burst = correctness.check_burst(actor, library, small[0].spec)
        checked += _shown(bar, "burst", burst, correctness.BURST)
        if library.name == "torch":
            long = sdpa.sdpa_cases(specs)
            checked += _shown(bar, "SDPA", sdpa.check_against_sdpa(actor, long, "cuda:0"), len(long))
            measurements = _measurements(bar, quick=quick)
    not_checked = sum(spec.dtype not in library.dtypes for spec in specs)
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    found = machine.this_machine()
    return Report(date, command, found, library.name, not_checked, checked, measurements)


def _measurements(bar: Progress, *, quick: bool) -> list[Measurement]:
    from benchmarks.gpu_check import speed, timing
    from flashactor.cache import CubinCache

    problems = speed.problems(quick=quick)
    cache = CubinCache.from_settings()
    return _shown(bar, "benchmark", timing.measure(problems, cache, 10 if quick else 30), len(problems))


def _shown(bar: Progress, title: str, items: Iterable[Item], total: int) -> list[Item]:
    """Collect items while a bar counts them."""
    return list(bar.track(items, total=total, description=title))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer kernels, shapes and lengths")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
