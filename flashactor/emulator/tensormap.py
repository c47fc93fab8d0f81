"""Tensor maps: what a bulk tensor copy needs to know, in 128 bytes of the emulator's own.

The driver's encoding is not documented. A kernel treats a map as opaque, so any encoding that its executor
understands will do; ``encode_tiled`` takes what cuTensorMapEncodeTiled takes, and refuses what it refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.errors import LaunchError

BYTES = 128
_MAGIC = b"FATMAP01"
_LAYOUT = "<8sBBBBIQ5I4Q5H5B"


class Swizzle(Enum):
    """How 16-byte chunks are permuted in shared memory: the bytes of a row that the pattern spans."""

    NONE = 0
    B32 = 32
    B64 = 64
    B128 = 128

    def apply(self, address: NDArray[Any]) -> NDArray[Any]:
        """Shared addresses, permuted: bits 7 to 9 go, by xor, onto bits 4 to 6 (as far as the span)."""
        mask = {0: 0, 32: 1, 64: 3, 128: 7}[self.value]
        return np.asarray(address ^ ((address >> 7 & mask) << 4))


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A tensor in global memory and the box that a copy moves; dimension 0 is the innermost.

    Attributes:
        address: of the tensor.
        item_bytes: bytes of an element.
        is_float32: whether elements are float32, for reductions and the NaN fill.
        dims: extents in elements.
        strides: bytes between elements of dimensions 1 and up.
        box: extents of the box.
        element_strides: steps within the box.
        swizzle: the permutation in shared memory.
        fills_nan: whether elements outside of the tensor read as NaN; else as 0.
    """

    address: int
    item_bytes: int
    is_float32: bool
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...]
    swizzle: Swizzle
    fills_nan: bool

    @property
    def box_items(self) -> tuple[int, ...]:
        """Elements of the box in each dimension that are moved."""
        return tuple(-(-extent // step) for extent, step in zip(self.box, self.element_strides, strict=True))

    @property
    def box_bytes(self) -> int:
        """Bytes of the box in shared memory."""
        total = self.item_bytes
        for extent in self.box_items:
            total *= extent
        return total


_TYPES = {
    "uint8": (0, 1), "uint16": (1, 2), "uint32": (2, 4), "int32": (3, 4), "uint64": (4, 8), "int64": (5, 8),
    "float16": (6, 2), "float32": (7, 4), "float64": (8, 8), "bfloat16": (9, 2),
}  # fmt: skip
_BY_CODE = {code: (name, size) for name, (code, size) in _TYPES.items()}


def encode_tiled(
    dtype: str,
    address: int,
    dims: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    *,
    element_strides: Sequence[int] | None = None,
    swizzle: Swizzle = Swizzle.NONE,
    fills_nan: bool = False,
) -> bytes:
    """A tensor map, as cuTensorMapEncodeTiled would make it without interleave.

    Args:
        dtype: element type: ``bfloat16``, ``float16``, ``float32``, ``uint8`` (also fp8), ...
        address: of the tensor, a multiple of 16.
        dims: extents, innermost first; 1 to 5 of them.
        strides: bytes between elements of dimensions 1 and up: multiples of 16.
        box: extents of the box, each at most 256; its inner dimension has a multiple of 16 bytes, and with a
            swizzle exactly its span.
        element_strides: steps within the box, 1 to 8 (default: 1); as in the driver, that of dimension 0 is
            ignored.
        swizzle: the permutation in shared memory.
        fills_nan: whether elements outside of the tensor read as NaN.

    Raises:
        LaunchError: what the driver refuses with CUDA_ERROR_INVALID_VALUE.
    """
    steps = tuple(element_strides or (1,) * len(dims))
    if dtype not in _TYPES:
        raise _refusal("dtype", dtype, "one of " + ", ".join(_TYPES))
    code, size = _TYPES[dtype]
    rank = len(dims)
    if not 1 <= rank <= 5 or len(box) != rank or len(strides) != rank - 1 or len(steps) != rank:
        raise _refusal("rank", rank, "1 to 5 dimensions, as many box extents, one stride fewer")
    if not address or address % 16:
        raise _refusal("address", hex(address), "a multiple of 16 that is not 0")
    if any(not 0 < extent <= 1 << 32 for extent in dims):
        raise _refusal("dims", tuple(dims), "extents from 1 to 2**32")
    if any(stride % 16 or not 0 <= stride < 1 << 40 for stride in strides):
        raise _refusal("strides", tuple(strides), "multiples of 16 below 2**40")
    if any(not 0 < extent <= 256 for extent in box):
        raise _refusal("box", tuple(box), "extents from 1 to 256")
    if any(not 1 <= step <= 8 for step in steps):
        raise _refusal("element_strides", steps, "steps from 1 to 8")
    steps = (1, *steps[1:])
    inner = box[0] * size
    if inner % 16:
        raise _refusal("box", tuple(box), "an inner dimension of a multiple of 16 bytes")
    if swizzle is not Swizzle.NONE and inner != swizzle.value:
        # The driver takes less too, and then pads rows in shared memory: nothing in the emulator needs that.
        raise _refusal("box", tuple(box), f"an inner dimension of {swizzle.value} bytes")
    if fills_nan and "float" not in dtype:
        raise _refusal("fills_nan", dtype, "a floating-point type")
    packed = struct.pack(
        _LAYOUT, _MAGIC, code, rank, swizzle.value, int(fills_nan), 0, address,
        *_padded([extent - 1 for extent in dims], 5), *_padded(strides, 4),
        *_padded(box, 5), *_padded(steps, 5),
    )  # fmt: skip
    return packed.ljust(BYTES, b"\0")


def decode(data: bytes) -> TensorMap | None:
    """The map that ``encode_tiled`` made, or None for other bytes."""
    if len(data) != BYTES or data[:8] != _MAGIC:
        return None
    fields = struct.unpack_from(_LAYOUT, data)
    _, code, rank, swizzle, nan, _, address = fields[:7]
    name, size = _BY_CODE[code]
    return TensorMap(
        address=address,
        item_bytes=size,
        is_float32=name == "float32",
        dims=tuple(extent + 1 for extent in fields[7 : 7 + rank]),
        strides=fields[12 : 12 + rank - 1],
        box=fields[16 : 16 + rank],
        element_strides=fields[21 : 21 + rank],
        swizzle=Swizzle(swizzle),
        fills_nan=bool(nan),
    )


def _padded(values: Sequence[int], count: int) -> list[int]:
    return [*values, *([0] * (count - len(values)))]


def _refusal(field: str, got: object, expected: str) -> LaunchError:
    return LaunchError(
        field=f"tensor map {field}", got=got, expected=expected, remedy="see cuTensorMapEncodeTiled"
    )
