"""What the driver is told, where no device answers: handles, addresses, callbacks and error names."""

import ctypes
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cuda.bindings import driver as bindings

from flashactor import SmArch
from flashactor.errors import LaunchError
from flashactor.executors import cuda_driver
from flashactor.kernels.launch import KernelLaunch, TensorMap
from flashactor.kernels.spec import TENSOR_MAP_BYTES

SUCCESS = bindings.CUresult.CUDA_SUCCESS
STREAM = SimpleNamespace(handle=bindings.CUstream(0x5000))


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setattr(cuda_driver, "device_arch", lambda ordinal: SmArch.SM90A)
    return cuda_driver.CudaDriver(0)


@pytest.fixture
def host_functions(monkeypatch):
    """What is enqueued with cuLaunchHostFunc, as functions that call as the driver does."""
    enqueued = []

    def launch_host_function(stream, function, data):
        assert int(stream) == 0x5000
        # CUhostFn points to the place that holds the function's address.
        address = ctypes.c_void_p.from_address(function.getPtr()).value
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        enqueued.append(lambda: call(data))
        return (SUCCESS,)

    monkeypatch.setattr(bindings, "cuLaunchHostFunc", launch_host_function)
    return enqueued


def test_callbacks_reach_their_own_functions_from_a_thread_of_the_driver(driver, host_functions):
    called = []
    for name in ("first", "second"):
        driver.call_back(STREAM, lambda name=name: called.append((name, threading.current_thread())))
    for enqueued in reversed(host_functions):
        thread = threading.Thread(target=enqueued)
        thread.start()
        thread.join()
    assert [name for name, _ in called] == ["second", "first"]
    assert threading.current_thread() not in [thread for _, thread in called]
    assert cuda_driver._callbacks == {}


def test_a_callback_that_is_refused_is_an_error_and_forgotten(driver, monkeypatch):
    refused = bindings.CUresult.CUDA_ERROR_NOT_SUPPORTED
    monkeypatch.setattr(bindings, "cuLaunchHostFunc", lambda *_: (refused,))
    with pytest.raises(LaunchError, match="CUDA_ERROR_NOT_SUPPORTED while enqueueing a callback"):
        driver.call_back(STREAM, threading.Event().set)
    assert cuda_driver._callbacks == {}


def test_a_stream_of_any_address_waits_for_an_event(driver, monkeypatch):
    calls = []

    def wait(stream, event, flags):
        calls.append((int(stream), event, flags))
        return (SUCCESS,)

    monkeypatch.setattr(bindings, "cuStreamWaitEvent", wait)
    driver.wait_on(0x6000, SimpleNamespace(handle="event"))
    driver.wait_on(0, SimpleNamespace(handle="event"))
    assert calls == [(0x6000, "event", 0), (0, "event", 0)]


def test_a_stream_that_cannot_wait_is_named(driver, monkeypatch):
    monkeypatch.setattr(
        bindings, "cuStreamWaitEvent", lambda *_: (bindings.CUresult.CUDA_ERROR_INVALID_HANDLE,)
    )
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_HANDLE while making stream 0x6000 wait"):
        driver.wait_on(0x6000, SimpleNamespace(handle="event"))


def test_the_memory_is_free_of_total(driver, monkeypatch):
    monkeypatch.setattr(bindings, "cuMemGetInfo", lambda: (SUCCESS, 10, 80))
    assert driver.memory_info() == (10, 80)


def test_an_event_is_asked_without_waiting(driver):
    assert driver.query(SimpleNamespace(is_done=True)) is True
    assert driver.query(SimpleNamespace(is_done=False)) is False


def test_a_stream_has_an_address_and_the_context_is_shared(driver):
    assert driver.address_of(STREAM) == 0x5000
    assert driver.shares_context


# Tensor maps

MAP = TensorMap(0x10000, "bfloat16", (128, 8, 300, 2), (256, 2048, 614400), (64, 1, 128, 1))


@pytest.fixture
def encoder(monkeypatch):
    """A C function in the place of cuTensorMapEncodeTiled, as (what each call was told, what it answers)."""
    calls, answers = [], []

    def encode(to, dtype, rank, address, dims, strides, box, steps, *modes):
        assert to % 64 == 0
        ctypes.memset(to, len(calls) + 1, TENSOR_MAP_BYTES)
        calls.append(
            (dtype, rank, address, dims[:rank], strides[: rank - 1], box[:rank], steps[:rank], modes)
        )
        return answers.pop() if answers else 0

    function = cuda_driver._EncodeTiled(encode)
    monkeypatch.setattr(cuda_driver, "_encode_tiled", lambda: function)
    cuda_driver.encode_tensor_map.cache_clear()
    yield calls, answers
    cuda_driver.encode_tensor_map.cache_clear()


def test_a_map_is_encoded_as_it_says(encoder):
    calls, _ = encoder
    assert cuda_driver.encode_tensor_map(MAP) == b"\1" * TENSOR_MAP_BYTES
    ((dtype, rank, address, dims, strides, box, steps, modes),) = calls
    assert dtype == bindings.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    assert (rank, address) == (4, 0x10000)
    assert (dims, strides) == ([128, 8, 300, 2], [256, 2048, 614400])
    assert (box, steps) == ([64, 1, 128, 1], [1] * 4)
    assert modes == (
        bindings.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        bindings.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        bindings.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        bindings.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )


def test_the_swizzle_spans_the_rows_of_the_box(encoder):
    calls, _ = encoder
    modes = bindings.CUtensorMapSwizzle
    for dims, dtype, swizzle in (
        (32, "float16", modes.CU_TENSOR_MAP_SWIZZLE_64B),
        (64, "uint8", modes.CU_TENSOR_MAP_SWIZZLE_64B),
        (64, "float16", modes.CU_TENSOR_MAP_SWIZZLE_128B),
        (128, "uint8", modes.CU_TENSOR_MAP_SWIZZLE_128B),
    ):
        cuda_driver.encode_tensor_map(replace(MAP, dtype=dtype, box=(dims, 1, 128, 1)))
        assert calls[-1][-1][1] == swizzle


def test_numbers_beyond_32_bits_arrive_whole(encoder):
    calls, _ = encoder
    cuda_driver.encode_tensor_map(
        TensorMap(1 << 46, "uint8", (128, 1, 1 << 32, 1), (1 << 39,) * 3, (128, 1, 1, 1))
    )
    ((dtype, _, address, dims, strides, *_),) = calls
    assert dtype == bindings.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT8
    assert (address, dims[2], strides) == (1 << 46, 1 << 32, [1 << 39] * 3)


def test_equal_maps_are_encoded_once_and_others_each_for_itself(encoder):
    calls, _ = encoder
    same = TensorMap(MAP.address, MAP.dtype, tuple(MAP.dims), tuple(MAP.strides), tuple(MAP.box))
    assert cuda_driver.encode_tensor_map(MAP) is cuda_driver.encode_tensor_map(same)
    for change in (
        {"address": 0x20000},
        {"dtype": "float16"},
        {"box": (64, 1, 64, 1)},
        {"dims": (96, 8, 300, 2)},
    ):
        cuda_driver.encode_tensor_map(replace(MAP, **change))
    assert len(calls) == 5


def test_a_map_that_the_driver_refuses_is_an_error_and_not_remembered(encoder):
    calls, answers = encoder
    answers.append(int(bindings.CUresult.CUDA_ERROR_INVALID_VALUE))
    with pytest.raises(
        LaunchError, match=r"CUDA_ERROR_INVALID_VALUE while encoding TensorMap\(address=65536"
    ):
        cuda_driver.encode_tensor_map(MAP)
    cuda_driver.encode_tensor_map(MAP)
    assert len(calls) == 2


def test_a_launch_passes_its_maps_and_then_its_parameters(driver, encoder, monkeypatch):
    launched = []

    def launch(function, *arguments):
        *extents, shared_bytes, stream, pointers, extra = arguments
        launched.append(
            (extents, shared_bytes, stream, ctypes.string_at(pointers[0], 2 * TENSOR_MAP_BYTES + 5), extra)
        )
        return (SUCCESS,)

    monkeypatch.setattr(bindings, "cuLaunchKernel", launch)
    maps = MAP, replace(MAP, address=0x20000)
    step = KernelLaunch(SimpleNamespace(entry="k"), (3, 1, 1), (384, 1, 1), 1024, b"rest!", maps)
    for _ in range(2):
        driver.launch(STREAM, SimpleNamespace(handle=7), step)
    parameter = b"\1" * TENSOR_MAP_BYTES + b"\2" * TENSOR_MAP_BYTES + b"rest!"
    assert launched == [([3, 1, 1, 384, 1, 1], 1024, STREAM.handle, parameter, 0)] * 2
    assert len(encoder[0]) == 2


def test_a_launch_that_the_driver_refuses_is_named(driver, monkeypatch):
    monkeypatch.setattr(bindings, "cuLaunchKernel", lambda *_: (bindings.CUresult.CUDA_ERROR_INVALID_VALUE,))
    step = KernelLaunch(SimpleNamespace(entry="k"), (3, 1, 1), (384, 1, 1), 1024, b"rest!")
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_VALUE while launching k"):
        driver.launch(STREAM, SimpleNamespace(handle=7), step)
