"""Array libraries that put values on the device and bring results back."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class ArrayLibrary(Protocol):
    """What the correctness check asks of a library.

    Attributes:
        name: the package's.
    """

    name: str

    def put(self, host: NDArray[Any]) -> Any:
        """An array on the device with the same values, the same strides, and the same bytes around them.

        Its type is the host's, or another of the same size where the library has no such type.
        """

    def get(self, array: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A copy on the host, of a type that its bytes have."""

    def scribble(self, elements: int) -> None:
        """Fill memory that is free at this moment with NaN."""


class TorchArrays:
    """PyTorch."""

    name = "torch"

    def __init__(self, device: str) -> None:
        self._torch = import_torch()
        self._device = device

    def put(self, host: NDArray[Any]) -> Any:
        """A tensor with the host's values, strides and bytes around them."""
        memory, offset = _memory(host)
        tensor = self._torch.from_numpy(memory).to(self._device).view(getattr(self._torch, host.dtype.name))
        strides = [stride // host.itemsize for stride in host.strides]
        return tensor.as_strided(host.shape, strides, offset // host.itemsize)

    def get(self, array: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A copy on the host."""
        bits = {1: self._torch.uint8, 2: self._torch.int16, 4: self._torch.int32}[dtype.itemsize]
        found: NDArray[Any] = array.view(bits).contiguous().cpu().numpy()
        return found.view(dtype)

    def scribble(self, elements: int) -> None:
        """Fill memory that is free at this moment with NaN."""
        self._torch.full((elements,), float("nan"), device=self._device)


class CupyArrays:
    """CuPy."""

    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def put(self, host: NDArray[Any]) -> Any:
        """An array with the host's values, strides and bytes around them."""
        memory, offset = _memory(host)
        pointer = self._cupy.asarray(memory).data + offset
        return self._cupy.ndarray(
            host.shape, _known_to_numpy(host.dtype), memptr=pointer, strides=host.strides
        )

    def get(self, array: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A copy on the host."""
        return np.ascontiguousarray(self._cupy.asnumpy(array)).view(dtype)

    def scribble(self, elements: int) -> None:
        """Fill memory that is free at this moment with NaN."""
        self._cupy.full((elements,), float("nan"), "float32")


def _memory(host: NDArray[Any]) -> tuple[Bytes, int]:
    """A copy of the whole memory that an array lies in, and where in it the array begins."""
    owner = host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    offset = host.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return np.array(owner.ravel(order="K").view(np.uint8)), offset


def _known_to_numpy(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type itself, or one of NumPy's own of the same size for those of ml_dtypes."""
    return dtype if dtype.isbuiltin == 1 else np.dtype({1: "uint8", 2: "float16"}[dtype.itemsize])


def import_torch() -> Any:
    """PyTorch, untyped: its annotations differ between versions, and it may not be installed at all."""
    import torch

    return torch


def device_library() -> ArrayLibrary | None:
    """PyTorch if it is installed and sees the device, else CuPy, else None."""
    try:
        if import_torch().cuda.is_available():
            return TorchArrays("cuda:0")
    except ImportError:
        pass
    try:
        import cupy
    except ImportError:
        return None
    return CupyArrays(cupy)
