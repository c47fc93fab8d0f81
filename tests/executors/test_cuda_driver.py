"""What the driver is told, where no device answers: handles, addresses, callbacks and error names."""

import ctypes
import threading
from types import SimpleNamespace

import pytest
from cuda.bindings import driver as bindings

from flashactor import SmArch
from flashactor.errors import LaunchError
from flashactor.executors import cuda_driver

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
