"""What the cuda executor is made with when it is chosen by name."""

from fake_cuda import FakeDriver, FakeKernels

from flashactor.executors import cuda
from flashactor.executors.completion import PollingWaiter
from flashactor.executors.select import ExecutorOptions, make_executor
from flashactor.settings import Settings
from flashactor.types import Completion


def test_the_device_the_completion_and_the_kernels_are_those_of_the_options(monkeypatch):
    kernels, opened = FakeKernels(), []

    def open_driver(ordinal):
        opened.append(FakeDriver(ordinal=ordinal))
        return opened[-1]

    monkeypatch.setattr(cuda, "CudaDriver", open_driver)
    settings = Settings.from_environment()
    options = ExecutorOptions(settings, lambda given: kernels, device=3, completion=Completion.POLLING)
    executor = make_executor("cuda", options)
    try:
        assert opened[0].ordinal == 3
        assert isinstance(executor._waiter, PollingWaiter)
        assert executor._waiter._driver is opened[0]
        assert executor._source is kernels
    finally:
        executor.close()
