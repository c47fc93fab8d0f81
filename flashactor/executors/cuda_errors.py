"""Foreign errors of the cuda executor as errors of this package, at one boundary.

They come from cuda.core and cuda.bindings (a ``CUDA_ERROR_...`` name in the text), from torch and cupy (the
same numbers in an attribute, or an out-of-memory type of their own), and from loaders that find no driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from flashactor.errors import (
    ActorFailedError,
    ContextPoisonedError,
    DeviceUnavailableError,
    FlashAttnError,
    LaunchError,
    OutOfMemoryError,
)
from flashactor.executors.answers import unexpected_error

# After one of these every later call in the process gives the same error (cuda.h, CUresult).
STICKY = {
    214: "CUDA_ERROR_ECC_UNCORRECTABLE",
    220: "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    226: "CUDA_ERROR_CONTAINED",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    702: "CUDA_ERROR_LAUNCH_TIMEOUT",
    709: "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    710: "CUDA_ERROR_ASSERT",
    714: "CUDA_ERROR_HARDWARE_STACK_ERROR",
    715: "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    716: "CUDA_ERROR_MISALIGNED_ADDRESS",
    717: "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    718: "CUDA_ERROR_INVALID_PC",
    719: "CUDA_ERROR_LAUNCH_FAILED",
    721: "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    810: "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    911: "CUDA_ERROR_EXTERNAL_DEVICE",
}

# There is no device, or this process may not use it.
UNAVAILABLE = {
    3: "CUDA_ERROR_NOT_INITIALIZED",
    4: "CUDA_ERROR_DEINITIALIZED",
    36: "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE",
    100: "CUDA_ERROR_NO_DEVICE",
    101: "CUDA_ERROR_INVALID_DEVICE",
    102: "CUDA_ERROR_DEVICE_NOT_LICENSED",
    802: "CUDA_ERROR_SYSTEM_NOT_READY",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    804: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
}

NO_MEMORY = {2: "CUDA_ERROR_OUT_OF_MEMORY"}

_NAMES = STICKY | UNAVAILABLE | NO_MEMORY

_LAUNCH_REMEDIES = {
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "run flashactor cache clear and restart: the entry is for another device",
    "CUDA_ERROR_INVALID_IMAGE": "run flashactor cache clear, restart: the entry is none for this driver",
    "CUDA_ERROR_INVALID_VALUE": "report it: the plan asks for more than the device has (grid, shared memory)",
    "CUDA_ERROR_INVALID_HANDLE": "pass as stream= only streams of the actor's device that still exist",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "report it: the kernel's registers or threads do not fit",
}


@contextmanager
def foreign_errors(doing: str) -> Iterator[None]:
    """Raise what happens inside as an error of this package; ``doing`` says what was going on.

    Raises:
        FlashAttnError: as ``map_error`` chooses.
    """
    try:
        yield
    except FlashAttnError:
        raise
    except Exception as error:
        raise map_error(error, doing) from error


def map_error(error: BaseException, doing: str) -> FlashAttnError:
    """The error of this package for whatever was raised while ``doing``; its own errors stay as they are."""
    if isinstance(error, FlashAttnError):
        return error
    mapped = _mapped(error, cuda_result(error), doing)
    # The frames of an unexpected error help to find it; those of CUDA's would only keep arrays alive.
    unexpected = isinstance(mapped, ActorFailedError)
    mapped.__cause__ = error if unexpected else error.with_traceback(None)
    return mapped


def cuda_result(error: BaseException) -> str | None:
    """The name of the CUresult behind an error; None if it is not CUDA's."""
    named = re.search(r"\bCUDA_ERROR_[A-Z0-9_]+", str(error))
    if named:
        return named[0]
    for attribute in ("error_code", "status"):  # torch.AcceleratorError, cupy's CUDARuntimeError
        number = getattr(error, attribute, None)
        if isinstance(number, int):
            return _NAMES.get(number, f"CUDA error {number}")
    return None


def result_error(result: str, doing: str) -> FlashAttnError:
    """The error of this package for a CUresult by name, or for any text of a library that calls CUDA."""
    got = f"{result} while {doing}"
    if result in STICKY.values():
        return poisoned_error(got)
    if result in NO_MEMORY.values():
        return _no_memory(got)
    if result in UNAVAILABLE.values():
        return unavailable_error(got)
    return LaunchError(
        field="launch",
        got=got,
        expected="CUDA_SUCCESS",
        remedy=_LAUNCH_REMEDIES.get(result, "report it with the driver's version and the kernel's name"),
    )


def poisoned_error(got: str) -> ContextPoisonedError:
    """The error of every request from a sticky error on."""
    return ContextPoisonedError(
        field="CUDA context",
        got=got,
        expected="a context without a sticky error",
        remedy="restart the process, nothing more runs in this one; compute-sanitizer finds the cause",
    )


def unavailable_error(got: str, field: str = "device") -> DeviceUnavailableError:
    """The error of a machine, or of an ordinal, without a usable device."""
    return DeviceUnavailableError(
        field=field,
        got=got,
        expected="an NVIDIA GPU with a driver for CUDA 13 or newer",
        remedy="check nvidia-smi and CUDA_VISIBLE_DEVICES, or start the actor with executor='reference'",
    )


def _no_memory(got: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        field="device memory",
        got=got,
        expected="enough free memory",
        remedy="free arrays, lower max_in_flight, split the batch, or pass out= and lse= of your own",
    )


def _mapped(error: BaseException, result: str | None, doing: str) -> FlashAttnError:
    kind = type(error)
    if result is not None:
        return result_error(result, doing)
    text = f"{kind.__name__}: {error}"
    if isinstance(error, MemoryError) or kind.__name__ == "OutOfMemoryError":  # cupy's, torch's
        return _no_memory(f"{text} while {doing}")
    if isinstance(error, ImportError) or kind.__name__ == "DynamicLibNotFoundError":  # cuda.pathfinder's
        return unavailable_error(text)
    if (
        kind.__module__.partition(".")[0] in ("cuda", "torch", "cupy", "cupy_backends")
        or "CUDA error" in text
    ):
        return result_error(text, doing)
    return unexpected_error(error, doing)
