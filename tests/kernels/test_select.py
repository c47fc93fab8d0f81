"""Which implementation runs a request, and the reasons that the others give."""

from typing import ClassVar

import numpy as np
import pytest

from flashactor import (
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    Fa3FwdRequest,
    MaskKind,
    PositionBias,
    SmArch,
    explain,
    registry,
)
from flashactor.errors import Fa3RequiresHopperError, NoKernelError, UnknownImplementationError
from flashactor.kernels.select import IMPLEMENTATIONS, choose_kernel

CELL = {"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 128}


@pytest.fixture(autouse=True)
def nothing_activated():
    registry.restore()
    yield
    registry.restore()


@pytest.mark.parametrize("arch", SmArch)
@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("mask", [MaskKind.full(), MaskKind.causal()], ids=str)
def test_dense_forward_has_a_kernel_on_every_architecture(arch, dtype, mask):
    request = Fa2FwdRequest(arch, dtype, 72, 4, mask)
    spec = choose_kernel(request, arch)
    assert (spec.arch, spec.dtype, spec.head_dim, spec.causal) == (arch, dtype, 96, mask.is_causal)
    explanation = explain(request)
    assert explanation.chosen.implementation == "sm80_mma"
    assert explanation.chosen.spec == spec
    assert explanation.kernel_name == request.kernel_name()


def test_fa3_requests_run_the_mma_family_for_now():
    assert explain(Fa3FwdRequest(**CELL)).chosen.implementation == "sm80_mma"


REFUSED = {
    "sliding window": (Fa2FwdRequest(**CELL, mask=MaskKind.sliding_causal(8)), "has no sliding window"),
    "sink tokens": (Fa2FwdRequest(**CELL, mask=MaskKind.causal(), sink_tokens=4), "has no sink tokens"),
    "ALiBi": (Fa2FwdRequest(**CELL, bias=PositionBias.ALIBI), "has no ALiBi"),
    "softcap": (Fa2FwdRequest(**CELL, softcap=30.0), "has no softcap"),
    "dropout": (Fa2FwdRequest(**CELL, dropout_p=0.1), "has no dropout"),
    "backward": (Fa2BwdRequest(**CELL), "computes dense forward passes, not Fa2BwdRequest"),
    "fp8": (
        Fa3FwdFp8Request(**{**CELL, "dtype": DType.F8E4M3}),
        "multiplies f16 and bf16, not e4m3",
    ),
}


@pytest.mark.parametrize(("request_", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_refused_request_says_why_and_falls_to_the_reference(request_, reason):
    explanation = explain(request_)
    assert explanation.chosen.implementation == "reference"
    refused = next(c for c in explanation.candidates if c.implementation == "sm80_mma")
    assert refused.reasons == (reason,)
    assert refused.spec is None
    with pytest.raises(NoKernelError, match=reason) as caught:
        choose_kernel(request_, SmArch.SM90A)
    assert caught.value.reasons["sm80_mma"] == (reason,)
    assert "executor='reference'" in caught.value.remedy


def test_every_reason_is_listed():
    request = Fa2FwdRequest(**CELL, mask=MaskKind.sliding_causal(8), sink_tokens=2, softcap=1.0)
    refused = next(c for c in explain(request).candidates if not c.chosen)
    assert refused.reasons == ("has no sliding window", "has no sink tokens", "has no softcap")


def test_learned_sinks_are_refused():
    one = np.ones((1, 1, 1, 8), np.float16)
    request = Fa2FwdRequest.from_arrays(one, one, one, sink_logits=np.zeros(1, np.float32))
    assert explain(request).chosen.implementation == "reference"


def test_the_reference_does_not_read_a_device():
    class OnDevice:
        __cuda_array_interface__: ClassVar = {
            "shape": (1, 1, 1, 8),
            "typestr": "<f2",
            "data": (1 << 20, False),
            "version": 3,
        }

    device = Fa2FwdRequest.from_arrays(OnDevice(), OnDevice(), OnDevice(), softcap=1.0)
    with pytest.raises(NoKernelError, match="reads host memory, and the operands are on cuda:0"):
        explain(device)


def test_a_request_may_insist():
    assert explain(Fa2FwdRequest(**CELL, implementation="reference")).chosen.implementation == "reference"
    with pytest.raises(NoKernelError, match="computes on the host, not on the device"):
        choose_kernel(Fa2FwdRequest(**CELL, implementation="reference"), SmArch.SM90A)
    with pytest.raises(NoKernelError, match="has no softcap"):
        explain(Fa2FwdRequest(**CELL, softcap=1.0, implementation="sm80_mma"))
    with pytest.raises(UnknownImplementationError, match="sm80_mma, reference"):
        explain(Fa2FwdRequest(**CELL, implementation="fa9"))


def test_an_impossible_architecture_is_the_requests_error():
    with pytest.raises(Fa3RequiresHopperError):
        explain(Fa3FwdRequest(None, DType.BF16, 128), SmArch.SM80)


def test_the_actors_architecture_decides():
    assert explain(Fa2FwdRequest(None, DType.BF16, 128), SmArch.SM120).chosen.spec.arch is SmArch.SM120


def test_a_kernel_family_can_be_activated():
    with registry.activated("sm80_mma"):
        assert explain(Fa2FwdRequest(**CELL)).chosen.implementation == "sm80_mma"
        assert explain(Fa2FwdRequest(**CELL, softcap=1.0)).chosen.implementation == "reference"


def test_implementations_are_named_once():
    names = [implementation.name for implementation in IMPLEMENTATIONS]
    assert len(names) == len(set(names))
