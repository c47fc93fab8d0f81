"""Every kernel that the tile table can choose computes attention on every named shape, and races on none."""

import shutil
from collections import defaultdict

import pytest

from flashactor.check.cases import QUICK_SHAPES, Case, Shape, shapes
from flashactor.check.emulated import (
    EVERY_SCHEDULE,
    MEMORY_ACCESS,
    check_case,
    check_memory_access,
    emulated_findings,
)
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.compiler.source import sources_root
from flashactor.executors.emulator import kernel_ptx
from flashactor.kernels.sm80 import all_specs, forward_spec
from flashactor.types import DType, SmArch

BLACKWELL = (SmArch.SM100, SmArch.SM120)


def kernels():
    """The specifications, those together that differ in the architecture alone: most share one PTX."""
    groups = defaultdict(list)
    for spec in all_specs():
        groups[spec.defines].append(spec)
    return [pytest.param(group, id=group[0].label.rpartition(".")[0]) for group in groups.values()]


@pytest.mark.parametrize("specs", kernels())
def test_a_kernel_is_right_on_every_shape(specs):
    for spec in specs:
        # Blackwell's PTX says the same in other words: `flashactor check` runs all of it, this test the best.
        names = (*QUICK_SHAPES, *EVERY_SCHEDULE) if spec.arch in BLACKWELL else None
        findings = emulated_findings(spec, kernel_ptx(spec), names=names)
        assert [finding for finding in findings if not finding.ok] == []
        listed = [s.name for s in shapes(spec.tile_m, spec.tile_n)]
        tried = [name for name in listed if names is None or name in names]
        assert [finding.check for finding in findings] == [*tried, MEMORY_ACCESS]
        assert max(finding.out_error_ratio for finding in findings[:-1]) <= 2
        assert max(finding.lse_error for finding in findings[:-1]) <= 1e-4


def test_the_groups_hold_every_kernel():
    grouped = [spec for parameter in kernels() for spec in parameter.values[0]]
    assert sorted(grouped, key=all_specs().index) == list(all_specs())


def test_one_shape_runs_under_every_schedule():
    spec = forward_spec(SmArch.SM80, DType.BF16, 32, causal=True)
    findings = {finding.check: finding.detail for finding in emulated_findings(spec, kernel_ptx(spec))}
    assert [name for name, detail in findings.items() if detail.startswith("min, max, random")] == list(
        EVERY_SCHEDULE
    )


def test_bank_conflicts_are_a_finding(tmp_path):
    spec = forward_spec(SmArch.SM80, DType.BF16, 64, causal=False)
    case = Case(spec, Shape("small", 1, spec.tile_m, spec.tile_n, 1, 1))
    assert check_memory_access(case, kernel_ptx(spec)).ok
    # Without the swizzle, eight rows of a matrix lie in the same banks.
    root = shutil.copytree(sources_root(), tmp_path / "kernels")
    tile = root / "sm80" / "tile.cuh"
    swizzle = "return kSpan == 8 ? row & 7 : (row >> 1) & 3;"
    assert swizzle in tile.read_text()
    tile.write_text(tile.read_text().replace(swizzle, "return 0;"))
    conflicting = check_memory_access(case, compile_ptx(spec, root=root, line_info=True))
    assert not conflicting.ok
    assert "instead of" in conflicting.detail
    assert "sm80/" in conflicting.detail


def test_a_wrong_kernel_is_a_finding_and_not_an_exception():
    spec = forward_spec(SmArch.SM80, DType.BF16, 64, causal=True)
    case = Case(spec, Shape("small", 1, 20, 30, 1, 1))
    ptx = kernel_ptx(spec)
    assert check_case(case, ptx, races=True, schedule="min").ok
    wrong = check_case(case, ptx.replace("ex2.approx.ftz.f32", "neg.f32"), races=True, schedule="min")
    assert not wrong.ok
    assert "allowed" in wrong.detail
    broken = check_case(case, ptx.replace("bar.sync \t0;", ""), races=True, schedule="min")
    assert not broken.ok
    assert "Error" in broken.detail
    unknown = check_case(
        case, ptx.replace("ex2.approx.ftz.f32", "ex3.approx.ftz.f32"), races=False, schedule="min"
    )
    assert "UnsupportedPtxError" in unknown.detail
