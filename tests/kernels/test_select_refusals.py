"""The reasons and errors of requests that the kernels, the reference or an architecture refuse."""

from typing import ClassVar

import pytest
from select_tools import CELL, fp8, refusals

from flashactor import DType, Fa2FwdRequest, Fa3FwdRequest, MergeStatesRequest, SmArch, explain
from flashactor.errors import Fa3RequiresHopperError, NoKernelError
from flashactor.kernels.select import choose_kernels

pytestmark = pytest.mark.usefixtures("nothing_activated")

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


def test_an_impossible_architecture_is_the_requests_error():
    with pytest.raises(Fa3RequiresHopperError):
        explain(Fa3FwdRequest(None, DType.BF16, 128), SmArch.SM80)
