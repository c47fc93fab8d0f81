"""Every kernel that the tile table can choose; tests/check compiles and judges them."""

import pytest

from flashactor import DType, SmArch
from flashactor.kernels.sm80 import SHARED_BYTES_PER_BLOCK, TILES, all_specs, forward_spec


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("head_dim", range(8, 257, 8))
def test_every_head_dim_has_a_tile(arch, head_dim):
    spec = forward_spec(arch, DType.BF16, head_dim, causal=True)
    assert spec.head_dim - 32 < head_dim <= spec.head_dim
    assert spec.shared_bytes <= SHARED_BYTES_PER_BLOCK[arch]


def test_the_table_has_one_row_for_each_cell():
    cells = [(row.head_dim, arch) for row in TILES for arch in row.archs]
    assert len(cells) == len(set(cells)) == 8 * len(SmArch)
    assert all(row.reason for row in TILES)


def test_specs_and_labels_are_unique():
    specs = all_specs()
    assert len(specs) == len(set(specs)) == len({spec.label for spec in specs}) == 192
    assert len(all_specs(SmArch.SM90A)) == 32
