"""The instructions of a main loop, counted in a real kernel's SASS, and code that has no such loop."""

from collections import Counter

import pytest
from small_kernel import KERNEL

from flashactor.check.budget import A100, CLASSES, LoopBudget, Pipes, kind_of, loop_budget
from flashactor.errors import CompileError
from flashactor.kernels.sm80 import forward_spec
from flashactor.types import DType, SmArch

GOAL = 0.85
"""The share of benchmarks/sass_budget.py."""
SPEC = forward_spec(SmArch.SM80, DType.BF16, 64)
IDEAL = (SPEC.tile.m // SPEC.tile.warps // 16) * (SPEC.tile.n // 8) * (SPEC.head_dim + SPEC.head_dim_v) // 16
"""mma.sync m16n8k16 of a warp's rows: Q K^T and P V of one block of keys."""


@pytest.fixture(scope="module")
def cubin(code_of):
    kernel, _ = code_of(SPEC)
    return kernel.cubin


@pytest.fixture(scope="module")
def budget(cubin):
    return loop_budget(cubin, IDEAL)


def test_the_loop_has_the_tensor_instructions_that_it_needs_and_no_more(budget):
    assert budget.ideal == IDEAL == 192
    assert budget.counts["tensor"] == IDEAL


def test_the_other_pipes_leave_the_tensor_cores_their_share(budget):
    assert GOAL <= budget.tensor_share() <= 1
    slow_issue = Pipes(issue=100)
    assert budget.tensor_share(slow_issue) < GOAL


def test_kinds_add_up(budget):
    kinds = [kind for kind, _ in CLASSES]
    assert set(budget.counts) <= set(kinds)
    assert budget.instructions == sum(budget.counts[kind] for kind in kinds)
    assert budget.cycles()["issue"] == budget.instructions * A100.issue


def test_a_walk_loads_whole_tiles_of_k_and_v_once(budget):
    chunks = SPEC.tile.n * (SPEC.head_dim + SPEC.head_dim_v) * 2 // 16
    assert budget.counts["cp.async"] == chunks // SPEC.threads


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("HMMA.16816.F32.BF16", "tensor"),
        ("LDSM.16.MT88.4", "ldmatrix"),
        ("LDGSTS.E.BYPASS.128", "cp.async"),
        ("MUFU.EX2", "exp2"),
        ("FFMA.FTZ", "float"),
        ("F2FP.BF16.F32.PACK_AB", "convert"),
        ("SHFL.BFLY", "shuffle"),
        ("IMAD", "other"),
        ("FADDER", "other"),
    ],
)
def test_kind_of_an_opcode(opcode, kind):
    assert kind_of(opcode) == kind


def test_the_slowest_pipe_bounds_the_share():
    budget = LoopBudget(Counter(tensor=10, ldmatrix=10), ideal=10)
    assert budget.cycles() == {"tensor": 80, "shared memory": 160, "exp2": 0, "float": 0, "issue": 20}
    assert budget.tensor_share() == 0.5


def test_code_without_a_loop_is_an_error(small_cubin):
    with pytest.raises(CompileError, match="no loop around tensor instructions"):
        loop_budget(small_cubin(KERNEL), IDEAL)


def test_tensor_instructions_that_do_not_add_up_are_an_error(cubin):
    with pytest.raises(CompileError, match="expected 191"):
        loop_budget(cubin, IDEAL - 1)
