"""Conditions on requests."""

import pytest
from kit_tools import BACKWARD, LARGE, SMALL, work_of

from flashactor import DType, Fa2BwdRequest, Fa2FwdRequest, MaskKind, SmArch
from flashactor.errors import RequestError
from flashactor.testing import matching
from flashactor.types import Direction

REQUESTS = {"small": SMALL, "large": LARGE, "backward": BACKWARD}

CASES = [
    (matching(), {"small", "large", "backward"}, "anything"),
    (matching(Fa2FwdRequest), {"small", "large"}, "Fa2FwdRequest"),
    (matching(Fa2BwdRequest), {"backward"}, "Fa2BwdRequest"),
    (matching(direction=Direction.BACKWARD), {"backward"}, "direction=BACKWARD"),
    (matching(head_dim=64), {"small", "backward"}, "head_dim=64"),
    (matching(head_dim=64, causal=True), {"small"}, "head_dim=64, causal=True"),
    (matching(dtype=DType.F16), {"large"}, "dtype=F16"),
    (matching(arch=SmArch.SM90A), {"large"}, "arch=SM90A"),
    (matching(softcap=30.0), {"large"}, "softcap=30.0"),
    (matching(mask=MaskKind.causal()), {"small"}, f"mask={MaskKind.causal()!r}"),
    (matching(kernel="*fa3*"), {"large"}, "kernel='*fa3*'"),
    (
        matching(Fa2FwdRequest, head_dim=128, dtype=DType.BF16),
        set(),
        "Fa2FwdRequest, head_dim=128, dtype=BF16",
    ),
]


@pytest.mark.parametrize(("condition", "names", "text"), CASES, ids=[case[2] for case in CASES])
def test_what_fits_and_how_it_is_spelled(condition, names, text):
    assert {name for name, request in REQUESTS.items() if condition(work_of(request))} == names
    assert str(condition) == text


def test_a_field_that_does_not_exist_is_refused():
    with pytest.raises(RequestError, match="head_dims: got a field that neither"):
        matching(head_dims=64)


@pytest.mark.parametrize("wrong", [SMALL, int, "Fa2FwdRequest"])
def test_a_type_that_is_no_requests_is_refused(wrong):
    with pytest.raises(RequestError, match=r"request: got .*; expected a type of request"):
        matching(wrong)
