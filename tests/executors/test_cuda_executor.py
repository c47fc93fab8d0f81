"""The cuda executor over a recording fake of the driver: its calls, its answers, its failures."""

import sys
import threading

import numpy as np
import pytest
import torch
from fake_cuda import (
    ILLEGAL_ADDRESS,
    OUT,
    PATIENCE,
    CudaError,
    DeviceArray,
    arrays,
    request,
    submit,
    submit_prepared,
    work_of,
)

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
    ContextPoisonedError,
    LaunchError,
    MissingOperandsError,
    NoKernelError,
    OperandError,
    RequestError,
)
from flashactor.executors.cuda import DEFAULT_SHARED_BYTES
from flashactor.kernels.plan import plan
from flashactor.kernels.sm90_forward import SM90


def test_the_calls_come_in_order_and_carry_the_plan(driver, executor):
    a_request = request()
    (step,) = plan(a_request, SmArch.SM90A, SM90, a_request.arrays(), 0).launches
    assert step.shared_bytes > DEFAULT_SHARED_BYTES
    assert [each.address for each in step.tensor_maps] == [1 << 20, 1 << 20, 1 << 20, OUT]
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


def test_a_failed_launch_is_answered_and_the_executor_goes_on(driver, executor):
    driver.failures["launch"].append(CudaError("CUDA_ERROR_INVALID_VALUE: one or more parameters"))
    failed = submit(executor)
    assert isinstance(failed.outcome.error, LaunchError)
    assert "CUDA_ERROR_INVALID_VALUE while launching flashactor::fa3::fwd" in failed.outcome.error.got
    assert failed.thread == threading.current_thread().name
    answer = submit(executor)
    driver.event(0).complete()
    assert answer.outcome.error is None


def test_a_kernel_whose_event_fails_to_record_is_waited_for_before_its_arrays_go(driver, executor):
    driver.failures["record"].append(CudaError("CUDA_ERROR_INVALID_HANDLE: the handle"))
    answer = submit(executor)
    assert isinstance(answer.outcome.error, LaunchError)
    assert driver.functions()[-2:] == ["record", "synchronize"]


def test_a_sticky_error_answers_what_is_in_flight_and_what_comes_later(driver, executor):
    prepared = executor.prepare(work_of(request()))
    first, second = submit(executor), submit(executor)
    for index in (0, 1):
        driver.event(index).fail(CudaError(ILLEGAL_ADDRESS))
    for answer in (first, second):
        assert isinstance(answer.outcome.error, ContextPoisonedError)
        assert "CUDA_ERROR_ILLEGAL_ADDRESS while running" in answer.outcome.error.got
        assert not answer.outcome.refused
    later = submit_prepared(executor, prepared)
    assert isinstance(later.outcome.error, ContextPoisonedError)
    assert later.outcome.refused
    assert later.outcome.error.got.endswith("earlier")
    assert "restart the process" in refusal(executor, request(), ContextPoisonedError).remedy
    assert driver.functions().count("launch") == 2


def test_a_sticky_error_at_launch_poisons_too(driver, executor):
    prepared = [executor.prepare(work_of(request())) for _ in range(2)]
    driver.failures["launch"].append(CudaError("CUDA_ERROR_LAUNCH_FAILED: an earlier kernel"))
    outcomes = [submit_prepared(executor, work).outcome for work in prepared]
    assert [type(outcome.error) for outcome in outcomes] == [ContextPoisonedError] * 2
    assert [outcome.refused for outcome in outcomes] == [False, True]
    assert driver.functions().count("launch") == 1


def test_a_context_that_others_share_is_not_renewable(driver, executor, start):
    assert not executor.renewable
    driver.shares_context = False
    assert start().renewable


def refusal(executor, a_request, kind):
    """The error that `prepare` raises."""
    with pytest.raises(kind) as raised:
        executor.prepare(work_of(a_request))
    return raised.value


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_host_arrays_are_refused_by_name_with_the_remedy(driver, executor, library):
    host = [np.zeros((1, 4, 2, 64), np.float16) for _ in range(3)]
    if library == "torch":
        host = [torch.from_numpy(array) for array in host]
    error = refusal(executor, Fa2FwdRequest.from_arrays(*host), OperandError)
    assert (error.field, str(error.got), error.expected) == ("q.device", "cpu", "cuda:0")
    assert "move q to the device" in error.remedy
    assert "executor='reference'" in error.remedy
    assert driver.functions() == ["create_stream"]


def test_arrays_of_another_device_are_refused(executor):
    q, k, v, out, lse = arrays(ordinal=1)
    error = refusal(executor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse), OperandError)
    assert (error.field, str(error.got), error.expected) == ("q.device", "cuda:1", "cuda:0")


def test_a_request_for_another_architecture_is_refused(executor):
    error = refusal(executor, request(arch=SmArch.SM80), RequestError)
    assert (error.field, error.got) == ("arch", "sm_80")


def test_a_bare_cell_is_missing_its_operands(executor):
    refusal(executor, Fa2FwdRequest(SmArch.SM90A, DType.BF16, 64), MissingOperandsError)


def test_a_request_that_no_kernel_computes_says_why(executor):
    error = refusal(executor, request(implementation="reference"), NoKernelError)
    assert "computes on the host, not on the device" in str(error)


def test_only_prepared_work_is_launched(driver, executor):
    answer = submit_prepared(executor, work_of(request()))
    assert isinstance(answer.outcome.error, ActorFailedError)
    assert "prepare" in answer.outcome.error.got
    assert "launch" not in driver.functions()


def test_an_unexpected_error_is_answered(driver, executor):
    driver.failures["load"].append(KeyError("nothing that a driver raises"))
    error = submit(executor).outcome.error
    assert isinstance(error, ActorFailedError)
    assert isinstance(error.__cause__, KeyError)
    assert "KeyError" in error.got
    submit(executor)
    driver.event(0).complete()


def test_a_receiver_that_fails_does_not_stop_the_completion_thread(driver, executor, caplog):
    def done(outcome):
        raise RuntimeError("receiver")

    executor.submit(executor.prepare(work_of(request())), done)
    answer = submit(executor)
    for index in (0, 1):
        driver.event(index).complete()
    assert answer.outcome.error is None
    assert "the receiver of an outcome failed" in caplog.text


def test_through_the_actor(driver, executor):
    with FlashAttnActor.start(executor=executor) as actor:
        pending = actor.ask(FlashAttnMsg.forward(request()))
        driver.event(0).complete()
        reply = pending.result(PATIENCE)
    assert reply.executor == "cuda"
    assert reply.kernel_name == "flashactor::fa3::fwd<f16, 128, causal>_gqa2"
    assert reply.timings.compiled > 0
    assert driver.functions()[-1] == "close_stream"
