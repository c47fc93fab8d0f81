"""What the main loop of a forward kernel issues for a block of keys, beside what its products need at least.

    python -m benchmarks.sass_budget        # writes benchmarks/results/sass_budget.{json,md}

Counts instructions in the SASS of the unmasked loop; no GPU is needed, and no time is measured.
"""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.report import write
from flashactor.check.budget import A100, CLASSES, LoopBudget, loop_budget
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.kernels.sm80 import ForwardSpec, forward_spec
from flashactor.types import DType, SmArch

ARCH = SmArch.SM80
HEAD_DIMS = (64, 128, 256)
GOAL = 0.85
MMA_PAIRS = 16 * 8 * 16
"""Products of an mma.sync m16n8k16."""


def ideal_products(spec: ForwardSpec) -> int:
    """Tensor instructions that a warp needs for its rows of Q K^T and P V of one block of keys."""
    rows = spec.tile.m // spec.tile.warps
    return rows * spec.tile.n * (spec.head_dim + spec.head_dim_v) // MMA_PAIRS


def measure(spec: ForwardSpec) -> LoopBudget:
    """Compile a kernel and count."""
    return loop_budget(compile_cubin(spec).cubin, ideal_products(spec))


def row(spec: ForwardSpec, budget: LoopBudget) -> tuple[str, str, str]:
    """A line of the table."""
    counts = ", ".join(f"{budget.counts[kind]} {kind}" for kind, _ in CLASSES)
    cycles = ", ".join(f"{name} {cycles}" for name, cycles in budget.cycles().items())
    name = f"d={spec.head_dim}, {spec.tile}: ideal {budget.ideal} tensor instructions; {counts}"
    return name, f"{budget.tensor_share():.0%} (cycles: {cycles})", f"{GOAL:.0%}"


def main() -> None:
    """Count, print and write."""
    budgets = {
        spec: measure(spec) for spec in (forward_spec(ARCH, DType.BF16, head_dim) for head_dim in HEAD_DIMS)
    }
    results = {
        spec.label: {
            "ideal": budget.ideal,
            "counts": dict(budget.counts),
            "cycles": budget.cycles(),
            "tensor_share": budget.tensor_share(),
        }
        for spec, budget in budgets.items()
    }
    notes = (
        f"One warp, one block of keys, whole tiles, nothing masked, {ARCH.target}, bf16. The share is the "
        "part of the time for which the tensor cores can be busy if every pipe overlaps with every other, "
        f"with {asdict(A100)} cycles of a quarter of a multiprocessor for each warp instruction; the "
        "ldmatrix.x4 of four quarters share 128 bytes a cycle. Latencies are not in it."
    )
    page = write("sass_budget", results, [row(*item) for item in budgets.items()], notes)
    print(page.read_text())


if __name__ == "__main__":
    main()
