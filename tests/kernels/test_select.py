"""Which implementation runs a request, and the reasons that the others give."""

from typing import ClassVar

import numpy as np
import pytest

from flashactor import (
    ChunkedPrefillRequest,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdRequest,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    PositionBias,
    SmArch,
    explain,
    registry,
)
from flashactor.errors import Fa3RequiresHopperError, NoKernelError, UnknownImplementationError
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.select import IMPLEMENTATIONS, choose_kernels
from flashactor.kernels.spec import Scores
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


def require_kernels(request, arch, catalogued=True):
    """Require that the mma.sync family takes a request, with kernels of the catalog; those kernels."""
    chosen = explain(request).chosen
    assert chosen.implementation == "sm80_mma"
    kernels = choose_kernels(request, arch)
    assert chosen.kernels == kernels == kernels_of(request, arch)
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
    kernels = require_kernels(bare(REQUEST_TYPES[name], arch, dtype), arch)
    assert list(dict.fromkeys(spec.kind for spec in kernels)) == KINDS[name]
    assert {(spec.arch, spec.dtype) for spec in kernels} == {(arch, dtype)}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "MergeStatesRequest"])
@pytest.mark.parametrize("options", FEATURES.values(), ids=FEATURES)
def test_every_feature_has_kernels_everywhere(name, options):
    for arch in SmArch:
        if name.startswith("Fa3") and not arch.supports_fa3:
            continue
        kernels = require_kernels(bare(REQUEST_TYPES[name], arch, **options), arch)
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
        kernels = require_kernels(bare(request_type, arch, **options), arch)
        for spec in kernels:
            if spec.kind == "fwd":
                assert spec.fp8_kv is ("kv_dtype" in options)
                assert spec.paged is (request_type is PagedAttentionRequest or len(options) > 0)


def test_masks_are_no_reason_for_another_kernel():
    masks = (MaskKind.full(), MaskKind.causal(), MaskKind.sliding(5, 3), MaskKind.sliding_causal(8))
    assert len({choose_kernels(Fa2FwdRequest(**CELL, mask=mask), SmArch.SM90A) for mask in masks}) == 1


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
        kernels = require_kernels(request, arch, catalogued=False)
        assert kernels[0].kind == "fwd_fp8"
        assert {spec.arch for spec in kernels} == {arch}


def test_the_catalog_has_the_kernels_of_fp8_requests():
    require_kernels(fp8("Fa2FwdFp8Request"), SmArch.SM90A)


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
    """The mma.sync family refuses bf16, for two reasons."""
    monkeypatch.setattr(
        "flashactor.kernels.select.IMPLEMENTATIONS",
        tuple(
            type(impl)(
                impl.name,
                impl.summary,
                lambda request, arch: ("has no bf16", "and no time") if request.dtype is DType.BF16 else (),
                impl.kernels,
            )
            if impl.name == "sm80_mma"
            else impl
            for impl in IMPLEMENTATIONS
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
    with pytest.raises(UnknownImplementationError, match="sm80_mma, reference"):
        explain(Fa2FwdRequest(**CELL, implementation="fa9"))
    with pytest.raises(UnknownImplementationError, match="sm80_mma, reference"):
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


def test_implementations_are_named_once():
    names = [implementation.name for implementation in IMPLEMENTATIONS]
    assert len(names) == len(set(names))
