"""What the main loop of a forward kernel issues for a block of keys, beside what its products need at least.

    python -m benchmarks.sass_budget      # writes results/sass_budget.{json,md}, and docs/hopper.md

Counts instructions in the SASS of the unmasked loop; no GPU is needed, and no time is measured.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from benchmarks import hopper_model
from benchmarks.report import write
from flashactor.check.budget import A100, CLASSES, LoopBudget, loop_budget
from flashactor.check.hopper_budget import KINDS, Round, Segment, consumer_loop
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.kernels.sm80 import ForwardSpec, forward_spec
from flashactor.kernels.sm90 import HopperSpec
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


def hopper_row(spec: HopperSpec, loop: tuple[Segment, ...], found: Round) -> tuple[str, str, str]:
    """A line of the table. Decoding waits for memory, not for products."""
    counts = Counter[str]()
    for segment in loop:
        counts.update(segment.counts)
    listed = ", ".join(f"{counts[kind]} {kind}" for kind, _ in KINDS)
    busy = ", ".join(f"{name} {clocks}" for name, clocks in found.busy.items())
    goal = "none" if spec.consumers == 1 or spec.dtype.is_fp8 else f"{GOAL:.0%}"
    share = f"{found.share:.0%}, {found.bound} (clocks: {busy})"
    return f"`{spec.label}`, a warp of a consumer: {listed}", share, goal


def main() -> None:
    """Count, print and write."""
    budgets = {
        spec: measure(spec) for spec in (forward_spec(ARCH, DType.BF16, head_dim) for head_dim in HEAD_DIMS)
    }
    loops = {spec: consumer_loop(compile_cubin(spec).cubin, spec) for spec in hopper_model.kernels()}
    hopper = {spec.label: hopper_model.as_json(loop) for spec, loop in loops.items()}
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
        f"{ARCH.target}: one warp, one block of keys, whole tiles, nothing masked, bf16. The share is the "
        "part of the time for which the tensor cores can be busy if every pipe overlaps with every other, "
        f"with {asdict(A100)} cycles of a quarter of a multiprocessor for each warp instruction; the "
        "ldmatrix.x4 of four quarters share 128 bytes a cycle. Latencies are not in it.\n\n"
        "sm_90a: what one warp of a consumer issues, and clocks of a multiprocessor for the block of keys "
        "over all consumers; [the model](../../docs/hopper.md) says how they are made. fp8 and decode tiles "
        "have no goal: exponentials or memory bound them."
    )
    rows = [row(*item) for item in budgets.items()]
    rows += [hopper_row(spec, loops[spec], found) for spec, found in hopper_model.rounds(hopper).items()]
    page = write("sass_budget", {**results, "hopper": hopper}, rows, notes)
    hopper_model.PAGE.write_text(hopper_model.refreshed(hopper_model.PAGE.read_text()))
    print(page.read_text())


if __name__ == "__main__":
    main()
