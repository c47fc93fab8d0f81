"""How long the first kernel takes, from the start of a process, and how long each kernel compiles.

    python -m benchmarks.cold_start          # writes benchmarks/results/cold_start.{json,md}

Every sample of the first part is a new Python process that gets one cubin from a cache: an empty one, or one
that holds it. The second part compiles every bf16 kernel of one architecture in turn, on one processor; those
of f16 take as long.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.report import machine, median, write
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.kernels.catalog import all_specs
from flashactor.types import DType, SmArch

FIRST_KERNELS = (SmArch.SM80, SmArch.SM90A)
COLD_GOAL, CACHED_GOAL = 0.7, 0.4
COMPILE_MEDIAN_GOAL, COMPILE_MAX_GOAL = 0.3, 0.5

# The plain bf16 kernel for head_dim 128; prints when it was asked for, when it was there, and how it came.
PROGRAM = """
import sys
from pathlib import Path
from time import perf_counter
from flashactor.cache import CubinCache
from flashactor.kernels.sm80 import forward_spec
from flashactor.types import DType, SmArch
asked = perf_counter()
spec = forward_spec(SmArch(sys.argv[2]), DType.BF16, 128)
kernel = CubinCache(Path(sys.argv[1])).get_or_compile(spec)
print(asked, perf_counter(), kernel.record.compile_seconds, kernel.source)
"""


class FirstKernel(NamedTuple):
    """Seconds until a new process has its first cubin.

    Attributes:
        total: from before the process starts.
        asking: of it from asking the cache on, importing the CUDA packages included.
        compiling: of it in NVRTC.
    """

    total: float
    asking: float
    compiling: float


def first_kernel(cache_dir: Path, arch: SmArch, expected_source: str) -> FirstKernel:
    """One sample: start a process that gets the kernel, and check where it came from."""
    # Python keeps the bytecode of imports between processes, whatever this shell says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROGRAM, str(cache_dir), arch.target]
    # On Linux perf_counter is the system's monotonic clock, so the two processes' readings compare.
    started = perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    asked, there, compiling, source = process.stdout.split()
    if source != expected_source:
        raise RuntimeError(f"the kernel came from {source}, not from {expected_source}")
    in_nvrtc = float(compiling) if source == "compiled" else 0.0
    return FirstKernel(float(there) - started, float(there) - float(asked), in_nvrtc)


def first_kernels(arch: SmArch, samples: int) -> dict[str, list[FirstKernel]]:
    """Cold and cached samples, taken in turn, so that a noisy machine disturbs both alike."""
    taken: dict[str, list[FirstKernel]] = {"cold": [], "cached": []}
    for _ in range(samples):
        with tempfile.TemporaryDirectory() as folder:
            taken["cold"].append(first_kernel(Path(folder), arch, "compiled"))
            taken["cached"].append(first_kernel(Path(folder), arch, "disk"))
    return taken


def compile_seconds(arch: SmArch) -> dict[str, float]:
    """Time in NVRTC of every bf16 kernel of an architecture, by label, on one processor."""
    specs = [spec for spec in all_specs(arch) if spec.dtype is DType.BF16]
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        compile_cubin(specs[0])  # the first compile also loads the library
        return {spec.label: compile_cubin(spec).compile_seconds for spec in specs}
    finally:
        os.sched_setaffinity(0, processors)


def medians(samples: list[FirstKernel]) -> FirstKernel:
    """The median of each figure by itself."""
    return FirstKernel(*(median(values) for values in zip(*samples, strict=True)))


def first_kernel_row(arch: SmArch, state: str, samples: list[FirstKernel]) -> tuple[str, str, str]:
    """A row of the table: what, measured, goal."""
    total, asking, compiling = medians(samples)
    parts = (
        f"{total - asking:.2f} s Python and flashactor, {asking - compiling:.2f} s CUDA packages and cache"
    )
    if state == "cold":
        parts += f", {compiling:.2f} s NVRTC"
    goal = COLD_GOAL if state == "cold" else CACHED_GOAL
    return f"process start to first cubin, {arch.target}, {state}", f"{total:.2f} s: {parts}", f"{goal} s"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=9, help="processes of each kind")
    parser.add_argument("--arch", type=SmArch.parse, default=SmArch.SM80, help="whose kernels to compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:  # uncounted: fills the disk cache of the system
        first_kernel(Path(folder), FIRST_KERNELS[0], "compiled")
    first = {arch: first_kernels(arch, options.samples) for arch in FIRST_KERNELS}
    compiling = compile_seconds(options.arch)

    rows = [
        first_kernel_row(arch, state, samples)
        for arch, taken in first.items()
        for state, samples in taken.items()
    ]
    slowest = max(compiling, key=lambda label: compiling[label])
    kernels = f"the {len(compiling)} bf16 kernels of {options.arch.target}, one processor"
    rows += [
        (
            f"compiling one of {kernels}: median",
            f"{median(list(compiling.values())):.2f} s",
            f"{COMPILE_MEDIAN_GOAL} s",
        ),
        ("the slowest of them", f"{compiling[slowest]:.2f} s, {slowest}", f"{COMPILE_MAX_GOAL} s"),
    ]
    results: dict[str, Any] = {
        "first_kernel_seconds": {
            arch.target: {state: [sample._asdict() for sample in samples] for state, samples in taken.items()}
            for arch, taken in first.items()
        },
        "compile_seconds": compiling,
    }
    print(write("cold_start", results, rows).read_text())
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
