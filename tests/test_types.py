"""The closed vocabularies."""

import numpy as np
import pytest

from flashactor import DType, MaskKind, PersistentMode, PositionBias, SmArch
from flashactor.errors import DeviceUnavailableError, RequestError


@pytest.mark.parametrize(
    ("arch", "target", "capability", "fa3", "fp8"),
    [
        (SmArch.SM80, "sm_80", (8, 0), False, False),
        (SmArch.SM86, "sm_86", (8, 6), False, False),
        (SmArch.SM89, "sm_89", (8, 9), False, True),
        (SmArch.SM90A, "sm_90a", (9, 0), True, True),
        (SmArch.SM100, "sm_100a", (10, 0), True, True),
        (SmArch.SM120, "sm_120a", (12, 0), False, True),
    ],
)
def test_architectures(arch, target, capability, fa3, fp8):
    assert arch.target == target
    assert arch.nvrtc_flag == f"--gpu-architecture={target}"
    assert arch.compute_capability == capability
    assert arch.supports_fa3 is fa3
    assert arch.supports_fp8 is fp8
    assert SmArch.from_compute_capability(*capability) is arch


def test_orin_runs_sm86_cubins():
    assert SmArch.from_compute_capability(8, 7) is SmArch.SM86


@pytest.mark.parametrize("capability", [(7, 5), (10, 3), (12, 1), (99, 0)])
def test_devices_that_no_cubin_runs_on(capability):
    with pytest.raises(DeviceUnavailableError) as caught:
        SmArch.from_compute_capability(*capability)
    assert caught.value.field == "compute_capability"
    assert "9.0" in caught.value.expected


@pytest.mark.parametrize("name", ["sm_90a", "sm90", "90a", "90", "SM90A", " sm_90 "])
def test_architecture_names_as_people_type_them(name):
    assert SmArch.parse(name) is SmArch.SM90A


@pytest.mark.parametrize("name", ["", "sm", "sm_75", "hopper", "9", "900"])
def test_unknown_architecture_names(name):
    with pytest.raises(RequestError, match="arch"):
        SmArch.parse(name)


@pytest.mark.parametrize(
    ("dtype", "tag", "size", "fp8", "numpy_name"),
    [
        (DType.F16, "f16", 2, False, "float16"),
        (DType.BF16, "bf16", 2, False, "bfloat16"),
        (DType.F8E4M3, "e4m3", 1, True, "float8_e4m3fn"),
        (DType.F8E5M2, "e5m2", 1, True, "float8_e5m2"),
    ],
)
def test_dtypes(dtype, tag, size, fp8, numpy_name):
    assert (dtype.tag, dtype.size_in_bytes, dtype.is_fp8, dtype.numpy_name) == (tag, size, fp8, numpy_name)
    assert DType.parse(tag) is DType.parse(numpy_name) is DType.parse(tag.upper()) is dtype


def test_unknown_dtype_name():
    with pytest.raises(RequestError, match=r"dtype: got f32; expected one of f16, bf16, e4m3, e5m2"):
        DType.parse("f32")


@pytest.mark.parametrize(
    ("mask", "causal", "window", "left", "right", "text"),
    [
        (MaskKind.full(), False, None, -1, -1, "full"),
        (MaskKind.causal(), True, None, -1, 0, "causal"),
        (MaskKind.sliding_causal(4), True, 4, 3, 0, "sliding_causal(4)"),
        (MaskKind.sliding_full(4), False, 4, 3, 3, "sliding_full(4)"),
        (MaskKind.sliding(7, 3), False, 8, 7, 3, "sliding(7, 3)"),
        (MaskKind.sliding(0, 3), False, 1, 0, 3, "sliding(0, 3)"),
        (MaskKind.sliding(7, -1), False, 8, 7, -1, "sliding(7, -1)"),
        (MaskKind.sliding(-1, 3), False, None, -1, 3, "sliding(-1, 3)"),
    ],
)
def test_masks(mask, causal, window, left, right, text):
    assert (mask.is_causal, mask.sliding_window) == (causal, window)
    assert (mask.window_left, mask.window_right) == (left, right)
    assert str(mask) == text


@pytest.mark.parametrize(
    ("window", "mask"),
    [
        ((-1, -1), MaskKind.full()),
        ((-1, 0), MaskKind.causal()),
        ((3, 0), MaskKind.sliding_causal(4)),
        ((3, 3), MaskKind.sliding_full(4)),
        ((0, 0), MaskKind.sliding_causal(1)),
        ((np.int32(3), np.int32(5)), MaskKind.sliding(3, 5)),
    ],
)
def test_a_window_that_has_a_kind_of_its_own_is_that_kind(window, mask):
    assert MaskKind.sliding(*window) == mask
    assert hash(MaskKind.sliding(*window)) == hash(mask)
    assert (mask.window_left, mask.window_right) == window


@pytest.mark.parametrize(
    ("window", "field"),
    [
        ((-2, 0), "window_left"),
        (("x", 0), "window_left"),
        ((1.0, 0), "window_left"),
        ((0, -2), "window_right"),
        ((0, True), "window_right"),
        ((0, [1]), "window_right"),
    ],
)
def test_windows_that_cannot_be(window, field):
    with pytest.raises(RequestError) as caught:
        MaskKind.sliding(*window)
    assert caught.value.field == field


def test_a_causal_mask_sees_nothing_to_the_right():
    with pytest.raises(RequestError, match="causal"):
        MaskKind(is_causal=True, right=4)


def test_persistent_mode():
    assert not PersistentMode.grid().is_persistent
    assert PersistentMode.persistent(132) == PersistentMode(132)
    assert PersistentMode.persistent(132).is_persistent
    with pytest.raises(RequestError, match="num_sms"):
        PersistentMode.persistent(0)


def test_position_bias_has_two_members():
    assert {bias.name for bias in PositionBias} == {"NONE", "ALIBI"}
