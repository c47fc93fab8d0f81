"""Foreign errors as errors of the tree: each names what happened, and what to do."""

import pytest
from cuda.bindings import driver

from flashactor.errors import (
    ActorFailedError,
    ContextPoisonedError,
    DeviceUnavailableError,
    FlashAttnError,
    LaunchError,
    OperandError,
    OutOfMemoryError,
)
from flashactor.executors.cuda_errors import NO_MEMORY, STICKY, UNAVAILABLE, foreign_errors, map_error


class CudaError(Exception):
    """Stands for cuda.core's CUDAError."""


def from_library(module, name, text, base=RuntimeError, **attributes):
    error = type(name, (base,), {"__module__": module})(text)
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


@pytest.mark.parametrize("table", [STICKY, UNAVAILABLE, NO_MEMORY], ids=["sticky", "unavailable", "memory"])
def test_the_tables_are_the_drivers(table):
    assert {number: driver.CUresult(number).name for number in table} == table


def test_every_result_that_ends_the_process_is_sticky():
    """The driver's own documentation says of each such result that the process must be restarted."""
    fatal = {
        r.name for r in driver.CUresult if "terminated and relaunched" in " ".join((r.__doc__ or "").split())
    }
    assert fatal <= set(STICKY.values())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CudaError("CUDA_ERROR_MISALIGNED_ADDRESS: while executing a kernel"), ContextPoisonedError),
        (CudaError("CUDA_ERROR_ASSERT: a device-side assert"), ContextPoisonedError),
        (CudaError("CUDA_ERROR_OUT_OF_MEMORY: unable to allocate"), OutOfMemoryError),
        (CudaError("CUDA_ERROR_NO_DEVICE: no CUDA-capable devices"), DeviceUnavailableError),
        (CudaError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image"), LaunchError),
        (CudaError("CUDA_ERROR_NOT_YET_INVENTED"), LaunchError),
        (from_library("cuda.core", "CUDAError", "UNEXPECTED ERROR CODE: 5"), LaunchError),
        (from_library("torch", "AcceleratorError", "x", error_code=700), ContextPoisonedError),
        (from_library("torch", "AcceleratorError", "x", error_code=98), LaunchError),
        (from_library("torch", "OutOfMemoryError", "tried to allocate"), OutOfMemoryError),
        (RuntimeError("CUDA error: invalid argument"), LaunchError),
        (from_library("cupy.cuda", "OutOfMemoryError", "out", MemoryError), OutOfMemoryError),
        (from_library("cupy_backends", "CUDARuntimeError", "x", status=700), ContextPoisonedError),
        (from_library("cuda.pathfinder", "DynamicLibNotFoundError", "x"), DeviceUnavailableError),
        (ModuleNotFoundError("No module named 'cuda'"), DeviceUnavailableError),
        (TypeError("a bug"), ActorFailedError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value}",
)
def test_where_an_error_lands(error, kind):
    mapped = map_error(error, "launching x")
    assert type(mapped) is kind
    assert mapped.__cause__ is error
    for part in (mapped.field, mapped.got, mapped.expected, mapped.remedy):
        assert part


def test_errors_of_the_tree_stay_what_they_are():
    error = OperandError("q", 1, "2", "3")
    assert map_error(error, "launching x") is error
    with pytest.raises(OperandError) as raised, foreign_errors("opening device 0"):
        raise error
    assert raised.value is error


def test_the_boundary_raises_the_mapped_error_with_its_cause():
    with pytest.raises(DeviceUnavailableError) as raised, foreign_errors("opening device 0"):
        raise CudaError("CUDA_ERROR_NO_DEVICE: none")
    assert raised.value.got == "CUDA_ERROR_NO_DEVICE while opening device 0"
    assert isinstance(raised.value.__cause__, CudaError)
    assert isinstance(raised.value, FlashAttnError)


def test_errors_of_cuda_keep_no_arrays_alive_through_their_frames():
    def fail():
        raise CudaError("CUDA_ERROR_OUT_OF_MEMORY: unable to allocate")

    with pytest.raises(CudaError) as raised:
        fail()
    assert map_error(raised.value, "launching x").__cause__.__traceback__ is None
