"""Array libraries that put values on the device and bring results back."""

from __future__ import annotations

from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor.check.cases import Layout, as_logical, memory_shape
from flashactor.types import DType


class ArrayLibrary(Protocol):
    """What the correctness check asks of a library.

    Attributes:
        name: the package's.
        dtypes: element types that it has arrays of.
    """

    name: str
    dtypes: tuple[DType, ...]

    def empty(self, shape: tuple[int, ...], dtype: DType, layout: Layout) -> Any:
        """An array on the device whose memory has a layout."""

    def put(self, values: NDArray[Any], layout: Layout) -> Any:
        """An array on the device with these values."""

    def get(self, array: Any) -> NDArray[Any]:
        """A copy on the host."""

    def scribble(self, elements: int) -> None:
        """Fill memory that is free at this moment with NaN."""


class TorchArrays:
    """PyTorch, f16 and bf16."""

    name = "torch"
    dtypes: tuple[DType, ...] = (DType.F16, DType.BF16)

    def __init__(self, device: str) -> None:
        self._torch = import_torch()
        self._device = device

    def empty(self, shape: tuple[int, ...], dtype: DType, layout: Layout) -> Any:
        """A tensor whose memory has a layout."""
        kind = getattr(self._torch, dtype.numpy_name)
        tensor = self._torch.empty(memory_shape(shape, layout), dtype=kind, device=self._device)
        return as_logical(tensor, shape, layout)

    def put(self, values: NDArray[Any], layout: Layout) -> Any:
        """A tensor with these values."""
        dtype = DType.parse(values.dtype.name)
        bits = self._torch.from_numpy(np.ascontiguousarray(values).view(np.int16))
        tensor = self.empty(values.shape, dtype, layout)
        tensor.copy_(bits.view(tensor.dtype))
        return tensor

    def get(self, array: Any) -> NDArray[Any]:
        """A copy on the host."""
        host = array.contiguous().cpu()
        name = str(host.dtype).removeprefix("torch.")
        if name == "float32":
            return np.asarray(host.numpy())
        bits: NDArray[Any] = host.view(self._torch.int16).numpy()
        return bits.view(np.dtype(getattr(ml_dtypes, name, name)))

    def scribble(self, elements: int) -> None:
        """Fill memory that is free at this moment with NaN."""
        self._torch.full((elements,), float("nan"), device=self._device)


class CupyArrays:
    """CuPy, f16: it has no bf16."""

    name = "cupy"
    dtypes: tuple[DType, ...] = (DType.F16,)

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def empty(self, shape: tuple[int, ...], dtype: DType, layout: Layout) -> Any:
        """An array whose memory has a layout."""
        memory = self._cupy.empty(memory_shape(shape, layout), dtype.numpy_name)
        return as_logical(memory, shape, layout)

    def put(self, values: NDArray[Any], layout: Layout) -> Any:
        """An array with these values."""
        array = self.empty(values.shape, DType.parse(values.dtype.name), layout)
        array[...] = self._cupy.asarray(values)
        return array

    def get(self, array: Any) -> NDArray[Any]:
        """A copy on the host."""
        return np.asarray(self._cupy.asnumpy(array))

    def scribble(self, elements: int) -> None:
        """Fill memory that is free at this moment with NaN."""
        self._cupy.full((elements,), float("nan"), "float32")


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
