"""One launch: the grid has one dimension, and what no device has is refused."""

import pytest

from flashactor import DType, SmArch
from flashactor.errors import LaunchError
from flashactor.kernels.launch import MAX_GRID_X, launch
from flashactor.kernels.sm80 import forward_spec

SPEC = forward_spec(SmArch.SM80, DType.BF16, 64)


def test_block_and_shared_memory_are_the_specs():
    step = launch(SPEC, 7, b"bytes")
    assert (step.spec, step.grid, step.block) == (SPEC, (7, 1, 1), (SPEC.threads, 1, 1))
    assert (step.shared_bytes, step.params) == (SPEC.shared_bytes, b"bytes")


def test_more_than_65535_blocks_are_no_matter():
    assert launch(SPEC, MAX_GRID_X, b"").grid == (2**31 - 1, 1, 1)


def test_a_grid_that_no_device_has():
    with pytest.raises(LaunchError, match="split the batch") as caught:
        launch(SPEC, MAX_GRID_X + 1, b"")
    assert SPEC.label in caught.value.got
