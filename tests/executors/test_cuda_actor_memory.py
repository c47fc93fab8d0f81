"""An actor on a device without memory: one more attempt, then the sizes, and what is asked next goes on."""

import gc
from weakref import ref

import pytest
from fake_cuda import PATIENCE, CudaError, FakeKernels, arrays, request

from flashactor import Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps
from flashactor.errors import OutOfMemoryError
from flashactor.executors.cuda import CudaExecutor

NO_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY: unable to allocate"
BROUGHT = FlashAttnMsg.forward(request())
"""A request that brings its outputs."""


@pytest.fixture
def actor(driver):
    props = FlashAttnProps(max_in_flight=2)
    running = FlashAttnActor.start(props, lambda: CudaExecutor(FakeKernels(), driver=driver))
    yield running
    for event in driver.events:
        event.complete()
    running.stop(PATIENCE)


def without_outputs():
    return FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(*arrays()[:3]))


def test_the_second_attempt_is_the_answer(driver, actor, allocator, released):
    allocator.failures.append(MemoryError("tried to allocate"))
    pending = actor.ask(without_outputs())
    driver.event(0).complete()
    assert pending.result(PATIENCE).executor == "cuda"
    assert released == ["torch", "cupy", "cupy pinned"]
    stats = actor.stats()
    assert (stats.completed, stats.failed, stats.generation) == (1, 0, 1)


def test_after_two_attempts_it_is_that_requests_error_alone(driver, actor, allocator, released):
    allocator.failures += [MemoryError("2 GiB"), MemoryError("3 GiB")]
    short, fits = actor.ask(without_outputs()), actor.ask(BROUGHT)
    with pytest.raises(OutOfMemoryError, match=r"bytes wanted.*1000 free of 8000") as caught:
        short.result(PATIENCE)
    assert caught.value.retry_safe
    driver.event(0).complete()
    assert fits.result(PATIENCE).executor == "cuda"
    stats = actor.stats()
    assert (stats.errors, stats.completed, stats.in_flight) == ({"OutOfMemoryError": 1}, 1, 0)
    assert (actor.is_alive, stats.restarts) == (True, 0)


def test_what_is_in_flight_is_answered_before_the_second_attempt(driver, actor, released):
    first = actor.ask(BROUGHT)
    driver.event(0)
    driver.failures["launch"].append(CudaError(NO_MEMORY))
    second = actor.ask(BROUGHT)
    assert driver.event(0).waiting.wait(PATIENCE)
    assert released == []
    driver.event(0).complete()
    assert first.result(PATIENCE).executor == "cuda"
    driver.event(1).complete()
    assert second.result(PATIENCE).executor == "cuda"
    assert released == ["torch", "cupy", "cupy pinned"]


def test_a_launch_that_finds_no_memory_is_settled_with_its_error(driver, actor, released):
    driver.failures["launch"] += [CudaError(NO_MEMORY), CudaError(NO_MEMORY)]
    pending = actor.ask(BROUGHT)
    with pytest.raises(OutOfMemoryError):
        pending.launched.result(PATIENCE)
    dependent = actor.ask(BROUGHT, after=pending)
    dependent.wait(PATIENCE)
    assert type(dependent.error).__name__ == "DependencyFailedError"
    assert driver.events == []


def test_a_kernel_that_is_being_compiled_keeps_no_arrays_of_who_has_given_up(driver):
    executor = CudaExecutor(FakeKernels(at_once=False), driver=driver)
    wanted, later = request(), request()
    with FlashAttnActor.start(FlashAttnProps(), executor) as running:
        pending = running.ask(FlashAttnMsg.forward(wanted), timeout=0.05)
        found = ref(wanted)
        del wanted
        for answer in (pending, running.ask(FlashAttnMsg.forward(later), timeout=0.05)):
            answer.wait(PATIENCE)  # the second takes the first one's place with the actor's thread
        del answer
        gc.collect()
        assert found() is None
