"""``flashactor check``: is every kernel what it promises, without a GPU?"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import asdict, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flashactor.cli.output import counted, print_json, print_table
from flashactor.cli.progress import kernel_progress
from flashactor.cli.selection import (
    add_feature_option,
    add_jobs_option,
    add_kernel_option,
    add_selection_options,
    check_jobs,
    labelled_or_matching_specs,
)
from flashactor.settings import Settings

if TYPE_CHECKING:
    from flashactor.check.findings import Finding
    from flashactor.check.report import KernelReport
    from flashactor.kernels.spec import KernelSpec

COLUMNS = ("kernel", "registers", "KiB", "spills", "static", "emulated", "out error", "lse error", "s")


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "check",
        help="check compiled kernels without a GPU",
        description="Check every kernel that matches the options, on any machine: what its cubin holds "
        "(registers, memory, instructions), and what its PTX computes in the emulator. With options that "
        "select kernels, or with --all, every case of every kernel is run, which may take hours; without "
        "them, kernels and cases that have everything between them at least once. Of the device's "
        "architecture, or of every architecture where there is no device. Exit code 1 if a check fails.",
    )
    parser.add_argument("--all", action="store_true", help="every case of every kernel that matches")
    add_selection_options(parser)
    add_feature_option(parser)
    add_kernel_option(parser)
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--static-only", action="store_true", help="check the cubins, emulate nothing")
    half.add_argument("--emulate-only", action="store_true", help="emulate the PTX, look at no cubin")
    parser.add_argument(
        "--races",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for data races in the emulator, which takes longer (default: yes)",
    )
    parser.add_argument(
        "--every-schedule",
        action="store_true",
        help="emulate every case under every schedule, not only the cases that are made for it",
    )
    add_jobs_option(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check what matches; 1 if any check of any kernel failed."""
    check_jobs(options)
    specs = labelled_or_matching_specs(options)
    from flashactor.check.covering import covering_cases, covering_specs
    from flashactor.check.pool import check_kernels
    from flashactor.check.report import Halves
    from flashactor.check.tools import PACKAGES, find_tool

    halves = Halves(
        static=not options.emulate_only,
        emulated=not options.static_only,
        races=options.races,
        every_schedule=options.every_schedule,
    )
    if not (options.all or _selects(options)):
        specs = list(covering_specs(specs))
        cases: dict[KernelSpec, tuple[str, ...]] = {}
        for case in covering_cases(specs):
            cases[case.spec] = (*cases.get(case.spec, ()), case.name)
        halves = replace(halves, cases=cases)
        if not halves.static:
            specs = list(cases)
    if halves.static:
        for tool in PACKAGES:
            find_tool(tool)  # missing? Better one line now than the same from every process
    start = perf_counter()
    found: dict[str, KernelReport] = {}
    checks = check_kernels(specs, Settings.from_environment(), halves, options.jobs)
    with closing(checks), kernel_progress(len(specs), quiet=options.json) as advance:
        for report in checks:
            found[report.spec.label] = report
            advance(report.spec.label)
    reports = [found[spec.label] for spec in specs]
    if options.json:
        _print_document(reports, perf_counter() - start)
    else:
        _print_tables(reports, perf_counter() - start)
    return 1 if any(report.failures for report in reports) else 0


def _selects(options: argparse.Namespace) -> bool:
    """Whether some option names kernels."""
    return any((options.arch, options.dtype, options.head_dim, options.feature, options.kernel))


def _print_document(reports: list[KernelReport], seconds: float) -> None:
    print_json(
        {
            "kernels": [
                {
                    "kernel": report.spec.label,
                    "registers": report.registers,
                    "shared_bytes": report.spec.shared_bytes,
                    "spill_bytes": report.spill_bytes,
                    "static": [asdict(finding) for finding in report.static],
                    "emulated": [asdict(finding) for finding in report.emulated],
                    "out_error_ratio": report.out_error_ratio,
                    "lse_error": report.lse_error,
                    "seconds": round(report.seconds, 3),
                }
                for report in reports
            ],
            "failed": [report.spec.label for report in reports if report.failures],
            "seconds": round(seconds, 3),
        }
    )


def _print_tables(reports: list[KernelReport], seconds: float) -> None:
    print_table(COLUMNS, [_row(report) for report in reports])
    failed = [report for report in reports if report.failures]
    checks = sum(len(report.static) + len(report.emulated) for report in reports)
    counts = f"{counted(len(reports))}, {counted(checks, 'check')} in {seconds:.1f} s"
    print(f"{counts}: {counted(len(failed))} failed")
    sys.stdout.flush()
    for report in failed:
        for finding in report.failures:
            print(
                f"flashactor: error: {report.spec.label}: {finding.check}: {finding.detail}", file=sys.stderr
            )


def _row(report: KernelReport) -> tuple[str, ...]:
    return (
        report.spec.label,
        _or_dash(report.registers, "d"),
        f"{report.spec.shared_bytes / 1024:g}",
        _or_dash(report.spill_bytes, "d"),
        _passed(report.static),
        _passed(report.emulated),
        _or_dash(report.out_error_ratio, ".2f"),
        _or_dash(report.lse_error, ".1e"),
        f"{report.seconds:.1f}",
    )


def _passed(findings: tuple[Finding, ...]) -> str:
    return f"{sum(finding.ok for finding in findings)}/{len(findings)}" if findings else "-"


def _or_dash(value: float | None, format_spec: str) -> str:
    return "-" if value is None else format(value, format_spec)
