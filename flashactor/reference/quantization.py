"""fp8 with scales: x ≈ quantized · descale (arXiv:2209.05433)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor.reference.operands import check_same_shape
from flashactor.types import DType


def dequantize(x: NDArray[Any], descale: float | NDArray[Any]) -> NDArray[np.float64]:
    """The float64 values that a scaled array stands for.

    Args:
        x: [..., heads, head_dim], any float type.
        descale: one value for the whole array (a scalar or an array of one element), or [heads].

    Raises:
        OperandError: descale has another shape.
    """
    return np.asarray(x.astype(np.float64) * scale_per_head(descale, x))


def scale_per_head(scale: float | NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    """A scale, one value or [heads], in float64 as it broadcasts to x [..., heads, head_dim].

    Raises:
        OperandError: scale has another shape.
    """
    factor = np.asarray(scale, dtype=np.float64)
    if factor.size == 1:
        return factor.reshape(())
    check_same_shape("descale", factor, x.shape[-2:-1])
    return factor[:, None]


def store_as(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round to a type; to an fp8 type saturated, for past its range e4m3 has NaN and no infinity."""
    if dtype.itemsize == 1:
        limit = _largest(dtype)
        values = np.clip(values, -limit, limit)
    return values.astype(dtype)


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy type of an element type; importing ml_dtypes is what makes NumPy know the name."""
    return np.dtype(dtype.numpy_name)


def quantize(x: NDArray[Any], dtype_name: str) -> tuple[NDArray[Any], float]:
    """Scale an array to the full range of a type and round it, for tests and examples.

    Args:
        x: any shape and float type.
        dtype_name: a type as `DType.parse` takes it, such as ``e4m3`` or ``float8_e5m2``.

    Returns:
        The rounded array and its descale, a float32 value, for `dequantize`.

    Raises:
        RequestError: the name is none of the known types.
    """
    dtype = numpy_dtype(DType.parse(dtype_name))
    values = x.astype(np.float64)
    # 1 for an array of zeros, or of values too small for any float32 scale to lift.
    descale = float(np.float32(np.abs(values).max(initial=0.0) / _largest(dtype))) or 1.0
    # A coarse subnormal descale could lead past the range.
    return store_as(values / descale, dtype), descale


def _largest(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
