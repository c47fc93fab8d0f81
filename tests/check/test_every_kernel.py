"""Every kernel that the tile table can choose, compiled for its architecture, passes every static check."""

import pytest

from flashactor.check.static import REGISTERS_PER_SM
from flashactor.kernels.sm80 import SHARED_BYTES_PER_BLOCK, all_specs, forward_spec
from flashactor.types import DType, SmArch

# In one process: they share a fixture that compiles all kernels.
pytestmark = pytest.mark.xdist_group("every kernel")


def test_every_kernel_passes_every_check(every_kernel):
    failures = {
        spec.label: [finding for finding in findings.values() if not finding.ok]
        for spec, (_, findings) in every_kernel.items()
    }
    assert {label: found for label, found in failures.items() if found} == {}
    assert set(every_kernel) == set(all_specs())
    assert all(len(findings) > 20 for _, findings in every_kernel.values())


def test_two_blocks_share_an_sm_where_the_table_counts_on_it(every_kernel):
    for spec, (kernel, _) in every_kernel.items():
        if spec.head_dim == 128 and spec.arch is SmArch.SM80:
            assert 2 * -(-kernel.record.registers // 8) * 8 * spec.threads <= REGISTERS_PER_SM
            assert 2 * spec.shared_bytes <= SHARED_BYTES_PER_BLOCK[SmArch.SM80]


def test_shared_memory_is_all_dynamic(every_kernel):
    assert {kernel.record.shared_bytes for kernel, _ in every_kernel.values()} == {0}


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_there_is_one_instruction_for_each_product(every_kernel, arch, head_dim):
    spec = forward_spec(arch, DType.BF16, head_dim, causal=True)
    products = 2 * (spec.head_dim // 16) * (spec.tile_n // 8) * (spec.tile_m // spec.warps // 16)
    # Q K^T is rolled over head_dim two steps at a time, P V is not rolled.
    rolled = products // 2 // (spec.head_dim // 16) * 2
    _, findings = every_kernel[spec]
    assert findings["products"].detail == f"{products // 2 + rolled} HMMA.16816.F32.BF16"
