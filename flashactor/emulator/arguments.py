"""A launch's arguments: checked, and turned into the kernel's parameter memory."""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.arena import Memory
from flashactor.emulator.ptx.module import Entry
from flashactor.errors import LaunchError

Extents = int | Sequence[int]
Argument = Any

EXTENT_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
"""The most in x, y and z (CUDA C++ Programming Guide, compute capabilities)."""

MAX_SHARED_BYTES = 227 * 1024
"""The most shared memory that a block may have on any architecture."""


@dataclass(frozen=True, slots=True)
class Output:
    """An array argument that the kernel must write before it may read it."""

    array: NDArray[Any]


def check_options(ptx: object, entry: object, memory: object, **numbers: object) -> None:
    """Require options of the right types and within their ranges.

    Raises:
        LaunchError: the first that is not.
    """
    for name, value, wanted, what in (
        ("ptx", ptx, str, "PTX text"),
        ("entry", entry, str, "the name of a kernel"),
        ("memory", memory, Memory | None, "an emulator.Memory, or None"),
    ):
        if not isinstance(value, wanted):
            raise LaunchError(field=name, got=type(value).__name__, expected=what, remedy=f"pass {what}")
    limits = {"shared": MAX_SHARED_BYTES}
    for name, number in numbers.items():
        limit = limits.get(name, 2**63 - 1)
        if not isinstance(number, int | np.integer) or not 0 <= number <= limit:
            raise LaunchError(
                field=name,
                got=repr(number),
                expected=f"a whole number from 0 to {limit}",
                remedy="pass one in this range",
            )


def extents_of(value: Extents, name: str) -> tuple[int, int, int]:
    """One to three extents as three.

    Raises:
        LaunchError: they are no positive integers.
    """
    try:
        extents = [operator.index(extent) for extent in (value if isinstance(value, Sequence) else (value,))]
    except TypeError:
        extents = []
    if not 1 <= len(extents) <= 3 or any(extent < 1 for extent in extents):
        raise LaunchError(
            field=name,
            got=repr(value),
            expected="one to three positive integers",
            remedy="pass a tuple such as (8, 1, 1)",
        )
    x, y, z = (*extents, 1, 1)[:3]
    if any(extent > limit for extent, limit in zip((x, y, z), EXTENT_LIMITS[name], strict=True)):
        raise LaunchError(
            field=name,
            got=repr(value),
            expected=f"at most {EXTENT_LIMITS[name]}, as on a device",
            remedy="spread the extents differently over x, y and z",
        )
    return x, y, z


def check_block(entry: Entry, block: tuple[int, int, int]) -> None:
    """Require a block that the kernel was compiled for.

    Raises:
        LaunchError: it has too many threads, or not exactly as many as the kernel requires.
    """
    threads = block[0] * block[1] * block[2]
    limit = entry.threads_limit or 1024
    if threads > limit or (entry.is_limit_exact and threads != limit):
        reason = f"{entry.name} was compiled for it" if entry.threads_limit else "the most that a GPU runs"
        raise LaunchError(
            field="block",
            got=f"{threads} threads",
            expected=f"{'' if entry.is_limit_exact else 'at most '}{limit}: {reason}",
            remedy="launch blocks of that size",
        )


def parameter_bytes(entry: Entry, args: Sequence[Argument], memory: Memory) -> bytes:
    """The kernel's parameter memory; arrays are placed in device memory.

    Raises:
        LaunchError: an argument that does not fit its parameter.
    """
    count = len(args) if isinstance(args, Sequence) and not isinstance(args, str | bytes) else None
    if count != len(entry.parameters):
        raise LaunchError(
            field="args",
            got=f"{type(args).__name__}" if count is None else f"{count} arguments",
            expected=f"{len(entry.parameters)}, as {entry.name} declares",
            remedy="pass one for each parameter; a struct as bytes",
        )
    packed = bytearray(entry.parameter_bytes)
    for (name, (offset, size)), argument in zip(entry.parameters.items(), args, strict=True):
        _require_kind(name, argument, entry.parameter_types[name])
        data = _argument_bytes(name, argument, size, memory)
        if len(data) != size:
            raise LaunchError(
                field=name,
                got=f"{type(argument).__name__} of {len(data)} bytes",
                expected=f"{size} bytes",
                remedy="pass a NumPy scalar of the parameter's type, or the struct's bytes",
            )
        packed[offset : offset + size] = data
    return bytes(packed)


def _require_kind(name: str, argument: Argument, type_: str) -> None:
    """A Python float fits a float parameter alone; NumPy's scalars and bytes are taken as they are."""
    if isinstance(argument, float) and not isinstance(argument, np.generic) and type_[0] in "us":
        raise LaunchError(
            field=name,
            got=repr(argument),
            expected=f"a value of type {type_}",
            remedy="pass an int, or a NumPy scalar of the parameter's type",
        )


def _argument_bytes(name: str, argument: Argument, size: int, memory: Memory) -> bytes:
    if isinstance(argument, Output):
        if isinstance(argument.array, np.ndarray) and not argument.array.flags.writeable:
            raise LaunchError(
                field=name,
                got="an Output that is not writeable",
                expected="an array that results can be written to",
                remedy="set its writeable flag, or pass another array",
            )
        return struct.pack("<Q", memory.add(argument.array, name, written=False))
    if isinstance(argument, np.ndarray):
        return struct.pack("<Q", memory.add(argument, name, read_only=not argument.flags.writeable))
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument)
    if isinstance(argument, np.generic):
        return argument.tobytes()
    if isinstance(argument, bool | int):
        return _integer_bytes(name, int(argument), size)
    if isinstance(argument, float) and size in (4, 8):
        with np.errstate(over="ignore"):
            return (np.float32 if size == 4 else np.float64)(argument).tobytes()
    raise LaunchError(
        field=name,
        got=type(argument).__name__,
        expected="an array, an Output, a number or bytes",
        remedy="convert it with NumPy",
    )


def _integer_bytes(name: str, value: int, size: int) -> bytes:
    bits = 8 * size
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise LaunchError(
            field=name, got=value, expected=f"a number of {bits} bits", remedy="pass one that fits"
        )
    return (value & ((1 << bits) - 1)).to_bytes(size, "little")
