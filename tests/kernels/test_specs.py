"""Every kernel that the tables can choose; tests/check compiles and judges them."""

from itertools import product

import pytest

from flashactor import DType, SmArch
from flashactor.kernels import sm90
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.sm80 import (
    HEAD_DIMS,
    SHARED_BYTES_PER_BLOCK,
    TILE_TABLES,
    forward_spec,
    forward_specs,
    padded_head_dims,
)
from flashactor.kernels.sm90 import hopper_spec, hopper_specs
from flashactor.kernels.sm90_fp8 import FP8_TILE_TABLES, hopper_fp8_spec, hopper_fp8_specs
from flashactor.kernels.spec import DTYPES, KernelSpec, Scores

HOPPER_TABLES = {**sm90.TILE_TABLES, **FP8_TILE_TABLES}


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


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("decode", [False, True])
def test_every_pair_of_head_dims_has_a_hopper_kernel(decode, full):
    for head_dim, head_dim_v in product(range(8, 257, 8), repeat=2):
        spec = hopper_spec(DType.BF16, head_dim, head_dim_v, decode=decode, full=full)
        assert spec in all_specs(SmArch.SM90A)
        assert spec.head_dims == sm90.padded_head_dims(head_dim, head_dim_v)
        assert spec.head_dims in sm90.HEAD_DIMS
        assert head_dim <= spec.head_dim
        assert head_dim_v <= spec.head_dim_v


@pytest.mark.parametrize("table", HOPPER_TABLES.values(), ids=HOPPER_TABLES)
def test_a_hopper_table_has_one_row_for_each_head_dim(table):
    assert [row.head_dims for row in table] == list(sm90.HEAD_DIMS)
    assert all(row.reason for row in table)


def test_hopper_kernels_are_sm_90a_s_alone():
    for arch in SmArch:
        found = {spec for spec in all_specs(arch) if spec.family == sm90.FAMILY}
        assert found == {*hopper_specs(arch), *hopper_fp8_specs(arch)}
        assert bool(found) is (arch is SmArch.SM90A)


def test_hopper_labels_say_what_a_kernel_is_for():
    full, masked = (hopper_spec(DType.F16, 128, full=full) for full in (True, False))
    assert full.features == ("fwd", "plain", "full")
    assert masked.features == ("fwd", "plain")
    assert full.for_masks == masked == masked.for_masks
    assert "full" not in hopper_spec(DType.F16, 64, full=True).features  # one tile for both
    assert hopper_spec(DType.F16, 64, decode=True, full=True).features == ("fwd", "plain", "decode")
    modified = hopper_spec(DType.BF16, 128, scores=Scores.MODIFIED, full=True)
    assert modified.features == ("fwd", "modified")
    assert "modified" in modified.label.split(".")
    fp8 = hopper_fp8_spec(64, v_dtype=DType.F8E5M2, decode=True)
    assert {"fwd_fp8", "v_e5m2", "decode"} <= set(fp8.features)


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
