"""No array that is written shares memory with another one of its request, or with itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import mul
from typing import Any

from flashactor.arrays import ITEM_SIZES, ArrayView
from flashactor.errors import OperandError

MAX_WORK = 10_000
"""Steps in which NumPy decides whether interleaved arrays share an element; harder ones count as apart."""


def check_written(
    arrays: Mapping[str, ArrayView],
    writes: Collection[str],
    in_place: Collection[tuple[str, str]] = (),
) -> None:
    """Check the arrays of a request by their addresses; their memory is not touched.

    Args:
        arrays: all arrays of the request.
        writes: names of those that are written, where they are there.
        in_place: pairs (written, read) that may be one array, with equal strides.

    Raises:
        OperandError: an array that is written has elements in common with another, or with itself.
    """
    written = {name: arrays[name] for name in writes if name in arrays and arrays[name].writable}
    if not written:  # a bare cell has read-only placeholders at most
        return
    extents = {name: _extent(view) for name, view in arrays.items() if 0 not in view.shape}
    for name in written.keys() & extents.keys():
        _check_itself(name, written[name])
    reached = 0
    for low, high in sorted(extents.values()):
        if low < reached:
            break
        reached = high
    else:
        return  # as nearly always: each array is of its own
    for name, view in written.items():
        low, high = extents.pop(name, (0, 0))
        for other, (other_low, other_high) in extents.items():
            if low >= other_high or other_low >= high or not _share(view, arrays[other]):
                continue
            if (name, other) in in_place and _is_same(view, arrays[other]):
                continue
            raise OperandError(
                field=name,
                got=f"memory that {other} shares",
                expected="memory of its own, for it is written",
                remedy=f"allocate {name} apart from {other}",
            )


def _extent(view: ArrayView) -> tuple[int, int]:
    """The addresses of the first byte and behind the last one; the array has an element."""
    strides, itemsize = view.strides, ITEM_SIZES[view.dtype]
    reach, back = sum(map(mul, view.shape, strides)) - sum(strides), 0
    if min(strides, default=0) < 0:
        back = sum((n - 1) * s for n, s in zip(view.shape, strides, strict=True) if s < 0)
    return view.pointer + back * itemsize, view.pointer + (reach - back + 1) * itemsize


def _check_itself(name: str, view: ArrayView) -> None:
    if _is_nested(zip(reversed(view.strides), reversed(view.shape), strict=True)):
        return
    if not _is_nested(sorted(zip(map(abs, view.strides), view.shape, strict=True))):
        raise OperandError(
            field=f"{name}.strides",
            got=f"{view.strides} for shape {view.shape}: elements that share memory",
            expected="one address for each element that is written",
            remedy=f"pass {name} as an array of its own",
        )


def _is_nested(dims: Iterable[tuple[int, int]]) -> bool:
    """Whether each (stride, extent) steps over all that the one before reaches."""
    reach = 1
    for stride, count in dims:
        if count > 1:
            if stride < reach:
                return False
            reach = stride * count
    return True


class _Memory:
    """Strided memory as NumPy may address it, of a device as well."""

    def __init__(self, view: ArrayView) -> None:
        size = view.itemsize
        self.__array_interface__ = {
            "version": 3,
            "typestr": f"|V{size}",
            "data": (view.pointer, True),
            "shape": view.shape,
            "strides": tuple(stride * size for stride in view.strides),
        }


def _share(a: ArrayView, b: ArrayView) -> bool:
    import numpy as np

    shares_memory: Any = np.shares_memory  # its stub knows only two values of max_work
    try:
        return bool(shares_memory(np.asarray(_Memory(a)), np.asarray(_Memory(b)), max_work=MAX_WORK))
    except np.exceptions.TooHardError:
        return False


def _is_same(a: ArrayView, b: ArrayView) -> bool:
    return (a.pointer, a.shape, a.strides) == (b.pointer, b.shape, b.strides)
