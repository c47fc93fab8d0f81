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
