"""What the emulated half of a check finds: right kernels, and wrong ones."""

import shutil
from dataclasses import replace

import pytest

from flashactor.check import access
from flashactor.check.access import WASTE, allowed_transactions
from flashactor.check.cases import cases_of
from flashactor.check.emulated import MEMORY_ACCESS, check_case, check_memory_access, emulated_findings
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.compiler.source import sources_root
from flashactor.emulator import MemoryLine
from flashactor.executors.emulator import kernel_ptx
from flashactor.kernels.combine import combine_spec
from flashactor.kernels.merge import merge_spec
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm90 import hopper_spec
from flashactor.types import DType, SmArch

SPEC = forward_spec(SmArch.SM80, DType.BF16, 32)


def case_of(spec, name):
    return next(case for case in cases_of(spec) if case.name == name)


def test_one_case_runs_under_every_schedule():
    names = ("several key blocks", "one key")
    findings = {f.check: f.detail for f in emulated_findings(SPEC, kernel_ptx(SPEC), names=names)}
    assert findings["several key blocks"].startswith("min, max, random: right")
    assert findings["one key"].startswith("min: right")
    assert len(findings) == 2


def test_every_case_runs_under_every_schedule_on_demand():
    (found,) = emulated_findings(SPEC, kernel_ptx(SPEC), every_schedule=True, names=("one key",))
    assert found.detail.startswith("min, max, random: right")


def test_every_case_is_run_and_memory_access_is_counted():
    spec = merge_spec(SmArch.SM80, DType.F16)
    findings = emulated_findings(spec, kernel_ptx(spec))
    assert [f.check for f in findings] == [
        *(case.name for case in cases_of(spec)),
        f"{MEMORY_ACCESS}, whole rows",
    ]
    assert all(f.ok for f in findings)
    assert all(f.out_error_ratio <= 2 and f.lse_error <= 1e-4 for f in findings[:-1])


def test_kernels_that_differ_in_the_target_alone_are_run_once():
    first = forward_spec(SmArch.SM86, DType.F16, 32, decode=True)
    second = replace(first, arch=SmArch.SM89)
    names = ("one key",)
    assert kernel_ptx(first) != kernel_ptx(second)
    assert emulated_findings(first, kernel_ptx(first), names=names) is emulated_findings(
        second, kernel_ptx(second), names=names
    )
    wrong = kernel_ptx(second).replace("ex2.approx.ftz.f32", "neg.f32")
    assert not emulated_findings(second, wrong, names=names)[0].ok


def test_bank_conflicts_are_a_finding(tmp_path):
    spec = forward_spec(SmArch.SM80, DType.BF16, 64)
    case = case_of(spec, "one tile")
    assert check_memory_access(case, kernel_ptx(spec)).ok
    # Without the swizzle, eight rows of a matrix lie in the same banks.
    root = shutil.copytree(sources_root(), tmp_path / "kernels")
    tile = root / "sm80" / "tile.cuh"
    swizzle = "return kSpan == 8 ? row & 7 : kSpan == 4 ? (row >> 1) & 3 : (row >> 2) & 1;"
    assert swizzle in tile.read_text()
    tile.write_text(tile.read_text().replace(swizzle, "return 0;"))
    conflicting = check_memory_access(case, compile_ptx(spec, root=root, line_info=True))
    assert not conflicting.ok
    assert "instead of" in conflicting.detail
    assert "sm80/" in conflicting.detail


def test_a_waste_that_is_known_is_allowed_and_no_other():
    row = WASTE[0]
    line = MemoryLine(1, f"{row.instruction} ...", f"{row.file}(7)", row.space, 1, 64, 32)
    assert allowed_transactions(line) == 32 * row.factor
    for other in (
        replace(line, space="other"),
        replace(line, cuda_line="sm80/tile.cuh(1)"),
        replace(line, cuda_line=None),
        replace(line, instruction="st.shared.v2.f32 ..."),
    ):
        assert allowed_transactions(other) == 32
    assert all(row.reason and row.factor > 1 for row in WASTE)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (combine_spec(SmArch.SM80, DType.F16), "two splits"),
        (forward_spec(SmArch.SM80, DType.F16, 96, fp8_kv=True), "one tile"),
        (hopper_spec(DType.F16, 96, decode=True), "part of a tile"),
    ],
    ids=["combine", "fp8 staging", "half slabs"],
)
def test_a_waste_that_is_allowed_is_there(spec, name, monkeypatch):
    case, ptx = case_of(spec, name), kernel_ptx(spec)
    assert check_memory_access(case, ptx).ok
    monkeypatch.setattr(access, "WASTE", ())
    assert not check_memory_access(case, ptx).ok


def test_a_wrong_kernel_is_a_finding_and_not_an_exception():
    case, ptx = case_of(SPEC, "several key blocks"), kernel_ptx(SPEC)
    assert check_case(case, ptx, schedule="min").ok
    wrong = check_case(case, ptx.replace("ex2.approx.ftz.f32", "neg.f32"), schedule="min")
    assert not wrong.ok
    assert "allowed" in wrong.detail
    broken = check_case(case, ptx.replace("bar.sync \t0;", ""), schedule="min")
    assert not broken.ok
    assert "Error" in broken.detail
    unknown = check_case(case, ptx.replace("ex2.approx.ftz.f32", "ex3.approx.ftz.f32"), schedule="min")
    assert "UnsupportedPtxError" in unknown.detail


def test_a_case_that_does_not_run_its_kernel_is_a_failure():
    case = replace(case_of(SPEC, "one tile"), spec=forward_spec(SmArch.SM80, DType.BF16, 64))
    for check in (check_case, check_memory_access):
        found = check(case, kernel_ptx(SPEC))
        assert not found.ok
        assert found.detail == f"the request runs {SPEC.label}, and not {case.spec.label}"
