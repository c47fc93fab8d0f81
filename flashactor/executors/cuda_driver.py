"""The few functions of cuda.core and cuda.bindings that the cuda executor uses, and nothing more.

Both packages are imported when they are called, so that this module imports without them. Errors leave as
cuda.core raises them; ``cuda_errors`` maps them.
"""

from __future__ import annotations

import ctypes
from typing import Any

from flashactor.compiler.nvrtc import load_cuda_packages
from flashactor.errors import DeviceUnavailableError
from flashactor.executors.cuda_errors import foreign_errors, result_error, unavailable_error
from flashactor.kernels.launch import KernelLaunch
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
    """

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

    def launch(self, stream: Any, kernel: Any, step: KernelLaunch) -> None:
        """Enqueue a kernel whose one parameter is the struct of ``step.params``.

        ``cuda.core.launch`` cannot: its argument handler takes scalars, pointers and tensor maps, and raises
        TypeError for a numpy or ctypes struct. So this calls the driver with the pointer to the struct.

        Raises:
            LaunchError, ContextPoisonedError: the driver refuses the launch.
        """
        from cuda.bindings import driver

        params = ctypes.create_string_buffer(step.params, len(step.params))
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

    def synchronize(self, stream: Any) -> None:
        """Block this thread, without the GIL, until the stream is empty."""
        stream.sync()

    def close_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        stream.close()


def _check(result: Any, doing: str) -> None:
    if int(result):
        raise result_error(result.name, doing)
