"""``flashactor warm``: compile kernels into the cache ahead of time, on any machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.cli.output import amount, counted, print_error, print_json
from flashactor.cli.progress import kernel_progress
from flashactor.cli.selection import add_jobs_option, check_jobs
from flashactor.cli.warm_sources import WarmList, add_source_options, warm_list
from flashactor.errors import CacheMissError, CompileError
from flashactor.executors.base import PendingKernel
from flashactor.kernels.spec import KernelSpec
from flashactor.settings import Settings

if TYPE_CHECKING:
    from flashactor.cache import CubinCache
    from flashactor.cache.record import CachedKernel

SECONDS_PER_KERNEL = 1.0
"""What one compile takes on one core, for the estimate: the mean of the usual kernels."""


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "warm",
        help="compile kernels into the cache ahead of time",
        description="Compile the kernels that match the options, for the device's architecture, or for every "
        "architecture where there is no device. Without --feature and --all, those that most people need: "
        "forward passes with any mask over 16-bit keys, in pages or not, prefill and decode, but without "
        "softcap, ALiBi and dropout; and the kernel that combines splits. --kernel, --config and --trace "
        "name kernels in other ways; --arch and --dtype narrow the last two.",
    )
    add_source_options(parser)
    add_jobs_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the kernels and compile none")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compile what matches; 1 if any of it failed or could not be stored."""
    check_jobs(options)
    wanted = warm_list(options)
    for request, why in wanted.refused:
        print(f"flashactor: no kernel yet: {request}: {why}", file=sys.stderr)
    from flashactor.cache import CubinCache

    cache, specs = CubinCache.from_settings(), wanted.specs
    if options.dry_run:
        _dry_run(cache, wanted, options)
        return 0
    start = perf_counter()
    with kernel_progress(len(specs), quiet=options.json) as advance:
        outcomes = _compile_all(specs, cache, options.jobs, advance)
    lost = _lost(outcomes)
    return _summarise(outcomes, lost, wanted, perf_counter() - start, options.json)


@dataclass(frozen=True, slots=True)
class Lost:
    """Labels of kernels that are in no layer after all, and why."""

    labels: list[str]
    reason: str = ""


def _lost(outcomes: list[Warmed]) -> Lost:
    """A full disk costs an actor nothing but the next compile; here what is not on disk was in vain."""
    from flashactor.cache import CubinCache

    settings = Settings.from_environment()
    limit, on_disk = settings.cache_max_bytes, CubinCache.from_settings(settings)  # with an empty memory
    made = [(spec, kernel) for spec, kernel in outcomes if not isinstance(kernel, FAILURES)]
    lost = [(spec, kernel) for spec, kernel in made if on_disk.lookup(spec) is None]
    if not lost:
        return Lost([])
    if limit is not None and sum(kernel.record.size for _, kernel in made) > limit:
        reason = f"FLASHACTOR_CACHE_MAX_BYTES allows {amount(limit)}; raise it"
        return Lost([spec.label for spec, _ in lost], reason)
    labels, reason = [], ""
    for spec, kernel in lost:
        try:
            on_disk.folder.store(kernel.record, kernel.cubin)  # once more, and to know why not
        except OSError as error:
            labels.append(spec.label)
            reason = (
                f"{error.strerror or error}; free some space, or set FLASHACTOR_CACHE_DIR to another folder"
            )
    return Lost(labels, reason)


def _dry_run(cache: CubinCache, wanted: WarmList, options: argparse.Namespace) -> None:
    from flashactor.cache.inventory import readable_layers

    keys = {key for _, stored in readable_layers(cache) for key in stored}
    labels = [spec.label for spec in wanted.specs]
    cached = sum(cache.key(spec) in keys for spec in wanted.specs)
    estimate = (len(labels) - cached) * SECONDS_PER_KERNEL / options.jobs
    if options.json:
        print_json(
            {
                "kernels": labels,
                "cached": cached,
                "refused": _refused(wanted),
                "estimated_seconds": round(estimate, 1),
            }
        )
        return
    for label in labels:
        print(label)
    jobs = counted(options.jobs, "job")
    print(f"{counted(len(labels))}, about {estimate:.0f} s with {jobs}; {cached} are cached")


def _refused(wanted: WarmList) -> list[dict[str, str]]:
    return [{"request": request, "reasons": why} for request, why in wanted.refused]


FAILURES = (CompileError, CacheMissError)
"""What a kernel may end in without ending the others."""

Warmed = tuple[KernelSpec, "CachedKernel | CompileError | CacheMissError"]


def _compile_all(
    specs: list[KernelSpec], cache: CubinCache, jobs: int, advance: Callable[[str], None]
) -> list[Warmed]:
    """Each kernel or its error. Ctrl-C drops what has not begun; what is done stays in the cache."""
    outcomes: list[Warmed] = []
    arrived: SimpleQueue[PendingKernel] = SimpleQueue()
    with NvrtcActor(cache, jobs) as nvrtc:
        asked: dict[PendingKernel, KernelSpec] = {nvrtc.ask(spec): spec for spec in specs}
        for pending in asked:
            pending.add_done_callback(arrived.put)
        for _ in specs:
            pending = arrived.get()
            spec = asked[pending]
            try:
                outcomes.append((spec, pending.result()))
            except FAILURES as error:
                outcomes.append((spec, error))
            advance(spec.label)
    return outcomes


def _summarise(outcomes: list[Warmed], lost: Lost, wanted: WarmList, seconds: float, as_json: bool) -> int:
    failed = [(spec.label, error) for spec, error in outcomes if isinstance(error, FAILURES)]
    sources = [kernel.source for _, kernel in outcomes if not isinstance(kernel, FAILURES)]
    compiled = sources.count("compiled")
    if as_json:
        print_json(
            {
                "kernels": len(outcomes),
                "compiled": compiled,
                "cached": len(sources) - compiled,
                "failed": [
                    {"kernel": label, "error": str(error), "log": getattr(error, "log", "")}
                    for label, error in failed
                ],
                "not_stored": lost.labels,
                "refused": _refused(wanted),
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(
            f"{counted(len(outcomes))} in {seconds:.1f} s: {compiled} compiled, "
            f"{len(sources) - compiled} were cached, {len(failed)} failed"
        )
        for label, error in failed:
            print_error(f"{label}: {error}")
        if lost.labels:
            folder = Settings.from_environment().cache_dir
            print_error(f"{counted(len(lost.labels))} could not be stored in {folder}: {lost.reason}")
    return 1 if failed or lost.labels else 0
