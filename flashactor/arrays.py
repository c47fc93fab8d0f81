"""Zero-copy views of any array library's arrays.

An ``ArrayView`` holds what a kernel needs (pointer, shape, strides) and what a check needs (dtype, device),
and keeps the array alive. It reads NumPy's array interface (with ml_dtypes' types), DLPack (torch, cupy,
jax; DLPack specification 1.1, unversioned capsules) and ``__cuda_array_interface__`` (version 3). It never
copies and never synchronises a stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from flashactor.errors import OperandError
from flashactor.streams import LEGACY_DEFAULT_STREAM, current_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ITEM_SIZES = {
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float32": 4,
    "float64": 8,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
}
"""Bytes of one element, for every type that an argument of this package may have."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where an array lives: ``cpu`` or ``cuda`` with its ordinal."""

    kind: str
    ordinal: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.ordinal}"


HOST = Device("cpu")


@dataclass(frozen=True, slots=True)
class ArrayView:
    """A strided array somewhere in memory that stays alive as long as its view.

    Attributes:
        shape: elements along each dimension.
        strides: distance between neighbours along each dimension, in elements.
        dtype: NumPy's name of the element type (``float16``, ``bfloat16``, ``int32``, ...).
        device: where ``pointer`` is valid.
        pointer: address of the first element.
        library: top-level module of the array's type (``numpy``, ``torch``, ...): it allocates outputs.
        array: the caller's own object.
        writable: whether results may be written into it.
        stream: handle of the stream that work on a device array was going to when the view was made. It is
            read on the caller's thread, since libraries keep a current stream for each thread.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: Device
    pointer: int
    library: str
    array: Any = field(repr=False, compare=False)
    writable: bool = True
    stream: int = LEGACY_DEFAULT_STREAM
    keep_alive: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, array: Any, name: str) -> ArrayView:
        """View an array of any supported library; ``name`` is the argument that errors mention.

        Raises:
            OperandError: not an array, or its type or device is not supported.
        """
        if isinstance(array, ArrayView):
            return array
        if hasattr(array, "__array_interface__"):
            return _of_numpy(array, name)
        if hasattr(array, "__dlpack__"):
            return _of_dlpack(array, name)
        if hasattr(array, "__cuda_array_interface__"):
            return _of_cuda_array_interface(array, name)
        raise OperandError(
            field=name,
            got=type(array).__name__,
            expected="an array with __dlpack__, __cuda_array_interface__ or NumPy's array interface",
            remedy="pass a numpy, torch, cupy or jax array",
        )

    @classmethod
    def imagined(cls, shape: Sequence[int], dtype: str) -> ArrayView:
        """A contiguous array to plan with: it has no memory, so its elements cannot be read."""
        return cls(tuple(shape), _compact_strides(shape), dtype, HOST, 0, "numpy", None, writable=False)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return ITEM_SIZES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def on_host(self) -> bool:
        """Whether the CPU can read it."""
        return self.device.kind == "cpu"

    def to_numpy(self) -> NDArray[Any]:
        """The same memory as a NumPy array (with ml_dtypes' types), still without a copy.

        Raises:
            OperandError: the array is not in host memory.
        """
        import ml_dtypes
        import numpy as np

        if not self.on_host:
            raise OperandError(
                field="array",
                got=f"memory of {self.device}",
                expected="host memory",
                remedy="use the cuda executor for device arrays, or copy the array to the host first",
            )
        if isinstance(self.array, np.ndarray):
            return self.array
        dtype = np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))
        if self.size == 0:
            return np.empty(self.shape, dtype)
        reach = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        before = -sum(r for r in reach if r < 0) * self.itemsize
        after = (sum(r for r in reach if r > 0) + 1) * self.itemsize
        buffer: Any = (ctypes.c_char * (before + after)).from_address(self.pointer - before)
        buffer.owner = self  # NumPy keeps the buffer, the buffer keeps the array
        strides = tuple(s * self.itemsize for s in self.strides)
        return np.ndarray(self.shape, dtype, buffer=buffer, offset=before, strides=strides)


def _compact_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def _element_strides(name: str, strides: Sequence[int], itemsize: int) -> tuple[int, ...]:
    if any(s % itemsize for s in strides):
        raise OperandError(
            field=f"{name}.strides",
            got=f"{tuple(strides)} (in bytes)",
            expected=f"multiples of the element size, {itemsize}",
            remedy=f"copy {name} into an ordinary array",
        )
    return tuple(s // itemsize for s in strides)


def _supported_dtype(name: str, dtype: str) -> str:
    if dtype not in ITEM_SIZES:
        raise OperandError(
            field=f"{name}.dtype",
            got=dtype,
            expected=" or ".join(ITEM_SIZES),
            remedy=f"convert {name} before the request",
        )
    return dtype


def _of_numpy(array: Any, name: str) -> ArrayView:
    import numpy as np

    if isinstance(array, np.ma.MaskedArray):
        raise OperandError(
            field=name,
            got="a masked array",
            expected="an array of which every element counts",
            remedy=f"pass {name}.filled(...), or say what is masked with the request's mask",
        )
    host: np.ndarray[Any, Any] = np.asarray(array)
    if not host.dtype.isnative:
        raise OperandError(
            field=f"{name}.dtype",
            got=str(host.dtype),
            expected="native byte order",
            remedy=f"convert {name} with astype(dtype.newbyteorder('='))",
        )
    dtype = _supported_dtype(name, host.dtype.name)
    return ArrayView(
        shape=host.shape,
        strides=_element_strides(name, host.strides, host.itemsize),
        dtype=dtype,
        device=HOST,
        pointer=host.__array_interface__["data"][0],
        library="numpy",
        array=host,
        writable=host.flags.writeable,
    )


class _DLTensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# DLDeviceType: kDLCPU 1, kDLCUDA 2, kDLCUDAHost 3 (pinned host memory), kDLCUDAManaged 13
_DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}
# (DLDataTypeCode, bits)
_DLPACK_DTYPES = {
    (2, 16): "float16",
    (4, 16): "bfloat16",
    (10, 8): "float8_e4m3fn",
    (12, 8): "float8_e5m2",
    (2, 32): "float32",
    (2, 64): "float64",
    (0, 32): "int32",
    (0, 64): "int64",
    (1, 8): "uint8",
}
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def _of_dlpack(array: Any, name: str) -> ArrayView:
    # A tensor that requires grad refuses to export itself; its detached alias shares the memory.
    exporter = array.detach() if getattr(array, "requires_grad", False) else array
    try:
        device_type = int(exporter.__dlpack_device__()[0])
        kind = _DLPACK_DEVICES.get(device_type)
        # -1: "the producer must not synchronise"; the executor orders streams itself.
        capsule = exporter.__dlpack__(stream=-1) if kind == "cuda" else exporter.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise OperandError(
            field=name,
            got=f"{type(array).__name__} that refuses DLPack export ({error})",
            expected="a dense array that exports itself",
            remedy=f"pass {name} as a plain strided tensor",
        ) from error
    if kind is None:
        raise OperandError(
            field=f"{name}.device",
            got=f"DLPack device type {device_type}",
            expected="CPU or CUDA memory",
            remedy=f"move {name} to the CPU or to a CUDA device",
        )
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    code_and_bits = (tensor.type_code, tensor.type_bits)
    dtype = _DLPACK_DTYPES.get(code_and_bits, f"DLPack type {code_and_bits}")
    if tensor.type_lanes != 1:
        dtype += f" with {tensor.type_lanes} lanes"
    shape = tuple(tensor.shape[: tensor.ndim])
    library = type(array).__module__.partition(".")[0]
    return ArrayView(
        shape=shape,
        strides=tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _compact_strides(shape),
        dtype=_supported_dtype(name, dtype),
        device=HOST if kind == "cpu" else Device(kind, tensor.device_id),
        pointer=(tensor.data or 0) + tensor.byte_offset,
        library=library,
        array=array,
        stream=current_stream(library, tensor.device_id) if kind == "cuda" else LEGACY_DEFAULT_STREAM,
        keep_alive=capsule,
    )


def _of_cuda_array_interface(array: Any, name: str) -> ArrayView:
    import numpy as np

    interface = array.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    pointer, read_only = interface["data"]
    shape = tuple(interface["shape"])
    byte_strides = interface.get("strides")
    supported = _supported_dtype(name, dtype.name)
    library = type(array).__module__.partition(".")[0]
    # The interface does not say which device; libraries that know put it on the array.
    ordinal = getattr(getattr(array, "device", None), "id", 0)
    return ArrayView(
        shape=shape,
        strides=_element_strides(name, byte_strides, dtype.itemsize)
        if byte_strides
        else _compact_strides(shape),
        dtype=supported,
        device=Device("cuda", ordinal),
        pointer=pointer,
        library=library,
        array=array,
        writable=not read_only,
        stream=_interface_stream(interface.get("stream"), library, ordinal),
    )


def _interface_stream(stream: int | None, library: str, ordinal: int) -> int:
    if stream is None:
        return current_stream(library, ordinal)
    return LEGACY_DEFAULT_STREAM if stream == 1 else stream  # 1 is the interface's name for it
