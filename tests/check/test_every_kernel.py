"""Kernels that have everything between them, compiled for their architectures, pass every check."""

import pytest

from flashactor.check.covering import covering_cases, covering_specs
from flashactor.check.emulated import check_case, check_memory_access
from flashactor.executors.emulator import kernel_ptx
from flashactor.kernels.catalog import all_specs

SPECS = covering_specs(all_specs())
CASES = covering_cases(SPECS)


def kernels():
    """Parameters of the kernels that have cases; the tests of one share a process, and its PTX."""
    found = dict.fromkeys(case.spec for case in CASES)
    return [pytest.param(spec, id=spec.label) for spec in found]


def test_every_kernel_passes_every_static_check(covering_kernels):
    failures = {
        f"{spec.label}: {finding.check}: {finding.detail}"
        for spec, (_, findings) in covering_kernels.items()
        for finding in findings.values()
        if not finding.ok
    }
    assert failures == set()
    assert set(covering_kernels) == set(SPECS)
    assert all(len(findings) > 14 for _, findings in covering_kernels.values())


@pytest.mark.parametrize("spec", kernels())
def test_a_kernel_is_right_on_its_cases(spec):
    ptx = kernel_ptx(spec)
    for case in CASES:
        if case.spec != spec:
            continue
        found = check_case(case, ptx)
        assert found.ok, f"{case}: {found.detail}"
        assert found.out_error_ratio is not None
        if case.whole_tiles:
            access = check_memory_access(case, ptx)
            assert access.ok, f"{case}: {access.detail}"
