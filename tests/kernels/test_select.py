"""Which implementation runs a request, and the reasons that the others give."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdRequest,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    PositionBias,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
    explain,
    registry,
    workspace_size,
)
from flashactor.errors import Fa3RequiresHopperError, NoKernelError, UnknownImplementationError
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.select import IMPLEMENTATIONS, choose_family, choose_kernels, family_of
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.sm90_forward import SM90
from flashactor.kernels.spec import COMMON, Scores
from flashactor.requests.bare import REQUEST_TYPES, bare_request

CELL = {"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 128}

KINDS = {
    "Fa2FwdRequest": ["fwd", "combine"],
    "Fa3FwdRequest": ["fwd", "combine"],
    "VarlenFwdRequest": ["fwd", "combine"],
    "PagedAttentionRequest": ["fwd", "combine"],
    "ChunkedPrefillRequest": ["append", "fwd", "combine"],
    "Fa2BwdRequest": ["bwd_preprocess", "bwd_dkdv", "bwd_dq", "bwd_reduce"],
    "VarlenBwdRequest": ["bwd_preprocess", "bwd_dkdv", "bwd_dq", "bwd_reduce"],
    "MergeStatesRequest": ["merge"],
}
"""The kinds of kernels that a request may take, in the order of their launches."""

FEATURES = {
    "nothing": {},
    "causal": {"mask": MaskKind.causal()},
    "sliding window": {"mask": MaskKind.sliding_causal(8)},
    "two-sided window": {"mask": MaskKind.sliding(5, 3)},
    "sink tokens": {"mask": MaskKind.causal(), "sink_tokens": 4},
    "ALiBi": {"bias": PositionBias.ALIBI},
    "softcap": {"softcap": 30.0},
    "dropout": {"dropout_p": 0.1},
    "sink logits": {"sink_logits": True},
    "another head_dim of v": {"head_dim": 192, "head_dim_v": 128},
    "small head_dim": {"head_dim": 8},
    "large head_dim": {"head_dim": 256},
    "batch_invariant": {"batch_invariant": True},
    "multi-query": {"gqa_ratio": 64},
    "softmax_scale": {"softmax_scale": 2.0},
    "all of them": {
        "mask": MaskKind.sliding_causal(8),
        "sink_tokens": 2,
        "bias": PositionBias.ALIBI,
        "softcap": 1.0,
        "dropout_p": 0.5,
        "sink_logits": True,
        "head_dim_v": 64,
        "batch_invariant": True,
    },
}

VARIANTS = [
    (PagedAttentionRequest, {"varlen": True}),
    (PagedAttentionRequest, {"kv_dtype": DType.F8E4M3}),
    (PagedAttentionRequest, {"kv_dtype": DType.F8E5M2, "guard": True}),
    (ChunkedPrefillRequest, {"paged": True}),
    (ChunkedPrefillRequest, {"kv_dtype": DType.F8E4M3}),
    (Fa2BwdRequest, {"deterministic": False}),
]


def bare(request_type, arch=SmArch.SM90A, dtype=DType.BF16, head_dim=128, **options):
    return bare_request(request_type, arch=arch, dtype=dtype, head_dim=head_dim, **options)


@pytest.fixture(autouse=True)
def nothing_activated():
    registry.restore()
    yield
    registry.restore()


def family_for(request_type, arch, options):
    """The family that computes a request of a type, if nothing else is special about it."""
    forward = not issubclass(request_type, Fa2BwdRequest | VarlenBwdRequest | MergeStatesRequest)
    fp8_cache = options.get("kv_dtype") in (DType.F8E4M3, DType.F8E5M2)
    hopper = arch is SmArch.SM90A and forward and not fp8_cache and not options.get("dropout_p")
    return SM90 if hopper else SM80


def require_kernels(request, arch, family, catalogued=True):
    """Require that a family takes a request, with kernels of the catalog; those kernels."""
    chosen = explain(request).chosen
    assert chosen.implementation == family.name
    kernels = choose_kernels(request, arch)
    assert choose_family(request, arch) is family
    assert chosen.kernels == kernels == kernels_of(request, arch, family)
    assert {family_of(spec) for spec in kernels if spec.family != COMMON} <= {family, SM80}
    assert not catalogued or set(kernels) <= set(all_specs(arch))
    return kernels


def test_every_request_type_of_16_bits_is_here():
    assert set(KINDS) == {name for name, kind in REQUEST_TYPES.items() if not kind.TAKES_FP8}


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("name", KINDS)
def test_every_request_type_has_kernels_on_every_architecture(name, dtype, arch):
    if name.startswith("Fa3") and not arch.supports_fa3:
        with pytest.raises(Fa3RequiresHopperError):
            bare(REQUEST_TYPES[name], arch, dtype)
        return
    request_type = REQUEST_TYPES[name]
    kernels = require_kernels(bare(request_type, arch, dtype), arch, family_for(request_type, arch, {}))
    assert list(dict.fromkeys(spec.kind for spec in kernels)) == KINDS[name]
    assert {(spec.arch, spec.dtype) for spec in kernels} == {(arch, dtype)}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "MergeStatesRequest"])
@pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES)
def test_every_feature_has_kernels_everywhere(name, options):
    for arch in SmArch:
        if name.startswith("Fa3") and not arch.supports_fa3:
            continue
        request_type = REQUEST_TYPES[name]
        family = family_for(request_type, arch, options)
        kernels = require_kernels(bare(request_type, arch, **options), arch, family)
        main = next(spec for spec in kernels if spec.kind in ("fwd", "bwd_dkdv"))
        modified = {"bias", "softcap"} & options.keys()
        scores = Scores.DROPOUT if "dropout_p" in options else Scores.MODIFIED if modified else Scores.PLAIN
        assert main.scores is scores
        head_dim = options.get("head_dim", 128)
        assert main.head_dim >= head_dim
        assert main.head_dim_v >= options.get("head_dim_v", head_dim)


@pytest.mark.parametrize(("request_type", "options"), VARIANTS)
def test_every_variant_has_kernels_everywhere(request_type, options):
    for arch in SmArch:
        if options.get("kv_dtype") and not arch.supports_fp8:
            continue
        family = family_for(request_type, arch, options)
        kernels = require_kernels(bare(request_type, arch, **options), arch, family)
        for spec in kernels:
            if spec.kind == "fwd" and family is SM80:
                assert spec.fp8_kv is ("kv_dtype" in options)
                assert spec.paged is (request_type is PagedAttentionRequest or len(options) > 0)


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


def kinds(request):
    return [spec.kind for spec in choose_kernels(request, SmArch.SM80)]


def test_requests_with_arrays_take_only_what_they_need():
    short, token = np.ones((1, 40, 2, 64), np.float16), np.ones((1, 1, 2, 64), np.float16)
    assert kinds(Fa2FwdRequest.from_arrays(short, short, short)) == ["fwd"]
    long = np.ones((1, 9000, 2, 64), np.float16)
    request = Fa2FwdRequest.from_arrays(token, long, long)
    assert kinds(request) == ["fwd", "combine"]
    assert "decode" in choose_kernels(request, SmArch.SM80)[0].features


def fp8(name, arch=SmArch.SM90A, dtype=DType.F8E4M3, **options):
    return bare(REQUEST_TYPES[name], arch, dtype, **options)


@pytest.mark.parametrize("name", [name for name, kind in REQUEST_TYPES.items() if kind.TAKES_FP8])
@pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES)
def test_fp8_requests_have_kernels_wherever_the_hardware_multiplies_fp8(name, options):
    archs = [a for a in SmArch if a.supports_fp8 and (a.supports_fa3 or not name.startswith("Fa3"))]
    assert archs
    for arch in archs:
        request = fp8(name, arch, **{**options, "head_dim": max(16, options.get("head_dim", 128))})
        family = family_for(REQUEST_TYPES[name], arch, options)
        kernels = require_kernels(request, arch, family, catalogued=False)
        assert kernels[0].kind == "fwd_fp8"
        assert {spec.arch for spec in kernels} == {arch}


def test_the_catalog_has_the_kernels_of_fp8_requests():
    require_kernels(fp8("Fa2FwdFp8Request"), SmArch.SM90A, SM90)
    require_kernels(fp8("Fa2FwdFp8Request", SmArch.SM89), SmArch.SM89, SM80)


FP8_REFUSED = {
    "e5m2 queries": ({"dtype": DType.F8E5M2}, "takes q in e4m3, not in e5m2"),
    "half a vector": ({"head_dim": 24}, "loads fp8 rows in 16 bytes, and head_dim is 24"),
    "a negative descale": (
        {"k_scale": -1.0},
        "takes descales of q and k that are positive, and k_scale is -1",
    ),
}


@pytest.mark.parametrize(("options", "reason"), FP8_REFUSED.values(), ids=FP8_REFUSED)
def test_what_the_fp8_kernels_refuse(options, reason):
    request = fp8("Fa2FwdFp8Request", **options)
    assert explain(request).chosen.implementation == "reference"
    assert reason in refusals(request, "sm80_mma").reasons
    with pytest.raises(NoKernelError) as caught:
        choose_kernels(request, SmArch.SM90A)
    assert reason in caught.value.reasons["sm80_mma"]


def refusals(request, implementation):
    return next(c for c in explain(request).candidates if c.implementation == implementation)


@pytest.fixture
def without_bf16(monkeypatch):
    """The mma.sync family is the only one, and refuses bf16, for two reasons."""
    monkeypatch.setattr(
        "flashactor.kernels.select.IMPLEMENTATIONS",
        tuple(
            type(impl)(
                impl.name,
                impl.summary,
                lambda request, arch: ("has no bf16", "and no time") if request.dtype is DType.BF16 else (),
                impl.family,
            )
            if impl.name == "sm80_mma"
            else impl
            for impl in IMPLEMENTATIONS
            if impl.name != "sm90_wgmma"
        ),
    )


@pytest.mark.usefixtures("without_bf16")
def test_a_refused_request_gives_every_reason_and_falls_to_the_reference():
    request = Fa2FwdRequest(**CELL)
    assert explain(request).chosen.implementation == "reference"
    assert refusals(request, "sm80_mma").reasons == ("has no bf16", "and no time")
    assert refusals(request, "sm80_mma").kernels == ()
    with pytest.raises(NoKernelError, match="has no bf16") as caught:
        choose_kernels(request, SmArch.SM90A)
    assert caught.value.reasons["sm80_mma"] == ("has no bf16", "and no time")
    assert "executor='reference'" in caught.value.remedy
    with pytest.raises(NoKernelError, match="has no bf16"):
        explain(Fa2FwdRequest(**CELL, implementation="sm80_mma"))
    assert explain(Fa2FwdRequest(**{**CELL, "dtype": DType.F16})).chosen.implementation == "sm80_mma"


def on_device(*shape, typestr="<f2"):
    class OnDevice:
        __cuda_array_interface__: ClassVar = {
            "shape": shape,
            "typestr": typestr,
            "data": (1 << 20, False),
            "version": 3,
        }

    return OnDevice()


def test_the_reference_does_not_read_a_device():
    x = on_device(1, 1, 1, 8)
    request = Fa2FwdRequest.from_arrays(x, x, x)
    reason = "reads host memory, and the operands are on cuda:0"
    assert refusals(request, "reference").reasons == (reason,)
    with pytest.raises(NoKernelError, match=reason):
        explain(Fa2FwdRequest.from_arrays(x, x, x, implementation="reference"))


def test_the_reference_does_not_read_states_on_a_device_either():
    out, lse = on_device(1, 1, 1, 8), on_device(1, 1, 1, typestr="<f4")
    request = MergeStatesRequest.from_arrays(out, lse, out, lse)
    assert refusals(request, "reference").reasons == ("reads host memory, and the operands are on cuda:0",)


def test_a_request_may_insist():
    assert explain(Fa2FwdRequest(**CELL, implementation="reference")).chosen.implementation == "reference"
    named = explain(Fa2FwdRequest(**CELL, implementation="sm80_mma")).chosen
    assert named.reasons == ("the request names it",)
    with pytest.raises(NoKernelError, match="computes on the host, not on the device"):
        choose_kernels(Fa2FwdRequest(**CELL, implementation="reference"), SmArch.SM90A)
    with pytest.raises(UnknownImplementationError, match="sm90_wgmma, sm80_mma, reference"):
        explain(Fa2FwdRequest(**CELL, implementation="fa9"))
    with pytest.raises(UnknownImplementationError, match="sm90_wgmma, sm80_mma, reference"):
        choose_kernels(Fa2FwdRequest(**CELL, implementation="fa9"), SmArch.SM90A)


def test_an_impossible_architecture_is_the_requests_error():
    with pytest.raises(Fa3RequiresHopperError):
        explain(Fa3FwdRequest(None, DType.BF16, 128), SmArch.SM80)


def test_the_actors_architecture_decides():
    kernels = explain(Fa2FwdRequest(None, DType.BF16, 128), SmArch.SM120).chosen.kernels
    assert {spec.arch for spec in kernels} == {SmArch.SM120}


@pytest.mark.usefixtures("without_bf16")
def test_a_kernel_family_can_be_activated():
    with registry.activated("sm80_mma"):
        assert explain(Fa2FwdRequest(**{**CELL, "dtype": DType.F16})).chosen.implementation == "sm80_mma"
        assert explain(Fa2FwdRequest(**CELL)).chosen.implementation == "reference"


def test_an_activated_family_comes_first_where_it_computes():
    request, gradients = Fa2FwdRequest(**CELL), bare(Fa2BwdRequest)
    assert choose_family(request, SmArch.SM90A) is SM90
    with registry.activated("sm80_mma"):
        assert choose_family(request, SmArch.SM90A) is SM80
        assert refusals(request, "sm90_wgmma").reasons == ("accepts it, but sm80_mma comes first",)
    with registry.activated("sm90_wgmma"):
        assert choose_family(request, SmArch.SM90A) is SM90
        assert choose_family(gradients, SmArch.SM90A) is SM80


def test_a_request_may_insist_on_either_family():
    for family in (SM80, SM90):
        request = Fa2FwdRequest(**CELL, implementation=family.name)
        assert choose_family(request, SmArch.SM90A) is family
        assert {spec.family for spec in choose_kernels(request, SmArch.SM90A)} == {family.name, COMMON}
        assert refusals(request, family.name).reasons == ("the request names it",)


def test_a_kernels_family_is_the_one_that_launches_it():
    for spec in all_specs(SmArch.SM90A):
        family = family_of(spec)
        assert spec.family in (family.name, COMMON)
        assert family is SM80 or spec.family != COMMON


def test_the_workspace_is_that_of_the_family_that_computes():
    token, long = np.ones((1, 1, 8, 64), np.float16), np.ones((1, 60_000, 2, 64), np.float16)
    sizes = {}
    for family in (SM80, SM90):
        request = Fa2FwdRequest.from_arrays(token, long, long, implementation=family.name)
        splits = forward_shape(request, SmArch.SM90A, family).num_splits
        assert splits > 1
        sizes[family.name] = workspace_size(request, SmArch.SM90A)
        assert sizes[family.name] >= splits * 8 * (64 + 1) * 4
    assert workspace_size(Fa2FwdRequest.from_arrays(token, long, long), SmArch.SM90A) == sizes["sm90_wgmma"]


def test_implementations_are_named_once():
    names = [implementation.name for implementation in IMPLEMENTATIONS]
    assert len(names) == len(set(names))
