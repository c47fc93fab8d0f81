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
        descale: a scalar for the whole array, or [heads].

    Raises:
        OperandError: descale has another shape.
    """
    factor = np.asarray(descale, dtype=np.float64)
    if factor.ndim > 0:
        check_same_shape("descale", factor, x.shape[-2:-1])
        factor = factor[:, None]
    return np.asarray(x.astype(np.float64) * factor)


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
    limit = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    values = x.astype(np.float64)
    # 1 for an array of zeros, or of values too small for any float32 scale to lift.
    descale = float(np.float32(np.abs(values).max(initial=0.0) / limit)) or 1.0
    # e4m3 has no infinity: past its range comes NaN, which a coarse subnormal descale could reach.
    return np.clip(values / descale, -limit, limit).astype(dtype), descale
