"""``python -m benchmarks.gpu_check``: check every kernel on this machine's GPU, then measure them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.gpu_check.report import Report, Speed
from benchmarks.report import RESULTS
from flashactor.cli.selection import (
    add_feature_option,
    add_kernel_option,
    add_selection_options,
    labelled_or_matching_specs,
)
from flashactor.errors import FlashAttnError
from flashactor.executors.cuda import device_arch, device_count
from flashactor.kernels.sm80 import ForwardSpec, forward_spec
from flashactor.kernels.sm80_fp8 import fp8_forward_specs
from flashactor.kernels.sm90 import HopperSpec, hopper_spec
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType, SmArch

if TYPE_CHECKING:
    from benchmarks.gpu_check.agreement import Agreement
    from benchmarks.gpu_check.correctness import Checked
    from benchmarks.gpu_check.libraries import ArrayLibrary

NO_DEVICE = "gpu_check: this machine has no CUDA device, so nothing was checked."
NO_LIBRARY = (
    "gpu_check: there is a CUDA device, but neither PyTorch nor CuPy to make arrays on it: install one."
)

NO_KERNEL = "gpu_check: the options name no kernel of this device's architecture."

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
        specs = [spec for spec in labelled_or_matching_specs(options) if spec.arch is device_arch()]
        if not specs:
            console.print(NO_KERNEL)
            return 1
        report = run(console, specs, quick=options.quick, command=command(typed))
    except FlashAttnError as error:
        console.print(f"gpu_check: {type(error).__name__}: {error}", markup=False)
        return 1
    if report is None:
        console.print(NO_LIBRARY)
        return 1
    for path in report.write(options.results):
        console.print(f"wrote {path}", markup=False)
    for title, problem in report.failures:
        console.print(f"FAILED {title}: {problem}", markup=False)
    console.print(f"{len(report.checked)} cases, {len(report.failures)} failures")
    return 1 if report.failures else 0


def command(typed: Sequence[str]) -> str:
    """What to type to repeat this run."""
    return shlex.join(["python", "-m", "benchmarks.gpu_check", *typed])


def run(console: Console, specs: Sequence[KernelSpec], *, quick: bool, command: str) -> Report | None:
    """Check and measure on the first device; None without an array library for it.

    Args:
        console: where progress is shown.
        specs: the kernels to check, of the device's architecture.
        quick: some kernels and cases that have everything between them, and fewer rows of tables.
        command: what was typed.

    Raises:
        FlashAttnError: the device or the actor is not usable at all.
    """
    from benchmarks.gpu_check import agreement, correctness, libraries, machine, sdpa
    from flashactor import FlashAttnActor
    from flashactor.check.cases import cases_of
    from flashactor.check.covering import covering_cases, covering_specs

    library = libraries.device_library()
    if library is None:
        return None
    if quick:
        specs = covering_specs(specs)
    cases = covering_cases(specs) if quick else [case for spec in specs for case in cases_of(spec)]
    emulated = agreement.agreement_cases(specs)
    checked: list[Checked] = []
    compared: list[Agreement] = []
    graphs: Sequence[Checked] = ()
    measured = None
    try:
        with _progress(console) as bar, FlashAttnActor.start(executor="cuda") as actor:
            _compile(bar, list(dict.fromkeys(case.spec for case in cases)))
            _show(bar, "correctness", correctness.check_cases(actor, library, cases), len(cases), checked)
            for spec in burst_specs(device_arch()):
                burst = correctness.check_burst(actor, library, spec)
                _show(bar, "burst", burst, correctness.BURST, checked)
            _show(bar, "emulator", agreement.compare(actor, library, emulated), len(emulated), compared)
            if library.name == "torch":
                long = sdpa.sdpa_cases(specs)
                _show(bar, "SDPA", sdpa.check_against_sdpa(actor, long, "cuda:0"), len(long), checked)
                graphs, measured = _without_actor(bar, library, quick=quick)
    except correctness.LOST_DEVICE as error:  # what was found until then is worth a report
        checked.append(correctness.Checked.failed("all that follows", error))
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    return Report(date, command, machine.this_machine(), library.name, checked, graphs, compared, measured)


def burst_specs(arch: SmArch) -> tuple[ForwardSpec | HopperSpec, ...]:
    """A kernel of each family that the architecture runs."""
    common = forward_spec(arch, DType.F16, 64)
    return (hopper_spec(DType.F16, 64), common) if arch is SmArch.SM90A else (common,)


def _compile(bar: Progress, specs: Sequence[KernelSpec]) -> None:
    """Have kernels compiled, several at a time, before the first request waits for one."""
    from flashactor.service import kernel_source

    pending = [kernel_source().ask(spec) for spec in specs]
    for each in bar.track(pending, description="compiling"):
        with suppress(FlashAttnError):  # the cases of such a kernel fail with it
            each.result()


def _without_actor(bar: Progress, library: ArrayLibrary, *, quick: bool) -> tuple[Sequence[Checked], Speed]:
    """The CUDA graphs and the measurements: launches of plans on PyTorch's streams."""
    from benchmarks.gpu_check import graph, speed, timing
    from flashactor.executors.cuda_driver import CudaDriver
    from flashactor.service import kernel_source

    driver, kernels, repeats = CudaDriver(0), kernel_source(), 10 if quick else 30
    directions = [
        each for each in speed.Pass if each is not speed.Pass.FP8_FORWARD or fp8_forward_specs(driver.arch)
    ]
    rows = [row for each in directions for row in speed.attention_problems(each, quick=quick)]
    steps = speed.decode_problems(quick=quick)
    with timing.our_side(driver, kernels) as ours:
        replayed = tuple(graph.check_graphs(library, driver, kernels))
        attention = timing.measure(rows, ours.attention, repeats)
        found = Speed(
            _show(bar, "attention", attention, len(rows), []),
            _show(bar, "decode", timing.measure(steps, ours.decode, repeats), len(steps), []),
            timing.copy_bandwidth(ours.device, repeats),
        )
    return replayed, found


def _show(bar: Progress, title: str, items: Iterable[Item], total: int, into: list[Item]) -> list[Item]:
    """Collect items while a bar counts them; those that came before an error, too."""
    for item in bar.track(items, total=total, description=title):
        into.append(item)
    return into


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
    parser.add_argument("--quick", action="store_true", help="fewer kernels, cases and lengths")
    add_selection_options(parser)
    add_feature_option(parser)
    add_kernel_option(parser)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
