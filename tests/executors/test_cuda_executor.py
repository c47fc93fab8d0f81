"""The cuda executor over a recording fake of the driver: order, lifetimes, limits, failures, closing."""

import gc
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import ILLEGAL_ADDRESS, OUT, PATIENCE, CudaError, DeviceArray, arrays, request, submit, work_of

from flashactor import (
    DType,
    Fa2FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    SmArch,
)
from flashactor.arrays import ArrayView
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    ContextPoisonedError,
    LaunchError,
    MissingOperandsError,
    NoKernelError,
    OperandError,
    OutOfMemoryError,
    RequestError,
)
from flashactor.executors.cuda import DEFAULT_SHARED_BYTES
from flashactor.kernels.plan import plan


def test_the_calls_come_in_order_and_carry_the_plan(driver, executor):
    a_request = request()
    (step,) = plan(a_request, SmArch.SM90A, a_request.arrays(), 0).launches
    assert step.shared_bytes > DEFAULT_SHARED_BYTES
    answer = submit(executor, a_request)
    driver.event(0).complete()
    assert answer.outcome.error is None
    kernel = f"kernel {step.spec.entry}"
    assert driver.calls == [
        ("create_stream",),
        ("load", b"cubin of " + step.spec.entry.encode(), step.spec.entry),
        ("wait_for", "own stream", 0),
        ("allow_shared_memory", kernel, step.shared_bytes),
        ("launch", "own stream", kernel, step),
        ("record", "own stream"),
        ("wait", driver.events[0]),
    ]


def test_a_kernel_is_loaded_and_given_its_shared_memory_once(driver, executor):
    for _ in range(3):
        submit(executor)
    submit(executor, request(softcap=2.0))
    assert driver.functions().count("launch") == 4
    assert driver.functions().count("load") == driver.functions().count("allow_shared_memory") == 2
    assert len(executor._source.asked) == 2


def test_the_answer_comes_from_the_completion_thread_and_only_after_the_event(driver, executor):
    answer = submit(executor)
    assert not answer.given
    driver.event(0).complete()
    outcome = answer.outcome
    assert (answer.thread, answer.count) == ("flashactor-cuda-0", 1)
    assert outcome.compile_seconds > 0
    assert outcome.launch_seconds > 0


def test_the_context_is_made_current_on_every_thread_that_calls_cuda(driver, executor):
    thread = threading.Thread(target=submit, args=(executor,), name="submitter")
    thread.start()
    thread.join(PATIENCE)
    driver.event(0).complete()
    executor.close()
    assert driver.active_threads == {threading.current_thread().name, "submitter", "flashactor-cuda-0"}


def test_the_callers_outputs_are_answered(driver, executor):
    q, k, v, out, lse = arrays()
    answer = submit(executor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse))
    driver.event(0).complete()
    assert answer.outcome.outputs.out is out
    assert answer.outcome.outputs.lse is lse


def test_missing_outputs_are_allocated_by_the_inputs_library(driver, executor, monkeypatch):
    def allocate(like, shape, dtype):
        return DeviceArray(*shape, typestr=np.dtype(dtype).str, address=OUT)

    monkeypatch.setitem(sys.modules["flashactor.allocation"]._ALLOCATORS, "fake_cuda", allocate)
    q, k, v, _, _ = arrays()
    answer = submit(executor, Fa2FwdRequest.from_arrays(q, k, v))
    driver.event(0).complete()
    out, lse = answer.outcome.outputs.out, answer.outcome.outputs.lse
    assert ArrayView.of(out, "out").shape == (2, 100, 4, 128)
    assert ArrayView.of(out, "out").dtype == "float16"
    assert ArrayView.of(lse, "lse").shape == (2, 4, 100)
    assert ArrayView.of(lse, "lse").dtype == "float32"


def test_arrays_live_until_the_event_and_no_longer(driver, executor):
    def launch():
        q, k, v, out, lse = arrays()
        submit(executor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse))
        return [weakref.ref(array) for array in (q, k, v, out, lse)]

    references = launch()
    gc.collect()
    assert all(reference() is not None for reference in references)
    driver.event(0).complete()
    deadline = time.monotonic() + PATIENCE
    while any(reference() is not None for reference in references) and time.monotonic() < deadline:
        gc.collect()
    assert [reference() for reference in references] == [None] * 5


def test_no_more_than_max_in_flight_are_launched(driver, start):
    executor = start(max_in_flight=2)
    first, second = submit(executor), submit(executor)
    third = submit(executor)
    time.sleep(0.05)
    assert driver.functions().count("launch") == 2
    driver.event(0).complete()
    assert first.outcome.error is None
    driver.event(2)
    assert driver.functions().count("launch") == 3
    assert not second.given
    for index in (1, 2):
        driver.event(index).complete()
    assert second.outcome.error is third.outcome.error is None


def test_max_in_flight_must_leave_room_for_a_kernel(start):
    with pytest.raises(RequestError, match="max_in_flight"):
        start(max_in_flight=0)


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


def test_a_failed_launch_is_answered_and_the_executor_goes_on(driver, start):
    executor = start(max_in_flight=1)
    driver.failures["launch"] = CudaError("CUDA_ERROR_INVALID_VALUE: one or more parameters")
    failed = submit(executor)
    assert isinstance(failed.outcome.error, LaunchError)
    assert "CUDA_ERROR_INVALID_VALUE while launching flashactor::fa3::fwd" in failed.outcome.error.got
    assert failed.thread == threading.current_thread().name
    answer = submit(executor)
    driver.event(0).complete()
    assert answer.outcome.error is None


def test_a_kernel_whose_event_fails_to_record_is_waited_for_before_its_arrays_go(driver, executor):
    driver.failures["record"] = CudaError("CUDA_ERROR_INVALID_HANDLE: the handle")
    answer = submit(executor)
    assert isinstance(answer.outcome.error, LaunchError)
    assert driver.functions()[-2:] == ["record", "synchronize"]


def test_a_sticky_error_answers_what_is_in_flight_and_what_comes_later(driver, executor):
    first, second = submit(executor), submit(executor)
    for index in (0, 1):
        driver.event(index).fail(CudaError(ILLEGAL_ADDRESS))
    for answer in (first, second):
        assert isinstance(answer.outcome.error, ContextPoisonedError)
        assert "CUDA_ERROR_ILLEGAL_ADDRESS while running" in answer.outcome.error.got
    launches = driver.functions().count("launch")
    later = submit(executor)
    assert isinstance(later.outcome.error, ContextPoisonedError)
    assert later.outcome.error.got.endswith("earlier")
    assert "restart the process" in later.outcome.error.remedy
    assert driver.functions().count("launch") == launches


def test_a_sticky_error_at_launch_poisons_too(driver, executor):
    driver.failures["launch"] = CudaError("CUDA_ERROR_LAUNCH_FAILED: an earlier kernel")
    for _ in range(2):
        assert isinstance(submit(executor).outcome.error, ContextPoisonedError)
    assert driver.functions().count("launch") == 1


@pytest.mark.parametrize("kind", [MemoryError, type("OutOfMemoryError", (RuntimeError,), {})])
def test_a_library_without_memory_for_the_outputs(executor, monkeypatch, kind):
    def allocate(like, shape, dtype):
        raise kind("tried to allocate 2 GiB")

    monkeypatch.setitem(sys.modules["flashactor.allocation"]._ALLOCATORS, "fake_cuda", allocate)
    q, k, v, _, _ = arrays()
    error = submit(executor, Fa2FwdRequest.from_arrays(q, k, v)).outcome.error
    assert isinstance(error, OutOfMemoryError)
    assert "2 GiB" in error.got


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_host_arrays_are_refused_by_name_with_the_remedy(driver, executor, library):
    host = [np.zeros((1, 4, 2, 64), np.float16) for _ in range(3)]
    if library == "torch":
        host = [torch.from_numpy(array) for array in host]
    error = submit(executor, Fa2FwdRequest.from_arrays(*host)).outcome.error
    assert isinstance(error, OperandError)
    assert (error.field, str(error.got), error.expected) == ("q.device", "cpu", "cuda:0")
    assert "move q to the device" in error.remedy
    assert "executor='reference'" in error.remedy
    assert driver.functions() == ["create_stream"]


def test_arrays_of_another_device_are_refused(executor):
    q, k, v, out, lse = arrays(ordinal=1)
    error = submit(executor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse)).outcome.error
    assert isinstance(error, OperandError)
    assert (error.field, str(error.got), error.expected) == ("q.device", "cuda:1", "cuda:0")


def test_a_request_for_another_architecture_is_refused(executor):
    error = submit(executor, request(arch=SmArch.SM80)).outcome.error
    assert isinstance(error, RequestError)
    assert (error.field, error.got) == ("arch", "sm_80")


def test_a_bare_cell_is_missing_its_operands(executor):
    bare = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 64)
    assert isinstance(submit(executor, bare).outcome.error, MissingOperandsError)


def test_a_request_that_no_kernel_computes_says_why(executor):
    error = submit(executor, request(implementation="reference")).outcome.error
    assert isinstance(error, NoKernelError)
    assert "computes on the host, not on the device" in str(error)


def test_an_unexpected_error_is_answered(driver, executor):
    driver.failures["load"] = KeyError("nothing that a driver raises")
    error = submit(executor).outcome.error
    assert isinstance(error, ActorFailedError)
    assert isinstance(error.__cause__, KeyError)
    assert "KeyError" in error.got
    submit(executor)
    driver.event(0).complete()


def test_a_receiver_that_fails_does_not_stop_the_completion_thread(driver, executor, caplog):
    def done(outcome):
        raise RuntimeError("receiver")

    executor.submit(work_of(request()), done)
    answer = submit(executor)
    for index in (0, 1):
        driver.event(index).complete()
    assert answer.outcome.error is None
    assert "the receiver of an outcome failed" in caplog.text


def test_close_waits_for_what_is_in_flight(driver, executor):
    answers = [submit(executor) for _ in range(3)]
    closing = threading.Thread(target=executor.close)
    closing.start()
    time.sleep(0.05)
    assert closing.is_alive()
    for index in range(3):
        driver.event(index).complete()
    closing.join(PATIENCE)
    assert all(answer.given and answer.outcome.error is None for answer in answers)
    assert driver.functions()[-1] == "close_stream"
    assert "flashactor-cuda-0" not in [thread.name for thread in threading.enumerate()]


def test_closing_twice_is_closing_once_and_later_work_is_answered(driver, executor):
    executor.close()
    executor.close()
    assert driver.functions().count("close_stream") == 1
    assert isinstance(submit(executor).outcome.error, ActorStoppedError)


def test_through_the_actor(driver, executor):
    with FlashAttnActor.start(executor=executor) as actor:
        pending = actor.ask(FlashAttnMsg.forward(request()))
        driver.event(0).complete()
        reply = pending.result(PATIENCE)
    assert reply.executor == "cuda"
    assert reply.kernel_name == "flashactor::fa3::fwd<f16, 128, causal>_gqa2"
    assert reply.timings.compiled > 0
    assert driver.functions()[-1] == "close_stream"
