"""Dispatch keys, names, hashes and the table."""

import dataclasses
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashactor import DISPATCH_TABLE, Direction, DispatchKey, DType, SmArch, lookup
from flashactor.errors import (
    DispatchError,
    Fp8BackwardUnsupportedError,
    Fp8RequiresHopperError,
    InvalidGqaRatioError,
    PagedFlagNotSetError,
    SinkWithoutMaskError,
    UnknownKeyError,
    UnsupportedHeadDimError,
    ZeroWindowError,
)

BASE = DispatchKey(SmArch.SM80, DType.BF16, 128, causal=True)

fields = {
    "arch": st.sampled_from(SmArch),
    "dtype": st.sampled_from(DType),
    "head_dim": st.integers(1, 32).map(lambda n: 8 * n),
    "causal": st.booleans(),
    "varlen": st.booleans(),
    "sliding_window": st.none() | st.integers(1, 2**20),
    "alibi": st.booleans(),
    "sink": st.integers(0, 1024),
    "paged": st.booleans(),
    "gqa_ratio": st.integers(1, 128),
}
keys = st.builds(DispatchKey, **fields)


@given(keys)
def test_equal_keys_have_equal_names_and_hashes(key):
    twin = dataclasses.replace(key)
    assert twin == key
    assert hash(twin) == hash(key)
    assert twin.kernel_name() == key.kernel_name()
    assert twin.stable_hash() == key.stable_hash()
    assert 0 <= key.stable_hash() < 2**64


@given(keys, st.sampled_from(sorted(fields)), st.data())
def test_any_changed_field_changes_name_and_hash(key, name, data):
    other = dataclasses.replace(
        key, **{name: data.draw(fields[name].filter(lambda v: v != getattr(key, name)))}
    )
    assert other != key
    assert other.stable_hash() != key.stable_hash()
    if name == "arch":  # the name spells the generation, not the architecture
        same_generation = other.arch.supports_fa3 == key.arch.supports_fa3
        assert (other.kernel_name() == key.kernel_name()) is same_generation
    else:
        assert other.kernel_name() != key.kernel_name()


@given(keys)
def test_directions_have_different_names(key):
    forward, backward = key.kernel_name(), key.kernel_name(Direction.BACKWARD)
    assert "::fwd<" in forward
    assert backward == forward.replace("::fwd<", "::bwd<")


def test_stable_hash_is_the_same_in_every_process():
    program = (
        "from flashactor import *\n"
        "print(DispatchKey(SmArch.SM90A, DType.BF16, 128, True, False, 4096, True, 8, True, 8).stable_hash())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    here = DispatchKey(SmArch.SM90A, DType.BF16, 128, True, False, 4096, True, 8, True, 8).stable_hash()
    assert hashes == {f"{here}\n"}


def test_stable_hash_never_changes_between_releases():
    assert BASE.stable_hash() == 0x79E02507480B7AA4
    assert (
        DispatchKey(SmArch.SM90A, DType.F8E4M3, 64, False, True, 17, True, 4, True, 8).stable_hash()
        == 0xA5E4A25408D85342
    )


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (BASE, "flashactor::fa2::fwd<bf16, 128, causal>"),
        (DispatchKey(SmArch.SM90A, DType.F16, 64), "flashactor::fa3::fwd<f16, 64, full>"),
        (DispatchKey(SmArch.SM100, DType.F8E4M3, 256), "flashactor::fa3::fwd<e4m3, 256, full>"),
        (dataclasses.replace(BASE, varlen=True), "flashactor::fa2::fwd<bf16, 128, causal>_varlen"),
        (dataclasses.replace(BASE, sliding_window=4096), "flashactor::fa2::fwd<bf16, 128, causal>_sw4096"),
        (dataclasses.replace(BASE, alibi=True), "flashactor::fa2::fwd<bf16, 128, causal>_alibi"),
        (dataclasses.replace(BASE, sink=8), "flashactor::fa2::fwd<bf16, 128, causal>_sink8"),
        (dataclasses.replace(BASE, paged=True), "flashactor::fa2::fwd<bf16, 128, causal>_paged"),
        (dataclasses.replace(BASE, gqa_ratio=8), "flashactor::fa2::fwd<bf16, 128, causal>_gqa8"),
        (
            DispatchKey(SmArch.SM90A, DType.BF16, 128, True, True, 4096, True, 8, True, 8),
            "flashactor::fa3::fwd<bf16, 128, causal>_varlen_sw4096_alibi_sink8_paged_gqa8",
        ),
    ],
)
def test_names(key, name):
    assert key.kernel_name() == name
    assert lookup(key) == name


@pytest.mark.parametrize("head_dim", range(8, 257, 8))
def test_every_multiple_of_eight_is_a_head_dim(head_dim):
    dataclasses.replace(BASE, head_dim=head_dim).validate_fwd()


@pytest.mark.parametrize("head_dim", [100, 33, 123, 7, 0, -8, 4, 264, 512, 64.5, True, "128"])
def test_other_head_dims_are_refused(head_dim):
    with pytest.raises(UnsupportedHeadDimError, match="multiple of 8"):
        dataclasses.replace(BASE, head_dim=head_dim).validate_fwd()


@pytest.mark.parametrize("dtype", [DType.F8E4M3, DType.F8E5M2])
@pytest.mark.parametrize("arch", SmArch)
def test_fp8_follows_the_tensor_cores(arch, dtype):
    key = dataclasses.replace(BASE, arch=arch, dtype=dtype)
    if arch.supports_fp8:
        key.validate_fwd()
    else:
        with pytest.raises(Fp8RequiresHopperError):
            key.validate_fwd()


def test_sinks_need_a_window_or_causality():
    with pytest.raises(SinkWithoutMaskError):
        dataclasses.replace(BASE, causal=False, sink=4).validate_fwd()
    dataclasses.replace(BASE, causal=True, sink=4).validate_fwd()
    dataclasses.replace(BASE, causal=False, sliding_window=8, sink=4).validate_fwd()


@pytest.mark.parametrize("sink", [-1, 1.5])
def test_sinks_are_counts(sink):
    with pytest.raises(SinkWithoutMaskError):
        dataclasses.replace(BASE, sink=sink).validate_fwd()


@pytest.mark.parametrize("ratio", [0, -1, 1.5])
def test_gqa_ratio_is_at_least_one(ratio):
    with pytest.raises(InvalidGqaRatioError):
        dataclasses.replace(BASE, gqa_ratio=ratio).validate_fwd()


@pytest.mark.parametrize("window", [0, -1, 2.5])
def test_window_holds_a_key(window):
    with pytest.raises(ZeroWindowError):
        dataclasses.replace(BASE, sliding_window=window).validate_fwd()


def test_backward_has_no_fp8():
    with pytest.raises(Fp8BackwardUnsupportedError):
        DispatchKey(SmArch.SM90A, DType.F8E4M3, 128).validate_bwd()
    with pytest.raises(Fp8BackwardUnsupportedError):
        lookup(DispatchKey(SmArch.SM90A, DType.F8E4M3, 128), Direction.BACKWARD)
    BASE.validate_bwd()


def test_backward_keeps_the_rules_of_forward():
    with pytest.raises(UnsupportedHeadDimError):
        dataclasses.replace(BASE, head_dim=100).validate_bwd()


def test_paged_needs_its_flag():
    with pytest.raises(PagedFlagNotSetError):
        BASE.validate_paged()
    dataclasses.replace(BASE, paged=True).validate_paged()


def test_table_holds_the_common_cells():
    dense = 6 * 2 * 6 * 2  # architectures, 16-bit types, head sizes, masks
    fp8 = 4 * 2 * 3 * 2
    assert len(DISPATCH_TABLE) == dense + fp8
    assert len({(key.arch, DISPATCH_TABLE.strict_lookup(key)) for key in DISPATCH_TABLE}) == len(
        DISPATCH_TABLE
    )
    assert BASE in DISPATCH_TABLE


def test_strict_lookup_knows_only_those():
    assert DISPATCH_TABLE.strict_lookup(BASE) == BASE.kernel_name()
    with pytest.raises(UnknownKeyError) as caught:
        DISPATCH_TABLE.strict_lookup(dataclasses.replace(BASE, sliding_window=17))
    assert caught.value.got.sliding_window == 17


@given(keys)
def test_lookup_names_valid_keys_and_refuses_the_others(key):
    try:
        key.validate_fwd()
    except DispatchError as error:
        with pytest.raises(type(error)):
            lookup(key)
    else:
        assert lookup(key) == key.kernel_name()
