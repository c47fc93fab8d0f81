"""What is launched after what on devices: streams wait, and the host does not."""

import asyncio
from types import SimpleNamespace

import pytest
from actor_tools import PATIENCE, message, wait_until
from fake_cuda import OWN_STREAM, FakeDriver, FakeKernels, request

from flashactor import FlashAttnMsg
from flashactor.errors import CompileError, DependencyFailedError
from flashactor.executors.cuda import CudaExecutor

OTHER_STREAM = 0xB000
CALLERS_STREAM = 0x6000


@pytest.fixture
def devices(start):
    """Two actors over a fake driver each: (actor, driver) of both."""
    drivers = [FakeDriver(address=address) for address in (OWN_STREAM, OTHER_STREAM)]
    yield [
        (start(CudaExecutor(FakeKernels(), driver=driver), max_in_flight=4)[0], driver) for driver in drivers
    ]
    for driver in drivers:
        for event in driver.events:
            event.complete()


def on_device():
    return FlashAttnMsg.forward(request())


def test_after_on_devices_the_stream_waits_and_the_host_does_not(devices):
    (one, first_driver), (two, second_driver) = devices
    first = one.ask(on_device())
    second = two.ask(on_device(), after=first)
    third = one.ask(on_device(), after=[first, second])
    first_driver.event(1)
    assert [pending.done for pending in (first, second, third)] == [False] * 3
    # A marker is its own driver's.
    event = first_driver.event(0)
    assert first_driver.named("wait_on") == [(OTHER_STREAM, event), (OWN_STREAM, event)]
    assert second_driver.named("wait_on") == [(OWN_STREAM, second_driver.event(0))]


def test_after_a_host_a_device_waits_for_the_result(devices, start):
    (actor, driver), _ = devices
    host, kernels = start()
    first = host.ask(message(0))
    actor.ask(on_device(), after=first)
    probe = actor.ask(on_device(), caller="probe")
    driver.event(0)
    assert probe.launched.result(PATIENCE) is not None
    assert len(driver.events) == 1
    kernels.finish(0)
    driver.event(1)
    assert driver.named("wait_on") == []


def test_after_a_device_a_host_waits_for_the_result(devices, start):
    (actor, driver), _ = devices
    host, kernels = start()
    first = actor.ask(on_device())
    host.ask(message(1), after=first)
    host.ask(message(2), caller="probe")
    kernels.wait_launched()
    driver.event(0)
    kernels.wait_prepared(1, 2)
    assert kernels.launched == [2]
    driver.event(0).complete()
    assert kernels.wait_launched(2) == [2, 1]


def test_after_a_launch_that_fails_on_a_device(devices):
    (one, driver), (two, other) = devices
    driver.failures["launch"].append(RuntimeError("CUDA_ERROR_INVALID_VALUE: a parameter"))
    first = one.ask(on_device())
    with pytest.raises(DependencyFailedError):
        two.ask(on_device(), after=first).result(PATIENCE)
    assert "launch" not in other.functions()


def test_after_a_kernel_that_does_not_compile(start):
    kernels = FakeKernels(at_once=False)
    driver = FakeDriver()
    actor, _ = start(CudaExecutor(kernels, driver=driver))
    first = actor.ask(on_device())
    second = actor.ask(on_device(), after=first)
    wait_until(lambda: len(kernels.asked) == 2)
    kernels.fail(0, CompileError("kernel", "an error", "none", "correct it"))
    with pytest.raises(CompileError):
        first.result(PATIENCE)
    with pytest.raises(DependencyFailedError, match="CompileError"):
        second.result(PATIENCE)
    kernels.deliver(1)


@pytest.mark.parametrize(
    "stream",
    [
        CALLERS_STREAM,
        SimpleNamespace(__cuda_stream__=(0, CALLERS_STREAM)),
        SimpleNamespace(__cuda_stream__=lambda: (0, CALLERS_STREAM)),
        SimpleNamespace(cuda_stream=CALLERS_STREAM),
        SimpleNamespace(ptr=CALLERS_STREAM),
    ],
    ids=["address", "pair", "protocol", "torch", "cupy"],
)
def test_the_callers_stream_is_waited_for_and_waits(devices, stream):
    (actor, driver), _ = devices
    pending = actor.ask(on_device(), stream=stream)
    marker = pending.launched.result(PATIENCE)
    assert not pending.done
    calls = [call for call in driver.calls if CALLERS_STREAM in call or call[0] in ("launch", "record")]
    assert [call[0] for call in calls] == ["wait_for", "launch", "record", "wait_on"]
    assert driver.named("wait_on") == [(CALLERS_STREAM, driver.event(0))]
    marker.wait_on(0x7000)
    assert driver.calls[-1] == ("wait_on", 0x7000, driver.event(0))


def test_launched_comes_before_the_result(devices):
    (actor, driver), _ = devices

    async def main():
        pending = actor.ask(on_device())
        marker = await pending.launched
        assert not pending.done
        driver.event(0).complete()
        assert await pending
        assert await pending.launched is marker

    asyncio.run(main())
