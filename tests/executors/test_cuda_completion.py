"""Every way to notice the end of a kernel keeps the same promises: order, lifetimes, errors, endings."""

import gc
import threading
import weakref

import pytest
from fake_cuda import ILLEGAL_ADDRESS, PATIENCE, CudaError, arrays, request, submit, work_of

from flashactor import Fa2FwdRequest
from flashactor.errors import ActorStoppedError, ContextPoisonedError, LaunchError
from flashactor.types import Completion

THREAD = "flashactor-cuda-0"


@pytest.fixture(params=Completion)
def executor(request, start):
    return start(completion=request.param)


def threads():
    return [thread.name for thread in threading.enumerate()]


def launch_and_forget(executor):
    """References to all arrays of a request that is launched, and that nobody else keeps."""
    q, k, v, out, lse = arrays()
    submit(executor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse))
    return [weakref.ref(array) for array in (q, k, v, out, lse)]


def alive(references):
    gc.collect()
    return [reference() is not None for reference in references]


def test_the_answer_comes_after_the_event_from_the_completion_thread(driver, executor):
    answer = submit(executor)
    assert not answer.given
    driver.event(0).complete()
    assert answer.outcome.error is None
    assert (answer.thread, answer.count) == (THREAD, 1)
    assert driver.waiting_threads <= {THREAD}


def test_answers_keep_the_order_of_the_launches(driver, executor):
    answered = []
    answers = [submit(executor) for _ in range(3)]
    executor.submit(executor.prepare(work_of(request())), lambda outcome: answered.append(len(answered)))
    for index in (3, 1, 2):
        driver.event(index).complete()
    assert not any(answer.given for answer in answers)
    driver.event(0).complete()
    assert [answer.outcome.error for answer in answers] == [None] * 3
    executor.close()
    assert answered == [0]


def test_arrays_live_until_the_event_and_no_longer(driver, executor):
    references = launch_and_forget(executor)
    assert all(alive(references))
    driver.event(0).complete()
    executor._in_flight.wait_until_complete(PATIENCE)
    assert not any(alive(references))


def test_the_error_of_a_kernel_is_its_answer(driver, executor):
    first, second = submit(executor), submit(executor)
    for index in (0, 1):
        driver.event(index).fail(CudaError(ILLEGAL_ADDRESS))
    for answer in (first, second):
        assert isinstance(answer.outcome.error, ContextPoisonedError)
        assert answer.outcome.outputs is None


def test_close_waits_for_what_is_in_flight(driver, executor):
    answers = [submit(executor) for _ in range(3)]
    closing = threading.Thread(target=executor.close)
    closing.start()
    for index in range(3):
        assert closing.is_alive()
        assert not answers[index].given
        assert "close_stream" not in driver.functions()
        driver.event(index).complete()
    closing.join(PATIENCE)
    assert all(answer.given and answer.outcome.error is None for answer in answers)
    assert driver.functions()[-1] == "close_stream"
    assert THREAD not in threads()


def test_closing_twice_is_closing_once_and_later_work_is_refused(driver, executor):
    prepared = executor.prepare(work_of(request()))
    executor.close()
    executor.close()
    assert driver.functions().count("close_stream") == 1
    with pytest.raises(ActorStoppedError):
        executor.prepare(work_of(request()))
    outcomes = []
    assert executor.submit(prepared, outcomes.append) is None
    assert isinstance(outcomes[0].error, ActorStoppedError)
    assert "launch" not in driver.functions()


def test_abandoned_work_keeps_its_arrays_until_the_events_and_is_not_answered(driver, executor):
    references = launch_and_forget(executor)
    answer = submit(executor)
    executor.abandon()  # comes back although nothing is complete
    assert all(alive(references))
    assert "close_stream" not in driver.functions()
    for index in (0, 1):
        driver.event(index).complete()
    driver.wait_for_call("close_stream")
    executor.close()
    assert not any(alive(references))
    assert not answer.given
    assert THREAD not in threads()
    assert driver.functions().count("close_stream") == 1


@pytest.mark.parametrize("end", ["close", "abandon"])
def test_a_launch_that_is_stuck_when_its_executor_ends_is_kept_to_its_event(driver, executor, end):
    stuck, go_on = threading.Event(), threading.Event()
    allow = driver.allow_shared_memory

    def allow_shared_memory(kernel, size):
        stuck.set()
        assert go_on.wait(PATIENCE)
        allow(kernel, size)

    driver.allow_shared_memory = allow_shared_memory
    answers = []
    launching = threading.Thread(target=lambda: answers.append(submit(executor)))
    launching.start()
    assert stuck.wait(PATIENCE)
    ending = threading.Thread(target=getattr(executor, end))
    ending.start()
    if end == "abandon":
        ending.join(PATIENCE)
    assert ending.is_alive() == (end == "close")
    assert "close_stream" not in driver.functions()
    go_on.set()
    launching.join(PATIENCE)
    assert "close_stream" not in driver.functions()
    driver.event(0).complete()
    ending.join(PATIENCE)
    driver.wait_for_call("close_stream")
    assert answers[0].given == (end == "close")


def test_abandoned_work_of_a_lost_context_goes_too(driver, executor):
    references = launch_and_forget(executor)
    executor.abandon()
    driver.event(0).fail(CudaError(ILLEGAL_ADDRESS))
    executor.close()
    assert not any(alive(references))


def test_a_device_that_cannot_be_released_is_a_line_in_the_log(driver, executor, caplog):
    driver.failures["close_stream"].append(CudaError(ILLEGAL_ADDRESS))
    executor.close()
    assert "could not be released" in caplog.text
    assert THREAD not in threads()


def test_closing_in_a_receiver_waits_for_nothing(driver, executor):
    closed = threading.Event()

    def done(outcome):
        executor.close()
        closed.set()

    executor.submit(executor.prepare(work_of(request())), done)
    driver.event(0).complete()
    assert closed.wait(PATIENCE)
    executor.close()
    assert driver.functions()[-1] == "close_stream"


def test_a_callback_that_never_comes_is_made_up_for_by_a_look(driver, start):
    executor = start(completion=Completion.CALLBACK)
    answer = submit(executor)
    driver.event(0).callbacks.clear()
    driver.event(0).complete()
    assert answer.outcome.error is None


def test_a_callback_that_cannot_be_enqueued_is_answered_when_the_kernel_is_done(driver, start):
    executor = start(completion=Completion.CALLBACK)
    driver.failures["call_back"].append(CudaError("CUDA_ERROR_NOT_SUPPORTED: no callbacks"))
    answer = submit(executor)
    assert isinstance(answer.outcome.error, LaunchError)
    assert driver.functions()[-2:] == ["call_back", "synchronize"]


def test_only_the_callback_strategy_enqueues_callbacks(driver, executor):
    submit(executor)
    callbacks = driver.named("call_back")
    assert callbacks == [("own stream",)] * (type(executor._waiter).__name__ == "CallbackWaiter")
