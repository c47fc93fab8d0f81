"""How fast the emulator runs the real kernels.

    python -m benchmarks.emulator            # writes benchmarks/results/emulator.{json,md}

Times are of one call of ``emulate`` with the kernel translated already: planning, placing the arrays, running
every block with bounds and initialisation checks, copying results back. Parsing and translating come on top
once for each kernel, and are measured for the bf16 kernels of one architecture that serve head_dim 128.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import ml_dtypes
import numpy as np

from benchmarks.report import median, seconds, write
from flashactor.emulator.translate.translator import translate
from flashactor.executors.emulator import emulate, kernel_ptx
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.sm80_forward import SM80
from flashactor.requests import Fa2FwdRequest
from flashactor.types import DType, MaskKind, SmArch

ARCH = SmArch.SM80
HEAD_DIM = 64
TRANSLATED = ((), (128, 128))
"""The padded head_dims of the kernels that are translated."""


class Run(NamedTuple):
    """One row: a shape, how it is checked, and the goal in seconds (None: there is none)."""

    name: str
    batch: int
    heads: int
    seqlen: int
    schedule: str
    races: bool
    goal: float | None
    samples: int


RUNS = (
    Run("batch 2, 4 heads, 256x256", 2, 4, 256, "min", False, 0.15, 9),
    Run("the same, races too", 2, 4, 256, "min", True, 0.3, 9),
    Run("the same, races under every schedule", 2, 4, 256, "all", True, None, 3),
    Run("batch 4, 8 heads, 1024x1024", 4, 8, 1024, "min", False, 6.0, 3),
    Run("the same, races too", 4, 8, 1024, "min", True, None, 1),
)
TRANSLATE_GOAL = 0.3


def run_seconds(run: Run) -> list[float]:
    """Times of a run: head_dim 64, causal, bf16."""
    shape = (run.batch, run.seqlen, run.heads, HEAD_DIM)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for _ in "qkv")
    lse = np.empty((run.batch, run.heads, run.seqlen), np.float32)
    request = Fa2FwdRequest.from_arrays(
        q, k, v, mask=MaskKind.causal(), out=np.empty(shape, ml_dtypes.bfloat16), lse=lse
    )
    for spec in kernels_of(request, ARCH, SM80):
        translate(kernel_ptx(spec), spec.entry)

    def once() -> None:
        emulate(request, ARCH, SM80, request.arrays(), schedule=run.schedule, races=run.races)

    return [seconds(once) for _ in range(run.samples)]


def translate_seconds() -> dict[str, float]:
    """Time to parse and translate each of those kernels, by label."""
    taken = {}
    for spec in all_specs(ARCH):
        if spec.dtype is not DType.BF16 or spec.head_dims not in TRANSLATED:
            continue
        ptx = kernel_ptx(spec)
        translate.cache_clear()
        taken[spec.label] = seconds(partial(translate, ptx, spec.entry))
    return taken


def main() -> None:
    """Measure, print and write."""
    translating = translate_seconds()
    slowest = max(translating, key=translating.__getitem__)
    rows = [
        (
            f"parse and translate one of {len(translating)} kernels, median / slowest",
            f"{median(list(translating.values())):.2f} / {translating[slowest]:.2f} s",
            f"{TRANSLATE_GOAL} s",
        )
    ]
    results = []
    for run in RUNS:
        taken = run_seconds(run)
        rows.append(
            (
                run.name,
                f"{median(taken):.3f} s (best {min(taken):.3f})",
                "-" if run.goal is None else f"{run.goal} s",
            )
        )
        results.append({**run._asdict(), "seconds": taken})
        print(rows[-1])
    notes = (
        f"head_dim {HEAD_DIM}, causal, bf16, the sm_80 kernel; medians. Slowest to translate: `{slowest}`, "
        "with line information. Every access is checked for bounds, alignment and initialisation in all rows."
    )
    page = write("emulator", {"translate_seconds": translating, "runs": results}, rows, notes)
    print(page.read_text())


if __name__ == "__main__":
    main()
