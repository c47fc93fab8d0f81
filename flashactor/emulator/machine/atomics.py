"""What an atomic operation makes of two values (PTX ISA, atom)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator import halves, numeric
from flashactor.emulator.ptx.types import HALVES, NUMPY

Array = NDArray[Any]


def atomic_result(
    operation: str, type_: str, old: Array, value: Array, other: Array | None, is_flushed: bool = False
) -> Array:
    """What an atomic leaves in memory; all in the unsigned type of the width."""
    stored = old.dtype
    if operation == "exch":
        return np.asarray(value)
    if operation == "cas":
        assert other is not None
        return np.asarray(np.where(old == value, other, old))
    if operation == "inc":
        return np.asarray(np.where(old >= value, stored.type(0), old + stored.type(1)))
    if operation == "dec":
        return np.where((old == 0) | (old > value), value, old - stored.type(1))
    if operation in ("and", "or", "xor"):
        return np.asarray(
            {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[operation](old, value)
        )
    if type_ in HALVES:
        return halves.compute(operation, type_, old, value)
    typed_old, typed_value = old.view(NUMPY[type_]), value.view(NUMPY[type_])
    if is_flushed:
        total = numeric.flush(numeric.flush(typed_old) + numeric.flush(typed_value))
        return np.asarray(total).view(stored)
    function: Any = {"add": np.add, "min": np.minimum, "max": np.maximum}[operation]
    return np.asarray(function(typed_old, typed_value)).view(stored)
