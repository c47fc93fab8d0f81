"""What the cuda executor's stream waits for, and what waits for it: libraries, callers, other work."""

import sys
from types import SimpleNamespace

import pytest
from fake_cuda import OWN_STREAM, PATIENCE, CudaError, DeviceArray, FakeDriver, arrays, request, submit

from flashactor import Fa2FwdRequest, FlashAttnActor, FlashAttnMsg
from flashactor.errors import ContextPoisonedError, LaunchError

CALLER = 0x6000


def test_the_stream_waits_for_the_librarys_current_stream(driver, executor, monkeypatch):
    asked = []

    def current_stream(ordinal):
        asked.append(ordinal)
        return SimpleNamespace(cuda_stream=0x7000)

    class Tensor(DeviceArray):
        __module__ = "torch"

    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(current_stream=current_stream))
    )
    submit(executor, request(Tensor))
    assert driver.named("wait_for") == [("own stream", 0x7000)]
    assert set(asked) == {0}


def test_the_stream_is_that_of_the_thread_that_made_the_request(driver, executor, monkeypatch):
    class Tensor(DeviceArray):
        __module__ = "torch"

    current = SimpleNamespace(cuda_stream=0x7000)
    cuda = SimpleNamespace(current_stream=lambda ordinal: current)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    made_here = request(Tensor)
    current.cuda_stream = 0x8000  # what the actor's thread would see
    submit(executor, made_here)
    assert driver.named("wait_for") == [("own stream", 0x7000)]


def test_streams_of_two_libraries_are_both_waited_for(driver, executor, monkeypatch):
    class Array(DeviceArray):
        __module__ = "cupy"

    class OnDevice:
        def __init__(self, ordinal):
            self.ordinal = ordinal

        def __enter__(self):
            assert self.ordinal == 0

        def __exit__(self, *_):
            pass

    stream = SimpleNamespace(ptr=0x9000)
    cuda = SimpleNamespace(Device=OnDevice, get_current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    q, k, v, _, _ = arrays(Array)
    _, _, _, out, lse = arrays()
    submit(executor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse))
    assert driver.named("wait_for") == [("own stream", 0x9000), ("own stream", 0)]


def test_jax_arrays_are_waited_for_on_the_host(driver, executor):
    waited = []

    class Array(DeviceArray):
        __module__ = "jaxlib._jax"

        def block_until_ready(self):
            waited.append(self)

    submit(executor, request(Array))
    assert len(waited) == 5
    assert driver.named("wait_for") == [("own stream", 0)]


def test_the_callers_stream_is_waited_for_and_waits(driver, executor):
    submit(executor, stream=CALLER)
    assert driver.functions()[-5:] == ["wait_for", "allow_shared_memory", "launch", "record", "wait_on"]
    assert driver.named("wait_for") == [("own stream", 0), ("own stream", CALLER)]
    assert driver.named("wait_on") == [(CALLER, driver.event(0))]


def test_a_callers_stream_that_the_arrays_are_of_is_waited_for_once(driver, executor):
    submit(executor, stream=0)
    assert driver.named("wait_for") == [("own stream", 0)]
    assert driver.named("wait_on") == [(0, driver.event(0))]


def test_without_a_callers_stream_nobody_waits(driver, executor):
    submit(executor)
    assert "wait_on" not in driver.functions()


def test_a_callers_stream_that_is_gone_is_answered_and_the_kernel_waited_for(driver, executor):
    driver.failures["wait_on"].append(CudaError("CUDA_ERROR_INVALID_HANDLE: the stream"))
    answer = submit(executor, stream=CALLER)
    assert isinstance(answer.outcome.error, LaunchError)
    assert "stream=" in answer.outcome.error.remedy
    assert answer.marker is None
    assert driver.functions()[-2:] == ["wait_on", "synchronize"]


def test_a_launch_waits_for_the_markers_that_it_comes_after(driver, executor):
    first, second = submit(executor), submit(executor)
    calls = len(driver.calls)
    submit(executor, after=(first.marker, second.marker))
    assert driver.calls[calls + 1 : calls + 3] == [
        ("wait_on", OWN_STREAM, driver.event(0)),
        ("wait_on", OWN_STREAM, driver.event(1)),
    ]
    assert driver.calls[calls + 3][0] == "launch"


def test_markers_of_another_executor_are_waited_for_in_the_own_stream(driver, executor, start):
    other_driver = FakeDriver(ordinal=0, address=0xB000)
    other = start(driver=other_driver)
    marker = submit(executor).marker
    submit(other, after=(marker,))
    assert driver.named("wait_on") == [(0xB000, driver.event(0))]
    assert other_driver.named("wait_on") == []


def test_a_marker_can_be_waited_for_when_its_executor_is_closed(driver, executor):
    marker = submit(executor).marker
    driver.event(0).complete()
    executor.close()
    marker.wait_on(CALLER)
    assert driver.calls[-1] == ("wait_on", CALLER, driver.event(0))


def test_a_marker_of_a_lost_context_says_so(driver, executor):
    marker = submit(executor).marker
    driver.failures["wait_on"].append(CudaError("CUDA_ERROR_ILLEGAL_ADDRESS: an earlier kernel"))
    with pytest.raises(ContextPoisonedError, match="making stream 0x6000 wait"):
        marker.wait_on(CALLER)


def test_work_that_was_not_launched_has_no_marker(driver, executor):
    driver.failures["launch"].append(CudaError("CUDA_ERROR_INVALID_VALUE: one or more parameters"))
    assert submit(executor).marker is None


def test_one_actors_work_comes_after_anothers_without_the_host(driver, executor, start):
    other_driver = FakeDriver(address=0xB000)
    other = start(driver=other_driver)
    message = FlashAttnMsg.forward(request())
    with FlashAttnActor.start(executor=executor) as one, FlashAttnActor.start(executor=other) as two:
        first = one.ask(message)
        second = two.ask(message, after=first)
        event = other_driver.event(0)  # launched, although the first is not complete
        assert driver.named("wait_on") == [(0xB000, driver.event(0))]
        assert not first.done
        driver.event(0).complete()
        event.complete()
        assert first.result(PATIENCE).out is not None
        assert second.result(PATIENCE).out is not None


def test_the_stream_that_is_asked_with_waits_in_both_directions(driver, executor):
    with FlashAttnActor.start(executor=executor) as actor:
        pending = actor.ask(FlashAttnMsg.forward(request()), stream=SimpleNamespace(cuda_stream=CALLER))
        pending.launched.result(PATIENCE)
        assert ("own stream", CALLER) in driver.named("wait_for")
        assert driver.named("wait_on") == [(CALLER, driver.event(0))]
        driver.event(0).complete()
        pending.result(PATIENCE)
