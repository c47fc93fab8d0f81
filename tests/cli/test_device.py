"""Arrays of files go to a device and back without a change; the device here is the CPU."""

import ml_dtypes
import numpy as np
import pytest

from flashactor.cli import device
from flashactor.errors import RequestError


@pytest.mark.parametrize(
    "dtype",
    [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float32, np.int32],
    ids=lambda t: np.dtype(t).name,
)
def test_there_and_back(dtype):
    array = np.linspace(-3, 3, 24).reshape(2, 3, 4).astype(dtype)[:, ::2]
    tensor = device.to_device(array, "cpu")
    assert str(tensor.dtype) == f"torch.{np.dtype(dtype).name}"
    assert tuple(tensor.shape) == array.shape
    back = device.from_device(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_without_torch_the_remedy_is_to_install_it(monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'flashactor\[torch\]'"):
        device.require_torch()
