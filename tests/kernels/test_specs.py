"""Every kernel that the tables can choose; tests/check compiles and judges them."""

from itertools import product

import pytest

from flashactor import DType, SmArch
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.sm80 import (
    HEAD_DIMS,
    SHARED_BYTES_PER_BLOCK,
    TILE_TABLES,
    forward_spec,
    forward_specs,
    padded_head_dims,
)
from flashactor.kernels.spec import DTYPES, KernelSpec, Scores


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("decode", [False, True])
def test_every_pair_of_head_dims_has_a_kernel(arch, decode):
    for head_dim, head_dim_v in product(range(8, 257, 8), repeat=2):
        spec = forward_spec(arch, DType.BF16, head_dim, head_dim_v, decode=decode)
        assert spec.head_dims in HEAD_DIMS
        assert head_dim <= spec.head_dim
        assert head_dim_v <= spec.head_dim_v
        assert spec.head_dims == padded_head_dims(head_dim, head_dim_v)
        assert spec.shared_bytes <= SHARED_BYTES_PER_BLOCK[arch]


def test_padding_takes_the_least_that_holds_both():
    assert padded_head_dims(40, 40) == (64, 64)
    assert padded_head_dims(192, 128) == (192, 128)
    assert padded_head_dims(136, 8) == (192, 128)
    assert padded_head_dims(8, 136) == (192, 192)
    assert list(HEAD_DIMS) == sorted(HEAD_DIMS, key=lambda pair: sum(pair))


@pytest.mark.parametrize("table", TILE_TABLES.values(), ids=TILE_TABLES)
def test_a_table_has_one_row_for_each_cell(table):
    cells = [(row.head_dim, arch) for row in table for arch in row.archs]
    assert len(cells) == len(set(cells)) == len({qk for qk, _ in HEAD_DIMS}) * len(SmArch)
    assert all(row.reason for row in table)


def test_fp8_caches_and_dropout_have_fewer_kernels():
    arch, dtype = SmArch.SM80, DType.F16
    contiguous = forward_spec(arch, dtype, 64, fp8_kv=True)
    assert contiguous == forward_spec(arch, dtype, 64, fp8_kv=True, paged=True)
    dropout = forward_spec(arch, dtype, 64, scores=Scores.DROPOUT, decode=True)
    assert dropout == forward_spec(arch, dtype, 64, scores=Scores.DROPOUT)
    assert "decode" in forward_spec(arch, dtype, 64, decode=True).features


@pytest.mark.parametrize("arch", SmArch)
def test_the_catalog_has_every_forward_kernel(arch):
    specs = set(all_specs(arch))
    assert set(forward_specs(arch)) <= specs
    flags = (False, True)
    for dtype, dims, scores, paged, decode in product(DTYPES, HEAD_DIMS, Scores, flags, flags):
        assert forward_spec(arch, dtype, *dims, scores=scores, paged=paged, decode=decode) in specs
    for dtype, dims in product(DTYPES, HEAD_DIMS):
        assert forward_spec(arch, dtype, *dims, fp8_kv=True) in specs


def test_specs_labels_and_macros_are_unique():
    specs = all_specs()
    assert len(specs) == len(set(specs)) == len({spec.label for spec in specs})
    # Equal macros are one cubin under two names: only where the kernel does not know the type.
    typed = [spec for spec in specs if "FA_BF16" in dict(spec.defines)]
    assert len(typed) == len({(spec.source, spec.entry, spec.arch, spec.defines) for spec in typed})
    assert all_specs() == tuple(spec for arch in SmArch for spec in all_specs(arch))


def test_every_spec_is_complete():
    for spec in all_specs():
        assert isinstance(spec, KernelSpec)
        assert spec.threads % 32 == 0
        assert 0 < spec.threads <= 1024
        assert spec.shared_bytes <= SHARED_BYTES_PER_BLOCK[spec.arch]
        assert spec.kind in spec.features
        assert spec.label.endswith(spec.arch.target)
        macros = dict(spec.defines)
        assert macros["FA_PARAMS_BYTES"].isdigit()
        assert macros["FA_SHARED_BYTES"] == str(spec.shared_bytes)
