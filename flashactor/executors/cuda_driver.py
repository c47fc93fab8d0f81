"""The few functions of cuda.core and cuda.bindings that the cuda executor uses, and nothing more.

Both packages are imported when they are called, so that this module imports without them. Errors leave as
cuda.core raises them; ``cuda_errors`` maps them.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from flashactor.compiler.nvrtc import load_cuda_packages
from flashactor.errors import DeviceUnavailableError
from flashactor.executors.cuda_errors import foreign_errors, result_error, unavailable_error
from flashactor.kernels.launch import KernelLaunch, TensorMap
from flashactor.kernels.spec import TENSOR_MAP_BYTES
from flashactor.types import SmArch


def device_count() -> int:
    """Number of CUDA devices; 0 without a driver or the cuda packages. It never raises."""
    try:
        ctypes.CDLL("libcuda.so.1")  # on a machine without a driver this saves importing cuda.core, 0.25 s
        return _count_devices()
    except Exception:
        return 0


def device_arch(ordinal: int = 0) -> SmArch:
    """The architecture of a device.

    Raises:
        DeviceUnavailableError: no such device, or no cubin of this project runs on it.
    """
    with foreign_errors(f"opening device {ordinal}"):
        load_cuda_packages()
        from cuda.core import Device

        _require_device(ordinal)
        return SmArch.from_compute_capability(*Device(ordinal).compute_capability)


def device_name(ordinal: int = 0) -> str:
    """The product name of a device that is there, for example ``NVIDIA H200``."""
    from cuda.core import Device

    return str(Device(ordinal).name)


def driver_version() -> str:
    """The version of the kernel-mode driver that is there, for example ``580.65.06``."""
    from cuda.core import system

    return ".".join(map(str, system.get_kernel_mode_driver_version()))


def _count_devices() -> int:
    load_cuda_packages()
    from cuda.core import Device

    return len(Device.get_all_devices())


def _require_device(ordinal: int) -> None:
    count = _count_devices()
    if count == 0:
        raise unavailable_error("a driver that sees no device")
    if not 0 <= ordinal < count:
        raise DeviceUnavailableError(
            field="device_ordinal",
            got=ordinal,
            expected=f"0 to {count - 1}",
            remedy="count devices as CUDA_VISIBLE_DEVICES shows them to this process",
        )


class CudaDriver:
    """One device. Streams, kernels and events are cuda.core's objects, opaque to the executor.

    Attributes:
        ordinal: the device, as CUDA_VISIBLE_DEVICES numbers it.
        arch: its architecture.
        shares_context: whether others of this process use the same context, so that it cannot be renewed
            here after a sticky error.
    """

    shares_context = True

    def __init__(self, ordinal: int) -> None:
        """Find the device.

        Raises:
            DeviceUnavailableError: no such device, or no cubin of this project runs on it.
        """
        self.ordinal = ordinal
        self.arch = device_arch(ordinal)

    def activate(self) -> None:
        """Make the device's primary context, which torch and cupy use too, current on this thread."""
        from cuda.core import Device

        Device(self.ordinal).set_current()

    def create_stream(self) -> Any:
        """A new stream that does not synchronise with the legacy default stream."""
        from cuda.core import Device, StreamOptions

        return Device(self.ordinal).create_stream(options=StreamOptions(nonblocking=True))

    def address_of(self, stream: Any) -> int:
        """The address of a stream, as other libraries take it."""
        return int(stream.handle)

    def load(self, cubin: bytes, entry: str) -> Any:
        """The kernel of a name in a cubin."""
        from cuda.core import ObjectCode

        return ObjectCode.from_cubin(cubin, name=entry).get_kernel(entry)

    def allow_shared_memory(self, kernel: Any, size: int) -> None:
        """Let a kernel have ``size`` bytes of dynamic shared memory, where the default limit is 48 KB.

        Raises:
            LaunchError: the device has less.
        """
        from cuda.bindings import driver  # cuda.core 1.2 shows this attribute, but cannot set it

        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (result,) = driver.cuKernelSetAttribute(
            attribute, size, driver.CUkernel(int(kernel.handle)), driver.CUdevice(self.ordinal)
        )
        _check(result, f"reserving {size} bytes of shared memory")

    def wait_for(self, stream: Any, producer: int) -> None:
        """Order later work on ``stream`` after what is enqueued on ``producer``, the address of a stream."""
        from cuda.core import LEGACY_DEFAULT_STREAM, Stream

        # cuda.core records an event on the producer and makes the stream wait for it.
        stream.wait(Stream.from_handle(producer) if producer else LEGACY_DEFAULT_STREAM)

    def wait_on(self, address: int, event: Any) -> None:
        """Order later work on the stream of an address after an event, of this device or of another.

        Address 0 is the legacy default stream of the context that is current on the calling thread.
        """
        from cuda.bindings import driver

        (result,) = driver.cuStreamWaitEvent(driver.CUstream(address), event.handle, 0)
        _check(result, f"making stream {address:#x} wait")

    def launch(self, stream: Any, kernel: Any, step: KernelLaunch) -> None:
        """Enqueue a kernel with its one parameter, a struct.

        ``cuda.core.launch`` cannot: its argument handler takes scalars, pointers and tensor maps, and raises
        TypeError for a numpy or ctypes struct. So this calls the driver with the pointer to the struct.

        Raises:
            LaunchError, ContextPoisonedError: the driver refuses the launch.
        """
        from cuda.bindings import driver

        data = step.parameter(encode_tensor_map)
        params = ctypes.create_string_buffer(data, len(data))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        # The driver copies the parameters before it returns, so both buffers may die here.
        (result,) = driver.cuLaunchKernel(
            driver.CUfunction(int(kernel.handle)),
            *step.grid,
            *step.block,
            step.shared_bytes,
            stream.handle,
            pointers,
            0,
        )
        _check(result, f"launching {step.spec.entry}")

    def record(self, stream: Any) -> Any:
        """A new event behind all work on the stream; a thread that waits for it sleeps."""
        from cuda.core import EventOptions

        return stream.record(options=EventOptions(blocking_sync=True))

    def wait(self, event: Any) -> None:
        """Block this thread, without the GIL, until the event is reached."""
        event.sync()

    def query(self, event: Any) -> bool:
        """Whether an event is reached. The error of a kernel before it is raised, as by ``wait``."""
        return bool(event.is_done)

    def call_back(self, stream: Any, function: Callable[[], None]) -> None:
        """Have a function called, on a thread of the driver, when all work enqueued so far is done.

        It must not call CUDA, and work that is enqueued later waits until it has returned. After a sticky
        error it is never called.
        """
        from cuda.bindings import driver

        number = next(_callback_numbers)
        _callbacks[number] = function
        (result,) = driver.cuLaunchHostFunc(stream.handle, driver.CUhostFn(_run_callback_address), number)
        if int(result):
            del _callbacks[number]
        _check(result, "enqueueing a callback")

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the device's memory; what libraries keep in pools counts as used."""
        from cuda.bindings import driver

        result, free, total = driver.cuMemGetInfo()
        _check(result, "asking for the free memory")
        return int(free), int(total)

    def synchronize(self, stream: Any) -> None:
        """Block this thread, without the GIL, until the stream is empty."""
        stream.sync()

    def close_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        stream.close()


TENSOR_MAP_ALIGNMENT = 128
"""Of the memory into which the driver writes a map: 64 bytes by its documentation, 128 by its header's."""

_EncodeTiled = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,  # the map
    *(ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p),  # data type, rank, address
    *(ctypes.POINTER(ctypes.c_uint64),) * 2,  # extents, strides
    *(ctypes.POINTER(ctypes.c_uint32),) * 2,  # the box, steps in it
    *(ctypes.c_int,) * 4,  # interleave, swizzle, L2 promotion, fill
)


@lru_cache(maxsize=1)
def _encode_tiled() -> Any:
    """cuTensorMapEncodeTiled itself: that of cuda.bindings writes into memory that is aligned to 16 bytes."""
    return _EncodeTiled(("cuTensorMapEncodeTiled", ctypes.CDLL("libcuda.so.1")))


@lru_cache(maxsize=4096)
def encode_tensor_map(tensor_map: TensorMap) -> bytes:
    """A map as the device reads it. One is encoded once: a decoding step has the same tensors as the last.

    A map holds an address and a layout, nothing of a device, and no two devices have the same addresses.

    Raises:
        LaunchError: the driver refuses the map.
    """
    from cuda.bindings import driver

    types = driver.CUtensorMapDataType
    dtype = {
        "float16": types.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        "bfloat16": types.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        "uint8": types.CU_TENSOR_MAP_DATA_TYPE_UINT8,
    }[tensor_map.dtype]
    swizzle = {
        128: driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        64: driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_64B,
    }[tensor_map.swizzle_bytes]
    rank = len(tensor_map.dims)
    memory = ctypes.create_string_buffer(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
    encoded = -(-ctypes.addressof(memory) // TENSOR_MAP_ALIGNMENT) * TENSOR_MAP_ALIGNMENT
    result = _encode_tiled()(
        encoded,
        dtype,
        rank,
        tensor_map.address,
        (ctypes.c_uint64 * rank)(*tensor_map.dims),
        (ctypes.c_uint64 * (rank - 1))(*tensor_map.strides),
        (ctypes.c_uint32 * rank)(*tensor_map.box),
        (ctypes.c_uint32 * rank)(*(1,) * rank),
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    _check(driver.CUresult(result), f"encoding {tensor_map}")
    return ctypes.string_at(encoded, TENSOR_MAP_BYTES)


# The driver calls one function for all callbacks, with the number of the Python function to run: a ctypes
# function for each would have to outlive its own call.
_callbacks: dict[int, Callable[[], None]] = {}
_callback_numbers = itertools.count(1)


def _run_callback(number: int) -> None:
    _callbacks.pop(number)()


_run_callback_c = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_run_callback)
_run_callback_address = ctypes.cast(_run_callback_c, ctypes.c_void_p).value


def _check(result: Any, doing: str) -> None:
    if int(result):
        raise result_error(result.name, doing)
