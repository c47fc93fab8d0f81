"""Executors over the fake of the driver."""

import pytest
from fake_cuda import FakeDriver, FakeKernels

from flashactor.executors.cuda import CudaExecutor


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def start(driver):
    """Starts executors over the fake, and lets their kernels finish at the end of the test."""
    started = []

    def start(kernels=None, **options):
        started.append(CudaExecutor(kernels or FakeKernels(), driver=driver, **options))
        return started[-1]

    yield start
    for event in driver.events:
        event.complete()
    for executor in started:
        executor.close()


@pytest.fixture
def executor(start):
    return start()
