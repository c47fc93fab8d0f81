"""Which implementation runs a request: the first that takes it, an activated one, or one that it names."""

import numpy as np
import pytest
from select_tools import CELL, bare, refusals

from flashactor import DType, Fa2BwdRequest, Fa2FwdRequest, SmArch, explain, registry, workspace_size
from flashactor.errors import NoKernelError, UnknownImplementationError
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.select import IMPLEMENTATIONS, choose_family, choose_kernels, family_of
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm90_forward import SM90
from flashactor.kernels.spec import COMMON

pytestmark = pytest.mark.usefixtures("nothing_activated")


def kinds(request):
    return [spec.kind for spec in choose_kernels(request, SmArch.SM80)]


def test_requests_with_arrays_take_only_what_they_need():
    short, token = np.ones((1, 40, 2, 64), np.float16), np.ones((1, 1, 2, 64), np.float16)
    assert kinds(Fa2FwdRequest.from_arrays(short, short, short)) == ["fwd"]
    long = np.ones((1, 9000, 2, 64), np.float16)
    request = Fa2FwdRequest.from_arrays(token, long, long)
    assert kinds(request) == ["fwd", "combine"]
    assert "decode" in choose_kernels(request, SmArch.SM80)[0].features


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


def test_a_request_may_insist_on_either_family():
    for family in (SM80, SM90):
        request = Fa2FwdRequest(**CELL, implementation=family.name)
        assert choose_family(request, SmArch.SM90A) is family
        assert {spec.family for spec in choose_kernels(request, SmArch.SM90A)} == {family.name, COMMON}
        assert refusals(request, family.name).reasons == ("the request names it",)


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
