"""Moving the arrays of ``flashactor attend`` to a device and back, through torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor.cli.options import reject

# torch does not know ml_dtypes' types, so 16-bit and 8-bit elements travel as integers of their size.
_CARRIERS = {1: np.uint8, 2: np.int16}


def require_torch() -> None:
    """Raises RequestError unless torch, which moves the arrays, is installed."""
    if not has_torch():
        raise reject(
            "--executor",
            "cuda without torch",
            "torch, which moves the arrays of files to the device",
            "pip install 'flashactor[torch]'",
        )


def has_torch() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None


def to_device(array: NDArray[Any], device: str) -> Any:
    """A torch tensor on a device with the array's elements."""
    import torch

    carrier = _CARRIERS.get(array.itemsize, array.dtype.type)
    tensor = torch.from_numpy(np.ascontiguousarray(array).view(carrier))
    return tensor.view(getattr(torch, array.dtype.name)).to(device)


def from_device(tensor: Any) -> NDArray[Any]:
    """A NumPy array with the elements of a torch tensor on any device."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    carrier = {1: torch.uint8, 2: torch.int16}.get(dtype.itemsize, tensor.dtype)
    carried: NDArray[Any] = tensor.cpu().view(carrier).numpy()
    return carried.view(dtype)
