"""Outputs that the caller did not provide, allocated by the library that the inputs came from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from flashactor.arrays import ArrayView
from flashactor.errors import OperandError


def allocate(like: ArrayView, shape: Sequence[int], dtype: str) -> Any:
    """An uninitialised, contiguous array of ``like``'s library on ``like``'s device.

    Args:
        like: an operand of the request.
        shape: extent of each dimension.
        dtype: NumPy's name of the element type.

    Raises:
        OperandError: the library is not one that can be asked.
    """
    allocator = _ALLOCATORS.get(like.library)
    if allocator is None:
        raise OperandError(
            field="out",
            got=f"no array, and inputs of the library {like.library!r}",
            expected="inputs of " + ", ".join(sorted(_ALLOCATORS)),
            remedy="pass out= and lse= (or dq=, dk=, dv=) of your own",
        )
    return allocator(like, tuple(shape), dtype)


def _numpy(like: ArrayView, shape: tuple[int, ...], dtype: str) -> Any:
    import ml_dtypes
    import numpy as np

    return np.empty(shape, np.dtype(getattr(ml_dtypes, dtype, dtype)))


def _torch(like: ArrayView, shape: tuple[int, ...], dtype: str) -> Any:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype), device=like.array.device)


def _cupy(like: ArrayView, shape: tuple[int, ...], dtype: str) -> Any:
    import ml_dtypes
    import numpy as np

    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(like.device.ordinal):
        return cupy.empty(shape, np.dtype(getattr(ml_dtypes, dtype, dtype)))


def _jax(like: ArrayView, shape: tuple[int, ...], dtype: str) -> Any:
    # jax arrays are immutable to their users; this one has no user yet, so a kernel may fill it.
    jax = sys.modules["jax"]
    return jax.numpy.empty(shape, dtype, device=like.array.device).block_until_ready()


_ALLOCATORS: dict[str, Callable[[ArrayView, tuple[int, ...], str], Any]] = {
    "numpy": _numpy,
    "torch": _torch,
    "cupy": _cupy,
    "jaxlib": _jax,
}
