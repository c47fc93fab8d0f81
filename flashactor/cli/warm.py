"""``flashactor warm``: compile kernels into the cache ahead of time, on any machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flashactor.cli.output import print_json
from flashactor.cli.progress import kernel_progress
from flashactor.cli.selection import add_jobs_option, add_selection_options, check_jobs, matching_specs
from flashactor.errors import CompileError
from flashactor.kernels.spec import KernelSpec
from flashactor.settings import Settings

if TYPE_CHECKING:
    from flashactor.compiler.record import CachedKernel

SECONDS_PER_KERNEL = 0.35
"""What one compile takes on one core, for the estimate (benchmarks/results/cold_start.md)."""


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "warm",
        help="compile kernels into the cache ahead of time",
        description="Compile every kernel that matches the options; without options, all kernels of the "
        "device's architecture, or of every architecture where there is no device.",
    )
    add_selection_options(parser)
    parser.add_argument("--mask", choices=("causal", "full"), nargs="+", help="default: both")
    add_jobs_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the kernels and compile none")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compile what matches; 1 if any of it failed or could not be stored."""
    check_jobs(options)
    specs = matching_specs(options, options.mask)
    if options.dry_run:
        _dry_run(specs, options)
        return 0
    start = perf_counter()
    from flashactor.compiler.cache import CubinCache

    cache = CubinCache(Settings.from_environment().cache_dir)
    with kernel_progress(len(specs), quiet=options.json) as advance:
        outcomes = _compile_all(specs, cache.get_or_compile, options.jobs, advance)
    # A full disk costs an actor nothing but the next compile; here what is not on disk was in vain. A cache
    # without a memory of its own says what is.
    on_disk = CubinCache(cache.path)
    lost = [
        spec.label
        for spec, kernel in outcomes
        if not isinstance(kernel, CompileError) and on_disk.lookup(spec) is None
    ]
    return _summarise(outcomes, lost, perf_counter() - start, options.json)


def _dry_run(specs: list[KernelSpec], options: argparse.Namespace) -> None:
    estimate = len(specs) * SECONDS_PER_KERNEL / options.jobs
    if options.json:
        print_json({"kernels": [spec.label for spec in specs], "estimated_seconds": round(estimate, 1)})
        return
    for spec in specs:
        print(spec.label)
    print(f"{len(specs)} kernels, about {estimate:.0f} s with {options.jobs} jobs if none is cached")


Outcome = tuple[KernelSpec, "CachedKernel | CompileError"]


def _compile_all(
    specs: list[KernelSpec],
    get: Callable[[KernelSpec], CachedKernel],
    jobs: int,
    advance: Callable[[str], None],
) -> list[Outcome]:
    """Each kernel or its compile error. Ctrl-C drops what has not begun; what is done stays in the cache."""
    outcomes: list[Outcome] = []
    pool = ThreadPoolExecutor(jobs)
    try:
        pending: dict[Future[CachedKernel], KernelSpec] = {pool.submit(get, spec): spec for spec in specs}
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                spec = pending.pop(future)
                try:
                    outcomes.append((spec, future.result()))
                except CompileError as error:
                    outcomes.append((spec, error))
                advance(spec.label)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return outcomes


def _summarise(outcomes: list[Outcome], lost: list[str], seconds: float, as_json: bool) -> int:
    failed = [(spec.label, error) for spec, error in outcomes if isinstance(error, CompileError)]
    sources = [kernel.source for _, kernel in outcomes if not isinstance(kernel, CompileError)]
    compiled = sources.count("compiled")
    if as_json:
        print_json(
            {
                "kernels": len(outcomes),
                "compiled": compiled,
                "cached": len(sources) - compiled,
                "failed": [
                    {"kernel": label, "error": str(error), "log": error.log} for label, error in failed
                ],
                "not_stored": lost,
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(
            f"{len(outcomes)} kernels in {seconds:.1f} s: {compiled} compiled, "
            f"{len(sources) - compiled} were cached, {len(failed)} failed"
        )
        for label, error in failed:
            print(f"flashactor: error: {label}: {error}", file=sys.stderr)
        if lost:
            print(
                f"flashactor: error: {len(lost)} kernels could not be stored in the cache folder; "
                "free some space, or set FLASHACTOR_CACHE_DIR to another folder",
                file=sys.stderr,
            )
    return 1 if failed or lost else 0
