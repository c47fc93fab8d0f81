"""Requests of host arrays become requests of device arrays, and their results come back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_check.libraries import ArrayLibrary
from flashactor.arrays import ArrayView
from flashactor.requests import AttentionRequest

Request = TypeVar("Request", bound=AttentionRequest)


def on_device(request: Request, library: ArrayLibrary) -> Request:
    """The same request, with a copy of each array on the device, in memory of the same order."""
    moved: Request = _moved(request, library)
    return moved


def fetched(
    request: AttentionRequest, names: Iterable[str], library: ArrayLibrary
) -> dict[str, NDArray[Any]]:
    """Copies of some of a request's arrays on the host."""
    arrays = request.arrays()
    return {name: to_host(arrays[name], library) for name in names}


def to_host(view: ArrayView, library: ArrayLibrary) -> NDArray[Any]:
    """A copy of an array on the host."""
    return library.get(view.array, np.dtype(getattr(ml_dtypes, view.dtype, view.dtype)))


def _moved(value: Any, library: ArrayLibrary) -> Any:
    if isinstance(value, ArrayView):
        # The library may know the type only as another of its size.
        return replace(ArrayView.of(library.put(value.to_numpy()), "array"), dtype=value.dtype)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes = {}
    for field in fields(value):
        before = getattr(value, field.name)
        if field.init and (after := _moved(before, library)) is not before:
            changes[field.name] = after
    return replace(value, **changes) if changes else value
