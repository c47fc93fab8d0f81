"""What runs on the Hopper family, and its reasons against the rest."""

from dataclasses import replace

import numpy as np
import pytest
from select_tools import CELL, bare, refusals

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    SmArch,
    VarlenFwdRequest,
    explain,
)
from flashactor.errors import NoKernelError
from flashactor.kernels.select import choose_family, choose_kernels
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.sm90_forward import SM90

pytestmark = pytest.mark.usefixtures("nothing_activated")

MASKS = (MaskKind.causal(), MaskKind.sliding(5, 3), MaskKind.sliding_causal(8))


def test_masks_are_no_reason_for_another_kernel():
    def kernels(mask, arch):
        return choose_kernels(Fa2FwdRequest(arch, DType.BF16, 128, mask=mask), arch)

    assert len({kernels(mask, SmArch.SM80) for mask in (MaskKind.full(), *MASKS)}) == 1
    assert len({kernels(mask, SmArch.SM90A) for mask in MASKS}) == 1


def test_on_hopper_no_mask_has_a_tile_of_its_own():
    full, masked, paged, packed = (
        choose_kernels(request, SmArch.SM90A)[0]
        for request in (
            Fa2FwdRequest(**CELL),
            Fa2FwdRequest(**CELL, mask=MaskKind.causal()),
            bare(PagedAttentionRequest),
            bare(VarlenFwdRequest),
        )
    )
    assert full == packed == hopper_spec(DType.BF16, 128, full=True)
    assert masked == paged == hopper_spec(DType.BF16, 128) != full


REFUSED_ON_HOPPER = {
    "gradients": (Fa2BwdRequest, {}, ("has forward kernels only",)),
    "states": (MergeStatesRequest, {}, ("has forward kernels only",)),
    "dropout": (Fa2FwdRequest, {"dropout_p": 0.1}, ("has no dropout",)),
    "an fp8 cache": (
        PagedAttentionRequest,
        {"kv_dtype": DType.F8E4M3},
        ("does not convert fp8 caches to 16 bits",),
    ),
    "both": (
        PagedAttentionRequest,
        {"kv_dtype": DType.F8E5M2, "dropout_p": 0.1},
        ("has no dropout", "does not convert fp8 caches to 16 bits"),
    ),
}


@pytest.mark.parametrize(
    ("request_type", "options", "reasons"), REFUSED_ON_HOPPER.values(), ids=REFUSED_ON_HOPPER
)
def test_what_the_hopper_family_refuses_runs_on_the_other(request_type, options, reasons):
    request = bare(request_type, **options)
    assert refusals(request, "sm90_wgmma").reasons == reasons
    assert refusals(request, "sm90_wgmma").kernels == ()
    assert explain(request).chosen.implementation == "sm80_mma"
    assert choose_family(request, SmArch.SM90A) is SM80
    with pytest.raises(NoKernelError) as caught:
        choose_kernels(replace(request, implementation="sm90_wgmma"), SmArch.SM90A)
    assert caught.value.reasons == {"sm90_wgmma": reasons}


@pytest.mark.parametrize("arch", [arch for arch in SmArch if arch is not SmArch.SM90A])
def test_wgmma_is_hoppers_alone(arch):
    request = Fa2FwdRequest(arch, DType.BF16, 128)
    assert refusals(request, "sm90_wgmma").reasons == ("wgmma exists on sm_90a alone",)
    with pytest.raises(NoKernelError, match="wgmma exists on sm_90a alone"):
        choose_kernels(replace(request, implementation="sm90_wgmma"), arch)


def test_tma_has_no_form_for_an_axis_that_repeats():
    q, k = np.ones((2, 40, 4, 64), np.float16), np.ones((1, 40, 2, 64), np.float16)
    repeated = np.broadcast_to(k, (2, 40, 2, 64))
    request = Fa2FwdRequest.from_arrays(q, repeated, repeated, arch=SmArch.SM90A)
    assert refusals(request, "sm90_wgmma").reasons == tuple(
        f"reads by TMA, which cannot repeat an axis, and {name} has a stride of 0" for name in ("k", "v")
    )
    assert choose_family(request, SmArch.SM90A) is SM80
    single = Fa2FwdRequest.from_arrays(q[:1], repeated[:1], repeated[:1], arch=SmArch.SM90A)
    assert choose_family(single, SmArch.SM90A) is SM90


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_tma_takes_no_axis_backwards(name):
    arrays = {each: np.ones((2, 40, 2, 64), np.float16) for each in ("q", "k", "v", "out")}
    arrays[name] = arrays[name][:, ::-1]
    request = Fa2FwdRequest.from_arrays(**arrays, arch=SmArch.SM90A)
    reason = f"copies by TMA, which takes no negative strides, and {name} has one"
    assert refusals(request, "sm90_wgmma").reasons == (reason,)
    assert choose_family(request, SmArch.SM90A) is SM80
    single = {each: array[:, :1] for each, array in arrays.items()}
    assert choose_family(Fa2FwdRequest.from_arrays(**single, arch=SmArch.SM90A), SmArch.SM90A) is SM90


def test_new_keys_of_a_cache_have_no_tensor_map():
    q, cache = np.ones((1, 16, 2, 64), np.float16), np.ones((1, 64, 2, 64), np.float16)
    new = np.broadcast_to(np.ones(64, np.float16), (1, 16, 2, 64))
    request = ChunkedPrefillRequest.from_arrays(
        q, new, new, cache, cache.copy(), chunk=ChunkLayout(16, 48), arch=SmArch.SM90A
    )
    assert choose_family(request, SmArch.SM90A) is SM90
