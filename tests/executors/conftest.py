"""Executors over the fake of the driver."""

import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import OUT, DeviceArray, FakeDriver, FakeKernels

from flashactor.executors.cuda import CudaExecutor


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def start(driver):
    """Starts executors over the fake, and lets their kernels finish at the end of the test."""
    started = []

    def start(kernels=None, driver=driver, **options):
        started.append((CudaExecutor(kernels or FakeKernels(), driver=driver, **options), driver))
        return started[-1][0]

    yield start
    for executor, its_driver in started:
        for event in its_driver.events:
            event.complete()
        executor.close()


@pytest.fixture
def executor(start):
    return start()


@pytest.fixture
def released(monkeypatch):
    """What has been called on the libraries' pools, in order."""
    calls = []
    pools = {
        name: SimpleNamespace(free_all_blocks=lambda name=name: calls.append(name))
        for name in ("cupy", "cupy pinned")
    }
    torch = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: calls.append("torch")))
    cupy = SimpleNamespace(
        get_default_memory_pool=lambda: pools["cupy"],
        get_default_pinned_memory_pool=lambda: pools["cupy pinned"],
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return calls


@pytest.fixture
def allocator(monkeypatch):
    """An allocator of the fake's library: ``failures`` are what its next calls raise."""
    state = SimpleNamespace(failures=[], made=[])

    def allocate(like, shape, dtype):
        if state.failures:
            raise state.failures.pop(0)
        array = DeviceArray(*shape, typestr=np.dtype(dtype).str, address=OUT)
        state.made.append(weakref.ref(array))
        return array

    monkeypatch.setitem(sys.modules["flashactor.allocation"]._ALLOCATORS, "fake_cuda", allocate)
    return state
