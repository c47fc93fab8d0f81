"""Device memory: one buffer with red zones, in which every byte knows whether it may be touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import LaunchError, UninitializedReadError

BASE = 0x7F00_0000_0000
"""Address of the buffer's first byte, where CUDA's allocator hands out addresses too."""

RED_ZONE = 256
ALIGNMENT = 256

LARGEST_SHARE = 16
"""A view brings the whole array that it belongs to, if that is at most so many times as large."""

VALID, WRITTEN, READ_ONLY = 1, 2, 4
"""Bits of the shadow: belongs to an array's element; has a value; must not be written."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """An array in device memory.

    Attributes:
        name: what messages call it.
        address: of the element with all indices 0.
        start, stop: the bytes that it spans, as offsets in the buffer.
        array: the caller's array.
        is_read_only: whether a store to it is a fault.
    """

    name: str
    address: int
    start: int
    stop: int
    array: NDArray[Any]
    is_read_only: bool


class Memory:
    """Device memory for one or more launches.

    An array keeps its strides: bytes between its elements stay outside of it, so that a kernel which reads
    the padding of a strided view is caught.
    """

    def __init__(self) -> None:
        self.allocations: list[Allocation] = []
        self.buffer = np.zeros(4096, np.uint8)
        self.shadow = np.zeros(4096, np.uint8)
        self.top = RED_ZONE
        # Host address ranges that have a place here, and the offset of each: views of one buffer share it.
        self._regions: list[tuple[int, int, int]] = []

    def add(
        self, array: NDArray[Any], name: str = "array", *, written: bool = True, read_only: bool = False
    ) -> int:
        """Place a copy of an array, of any strides, and return the address of its first element.

        Views of one NumPy array share their memory here too, as they do on a device.

        Args:
            array: the contents; with ``copy_back``, also where results go.
            name: what messages call it.
            written: whether the contents count as initialised; False for an output.
            read_only: whether a store to it is a fault, unless another view may be written.

        Raises:
            LaunchError: an element type that a kernel cannot have, or an array that overlaps another one of
                which it is no view.
        """
        _check_array(array, name)
        low, high = _span(array)
        start = self._place(array, low, high, name)
        data, shadow = self._views(array, start)
        data[...] = array
        before = shadow.copy()
        after = VALID | (WRITTEN if written else 0) | (READ_ONLY if read_only else 0)
        # Where views share elements, what one of them allows is allowed.
        shared = before & VALID != 0
        either = (before | after) & (VALID | WRITTEN) | (before & after & READ_ONLY)
        shadow[...] = np.where(shared, either, after)
        address = BASE + start
        self.allocations.append(Allocation(name, address, start + low, start + high, array, read_only))
        return address

    def add_bytes(self, data: bytes, name: str, *, read_only: bool = False) -> int:
        """Place raw bytes, such as a module's variables, and return their address."""
        return self.add(np.frombuffer(data, np.uint8), name, read_only=read_only)

    def copy_back(self) -> None:
        """Copy what kernels wrote into the callers' arrays."""
        for allocation in self.allocations:
            if not allocation.is_read_only and allocation.array.flags.writeable:
                data, _ = self._views(allocation.array, allocation.address - BASE)
                allocation.array[...] = data

    def require_written(self, *names: str) -> None:
        """Require that every element of some arrays has a value.

        Raises:
            UninitializedReadError: an element that no store has reached.
        """
        for allocation in self.allocations:
            if allocation.name not in names:
                continue
            _, shadow = self._views(allocation.array, allocation.address - BASE)
            missing = (shadow & WRITTEN == 0).any(-1)
            if missing.any():
                first = tuple(int(index) for index in np.argwhere(missing)[0])
                raise UninitializedReadError(
                    field=allocation.name,
                    got=f"{int(missing.sum())} elements that the kernel never wrote, the first at {first}",
                    expected="a value in every element",
                    remedy="find out which threads should have stored it",
                )

    def describe(self, address: int) -> str:
        """Where an address lies, for messages."""
        offset = address - BASE
        for allocation in self.allocations:
            if allocation.start <= offset < allocation.stop:
                return f"inside {allocation.name}, {offset - allocation.start} bytes from its start"
        nearest = min(
            self.allocations,
            key=lambda a: min(abs(offset - a.start), abs(offset - a.stop)),
            default=None,
        )
        if nearest is None:
            return "in no array"
        if offset >= nearest.stop:
            return f"{offset - nearest.stop} bytes behind the end of {nearest.name}"
        return f"{nearest.start - offset} bytes before {nearest.name}"

    def _place(self, array: NDArray[Any], low: int, high: int, name: str) -> int:
        """The offset of an array's first element: in the region of its buffer, which may be a new one."""
        first = int(array.ctypes.data)
        begin, end = first + low, first + high
        for region_begin, region_end, offset in self._regions:
            if region_begin <= begin and end <= region_end:
                return offset + first - region_begin
            if begin < region_end and region_begin < end:
                raise LaunchError(
                    field=name,
                    got="an array that overlaps another argument",
                    expected="an array of its own, or a view of the same NumPy array",
                    remedy="pass views of one array, or a copy",
                )
        begin, end = _buffer_of(array, begin, end)
        # As cudaMalloc aligns; what is misaligned for a 16-byte access on the host stays so.
        offset = _align(self.top) + begin % 16
        self._reserve(offset + end - begin + 2 * RED_ZONE)
        self.top = offset + end - begin + RED_ZONE
        if array.size:
            self._regions.append((begin, end, offset))
        return offset + first - begin

    def _reserve(self, size: int) -> None:
        if size <= len(self.buffer):
            return
        grown = -(-max(size, 2 * len(self.buffer)) // 64) * 64
        before = [(a, self._views(a.array, a.address - BASE)) for a in self.allocations]
        self.buffer, self.shadow = np.zeros(grown, np.uint8), np.zeros(grown, np.uint8)
        # Elements alone: between those of a strided array may be gigabytes that no memory stands behind.
        for allocation, old in before:
            for target, source in zip(
                self._views(allocation.array, allocation.address - BASE), old, strict=True
            ):
                target[...] = source

    def _views(self, array: NDArray[Any], start: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """The array's elements in the buffer, and their bytes' shadows with one more axis."""
        data = np.ndarray(array.shape, array.dtype, self.buffer, start, array.strides)
        shadow = np.ndarray((*array.shape, array.itemsize), np.uint8, self.shadow, start, (*array.strides, 1))
        return data, shadow


def _span(array: NDArray[Any]) -> tuple[int, int]:
    """The bytes that an array covers, relative to its element with all indices 0."""
    if not array.size:
        return 0, 0
    reaches = [(extent - 1) * stride for extent, stride in zip(array.shape, array.strides, strict=True)]
    return sum(min(reach, 0) for reach in reaches), sum(max(reach, 0) for reach in reaches) + array.itemsize


def _buffer_of(array: NDArray[Any], begin: int, end: int) -> tuple[int, int]:
    """The host addresses of the array that this one is a view of, unless that is far larger."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    low, high = _span(root)
    first = int(root.ctypes.data)
    if high - low > LARGEST_SHARE * (end - begin) + 2**20:
        return begin, end
    return min(begin, first + low), max(end, first + high)


def _check_array(array: object, name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise LaunchError(
            field=name,
            got=type(array).__name__,
            expected="a NumPy array",
            remedy="convert it with np.asarray",
        )
    dtype = array.dtype
    if dtype.hasobject or not dtype.isnative or dtype.kind in "USmMO":
        raise LaunchError(
            field=name,
            got=f"elements of type {dtype.str}",
            expected="numbers in this machine's byte order",
            remedy="convert it with astype",
        )


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
