"""Kernels that have everything between them, compiled for their architectures, pass every check."""

import pytest

from flashactor.check.covering import covering_cases, covering_specs
from flashactor.check.emulated import check_case, check_memory_access
from flashactor.executors.emulator import kernel_ptx
from flashactor.kernels.catalog import all_specs

SPECS = covering_specs(all_specs())
CASES = covering_cases(SPECS)

# In one process: they share a fixture that compiles all kernels.
IN_ONE = pytest.mark.xdist_group("every kernel")


def kernels():
    """Parameters of the kernels that have cases; the tests of one share a process, and its PTX."""
    found = dict.fromkeys(case.spec for case in CASES)
    return [pytest.param(spec, id=spec.label) for spec in found]


@IN_ONE
def test_every_kernel_passes_every_check(covering_kernels):
    failures = {
        spec.label: [finding for finding in findings.values() if not finding.ok]
        for spec, (_, findings) in covering_kernels.items()
    }
    assert {label: found for label, found in failures.items() if found} == {}
    assert set(covering_kernels) == set(SPECS)
    assert all(len(findings) > 14 for _, findings in covering_kernels.values())


@IN_ONE
def test_shared_memory_of_tiles_is_all_dynamic(covering_kernels):
    tiled = {spec: kernel for spec, (kernel, _) in covering_kernels.items() if spec.shared_bytes}
    assert {kernel.record.shared_bytes for kernel in tiled.values()} == {0}


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
