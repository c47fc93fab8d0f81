"""What the choice of an implementation starts from."""

import pytest

from flashactor import DType, registry
from flashactor.kernels.select import IMPLEMENTATIONS


@pytest.fixture
def nothing_activated():
    """No implementation is activated, before a test and after it."""
    registry.restore()
    yield
    registry.restore()


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
