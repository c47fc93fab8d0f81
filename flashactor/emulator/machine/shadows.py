"""Memory as elements of several sizes, and the shadow bytes that say what may be done with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

UNWRITTEN, READY, IN_FLIGHT = 0, 1, 2
"""Shadow of a byte of shared memory."""

UNIT = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
REPEAT = {1: 0x01, 2: 0x0101, 4: 0x01010101, 8: 0x0101010101010101}


def units(buffer: Array) -> dict[int, Array]:
    """A byte buffer, of a multiple of 16 bytes, as elements of each power of two up to 16 bytes."""
    return {size: buffer.view(code) for size, code in UNIT.items()}


def shift_of(size: int) -> int:
    """By how much an offset is shifted to index elements of a size, a power of two."""
    return size.bit_length() - 1


def all_are(shadow: dict[int, Array], index: Array, size: int, value: int) -> Array:
    """Which elements have this shadow in all their bytes."""
    if size == 16:
        pairs = shadow[8].reshape(-1, 2)[index]
        return np.asarray((pairs == np.uint64(REPEAT[8] * value)).all(-1))
    return np.asarray(shadow[size][index] == REPEAT[size] * value)


def have_bits(shadow: dict[int, Array], index: Array, size: int, bits: int) -> Array:
    """Which elements have these bits in the shadows of all their bytes."""
    if size == 16:
        wanted = np.uint64(REPEAT[8] * bits)
        return np.asarray((shadow[8].reshape(-1, 2)[index] & wanted == wanted).all(-1))
    wanted = shadow[size].dtype.type(REPEAT[size] * bits)
    return np.asarray(shadow[size][index] & wanted == wanted)
