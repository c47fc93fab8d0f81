"""Every kernel of some architectures: how many there are, how long each takes to compile, and whether any
spills.

    python -m benchmarks.specialisations               # all six; writes results/specialisations.*
    python -m benchmarks.specialisations --arch sm_80 --jobs 1               # compile times of one core
    python -m benchmarks.specialisations --arch sm_90a --family sm90_wgmma --jobs 1
                                                       # writes results/specialisations_sm90_wgmma.*

NVRTC's own time; nothing is read from a cache.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.report import median, write
from flashactor.compiler.nvrtc import CompiledKernel, compile_cubin
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.spec import KernelSpec
from flashactor.types import SmArch

MOST_KERNELS = 400
GOALS = {None: (0.3, 0.5), "sm90_wgmma": (1.0, 1.0)}
"""Seconds to compile a kernel of a family: the median, and each."""


def main() -> None:
    """Compile, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=SmArch.parse, nargs="+", default=list(SmArch))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--family", choices=[family for family in GOALS if family], help="default: all")
    options = parser.parse_args()
    compile_cubin(all_specs(SmArch.SM80)[0])  # the first call loads the compiler
    rows, results = [], {}
    for arch in options.arch:
        specs = tuple(
            spec for spec in all_specs(arch) if options.family is None or spec.family == options.family
        )
        with ThreadPoolExecutor(options.jobs) as pool:
            compiled = list(pool.map(compile_cubin, specs))
        results[arch.target] = {
            spec.label: _facts(kernel) for spec, kernel in zip(specs, compiled, strict=True)
        }
        rows += _rows(arch, specs, compiled, *GOALS[options.family])
        notes = f"{options.jobs} compile at a time; compile times are wall clock inside NVRTC."
        name = f"specialisations_{options.family}" if options.family else "specialisations"
        page = write(name, {"kernels": results}, rows, notes)  # anew after each architecture
    print(page.read_text())


def _facts(kernel: CompiledKernel) -> dict[str, Any]:
    return {
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_store_bytes + kernel.spill_load_bytes + kernel.stack_bytes,
        "log": kernel.log,
        "compile_seconds": round(kernel.compile_seconds, 3),
    }


def _rows(
    arch: SmArch,
    specs: tuple[KernelSpec, ...],
    compiled: list[CompiledKernel],
    median_goal: float,
    each_goal: float,
) -> list[tuple[str, str, str]]:
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(spec.kind for spec in specs).items())
    facts = list(map(_facts, compiled))
    spilling = [spec.label for spec, fact in zip(specs, facts, strict=True) if fact["spill_bytes"]]
    talking = sum(bool(fact["log"]) for fact in facts)
    taken = [fact["compile_seconds"] for fact in facts]
    slowest = specs[taken.index(max(taken))].label
    return [
        (f"{arch.target}: kernels ({kinds})", str(len(specs)), f"under {MOST_KERNELS} without fp8 products"),
        (
            f"{arch.target}: that spill, or that ptxas has something to say of",
            f"{len(spilling)}, {talking}" + "".join(f", `{label}`" for label in spilling),
            "0",
        ),
        (f"{arch.target}: compile time, median", f"{median(taken):.2f} s", f"{median_goal:g} s"),
        (f"{arch.target}: compile time, slowest (`{slowest}`)", f"{max(taken):.2f} s", f"{each_goal:g} s"),
    ]


if __name__ == "__main__":
    main()
