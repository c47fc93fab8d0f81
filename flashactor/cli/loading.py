"""Reading arrays for ``flashactor attend``: three .npy files, or one .npz or .safetensors file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor.array_checks import VECTOR_BYTES
from flashactor.cli.options import reject
from flashactor.errors import OperandError
from flashactor.types import DType

Array = NDArray[Any]

NAMES = ("q", "k", "v", "alibi_slopes", "sink_logits", "softmax_scale", "cu_seqlens_q", "cu_seqlens_k")
"""Arrays that ``attend`` takes from a file; what else an .npz file holds is not read."""


def load_arrays(paths: list[Path]) -> dict[str, Array]:
    """The arrays by name: q, k and v, and what else the one file holds.

    Raises:
        RequestError: a file that is missing or is not what its name says; OSError: it cannot be read.
    """
    if len(paths) == 3:
        return dict(zip("qkv", (load_npy(path) for path in paths), strict=True))
    if len(paths) != 1:
        raise reject("files", len(paths), "three .npy files, or one .npz or .safetensors", "pass q, k and v")
    return _load_container(paths[0])


def load_npy(path: Path) -> Array:
    """One array from a .npy file; never unpickles.

    Raises:
        RequestError: not a .npy file of numbers.
    """
    _require_file(path)
    try:
        with path.open("rb") as file:  # np.load would leave a file open that it cannot read
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, "a .npy file of numbers", error) from error
    if not isinstance(array, np.ndarray):
        raise reject(str(path), "several arrays", "one array in a .npy file", "pass the .npz file alone")
    return array


def _load_container(path: Path) -> dict[str, Array]:
    _require_file(path)
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        with path.open("rb") as file:
            container = np.load(file, allow_pickle=False)
            if isinstance(container, np.ndarray):
                raise reject(str(path), "one array", "an .npz file with q, k and v", "pass three .npy files")
            _require_operands(path, container.files)
            return {name: container[name] for name in NAMES if name in container.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, "an .npz or .safetensors file", error) from error


def _load_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(path, "a .safetensors file", error) from error
    _require_operands(path, arrays)
    return arrays


def _require_operands(path: Path, names: Collection[str]) -> None:
    missing = [name for name in "qkv" if name not in names]
    if missing:
        raise reject(
            str(path),
            "arrays " + (", ".join(sorted(names)) or "none"),
            "arrays q, k and v",
            f"store {', '.join(missing)} in the file",
        )


def _require_file(path: Path) -> None:
    if not path.exists():
        raise reject(str(path), "no such file", "a file", "check the path")
    if not path.is_file():
        raise reject(str(path), "not a regular file", "a file", "check the path")


def _unreadable(path: Path, expected: str, error: Exception) -> OperandError:
    return OperandError(
        field=str(path),
        got=f"something else, pickled, or damaged ({type(error).__name__})",
        expected=expected,
        remedy="write it again with np.save, np.savez or safetensors; pickled arrays are never read",
    )


def prepare(name: str, array: Array, dtype: DType | None) -> Array:
    """An operand as kernels take it: converted if the user said to what, and aligned.

    Raises:
        OperandError: no numbers, or a type that has to be converted, and no ``--dtype``.
    """
    _require_numbers(name, array)
    if dtype is not None and not dtype.is_fp8:
        array = array.astype(getattr(ml_dtypes, dtype.numpy_name, dtype.numpy_name), copy=False)
    elif array.dtype.name in ("float32", "float64"):
        raise OperandError(
            field=f"{name}.dtype",
            got=array.dtype.name,
            expected="float16 or bfloat16",
            remedy="pass --dtype bf16 or --dtype f16 to convert",
        )
    aligned = array.ctypes.data % VECTOR_BYTES == 0 and array.flags.c_contiguous
    return array if aligned else np.copy(array, order="C")


def prepare_vector(name: str, array: Array) -> NDArray[np.float32]:
    """Numbers of heads, as kernels take them.

    Raises:
        OperandError: no numbers, or one that is too large for float32.
    """
    _require_numbers(name, array)
    with np.errstate(over="ignore"):
        converted = np.array(array, np.float32)
    if np.any(np.isinf(converted) & (array != converted)):
        raise OperandError(
            field=name,
            got=f"{array.dtype.name} with a number beyond float32",
            expected="numbers that float32 holds",
            remedy="store the numbers as float32",
        )
    return converted


def prepare_number(name: str, array: Array) -> float:
    """The one number of an array.

    Raises:
        OperandError: no number, or several.
    """
    _require_numbers(name, array)
    if array.size != 1:
        raise OperandError(
            field=name,
            got=f"an array of shape {list(array.shape)}",
            expected="one number",
            remedy=f"store one {name} for all heads",
        )
    return float(array.reshape(()))


def prepare_offsets(name: str, array: Array) -> NDArray[np.int32]:
    """Offsets of packed sequences, as kernels take them: every value as it was.

    Raises:
        OperandError: a value that is no integer of 32 bits.
    """
    converted = array.astype(np.int32) if array.dtype.kind in "iu" else None
    if converted is None or not np.array_equal(converted, array):
        is_range = array.dtype.kind in "fiu" and array.size > 0
        values = f" from {array.min()} to {array.max()}" if is_range else ""
        raise OperandError(
            field=name,
            got=f"{array.dtype.name}{values}",
            expected="integers of 32 bits",
            remedy="store the offsets of the sequences as int32",
        )
    return converted


def _require_numbers(name: str, array: Array) -> None:
    if array.dtype.kind not in "fiu" and not hasattr(ml_dtypes, array.dtype.name):
        raise OperandError(
            field=f"{name}.dtype",
            got=array.dtype.name,
            expected="real numbers",
            remedy="store numbers; .npy and .npz files cannot hold bfloat16, but .safetensors files can",
        )
