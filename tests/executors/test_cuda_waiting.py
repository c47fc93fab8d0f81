"""Work of the cuda executor while kernels are compiled: it says when it is ready, and nobody waits."""

import threading

from fake_cuda import FakeKernels, request, submit_prepared, work_of

from flashactor.errors import CompileError
from flashactor.kernels.spec import Scores


def prepare(executor, **options):
    """Prepared work, and the calls that say that it is ready."""
    prepared, calls = executor.prepare(work_of(request(**options))), []
    prepared.when_ready(lambda: calls.append(threading.current_thread().name))
    return prepared, calls


def test_work_is_ready_when_its_kernel_is_there(start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    first, first_calls = prepare(executor)
    second, second_calls = prepare(executor, softcap=2.0)
    assert [spec.scores for spec, _ in kernels.asked] == [Scores.PLAIN, Scores.MODIFIED]
    assert not first.ready
    kernels.deliver(1)
    assert (first.ready, second.ready) == (False, True)
    assert (len(first_calls), len(second_calls)) == (0, 1)
    kernels.deliver(0)
    assert first.ready
    assert len(first_calls) == 1


def test_who_asks_when_it_is_ready_is_called_at_once(executor):
    prepared, calls = prepare(executor)
    assert prepared.ready
    assert calls == [threading.current_thread().name]


def test_all_who_asked_are_called_by_the_thread_that_brings_the_kernel(start):
    kernels = FakeKernels(at_once=False)
    prepared, calls = prepare(start(kernels))
    prepared.when_ready(lambda: calls.append("again"))
    thread = threading.Thread(target=kernels.deliver, args=(0,), name="compiler")
    thread.start()
    thread.join()
    assert calls == ["compiler", "again"]


def test_preparing_launches_nothing(driver, executor):
    prepare(executor)
    assert driver.functions() == ["create_stream"]


def test_a_loaded_kernel_is_not_asked_for(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    first, _ = prepare(executor)
    second, _ = prepare(executor)
    assert len(kernels.asked) == 2  # neither was loaded
    for index in (0, 1):
        kernels.deliver(index)
    submit_prepared(executor, first)
    assert prepare(executor)[0].ready
    assert len(kernels.asked) == 2
    submit_prepared(executor, second)
    assert driver.functions().count("load") == 1


def test_a_failed_compile_is_ready_and_answers_its_request_and_the_others_go_on(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    failing, calls = prepare(executor)
    fine, _ = prepare(executor, softcap=2.0)
    kernels.deliver(1)
    error = CompileError("kernel source", "an error", "none", "mend it", log="line", source_line="a.cu(1)")
    kernels.fail(0, error)
    assert len(calls) == 1
    assert submit_prepared(executor, failing).outcome.error is error
    assert error.__traceback__ is None  # its frames would keep the arrays alive
    answer = submit_prepared(executor, fine)
    again, _ = prepare(executor)
    assert len(kernels.asked) == 3
    kernels.deliver(2)
    second = submit_prepared(executor, again)
    for index in (0, 1):
        driver.event(index).complete()
    assert answer.outcome.error is second.outcome.error is None
