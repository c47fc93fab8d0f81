"""Every request has kernels, on every architecture that can compute it."""

import pytest
from select_tools import bare, fp8

from flashactor import (
    ChunkedPrefillRequest,
    DType,
    Fa2BwdRequest,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    PositionBias,
    SmArch,
    VarlenBwdRequest,
    explain,
)
from flashactor.errors import Fa3RequiresHopperError
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.select import choose_family, choose_kernels, family_of
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm90_forward import SM90
from flashactor.kernels.spec import COMMON, Scores
from flashactor.requests.bare import REQUEST_TYPES

pytestmark = pytest.mark.usefixtures("nothing_activated")

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
