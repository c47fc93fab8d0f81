"""The cuda executor while kernels are compiled: nobody is held up, and launches keep their order."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from fake_cuda import ILLEGAL_ADDRESS, PATIENCE, Answer, CudaError, FakeKernels, request, submit, work_of

from flashactor import DType, Fa2FwdRequest, SmArch
from flashactor.errors import CompileError, ContextPoisonedError, MissingOperandsError
from flashactor.kernels.spec import Scores


def test_a_kernel_that_is_compiled_holds_up_neither_the_caller_nor_the_order(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    first, second, refused = submit(executor), submit(executor, request(softcap=2.0)), Answer()
    executor.submit(work_of(Fa2FwdRequest(SmArch.SM90A, DType.BF16, 64)), refused)
    assert isinstance(refused.outcome.error, MissingOperandsError)
    assert [spec.scores for spec, _ in kernels.asked] == [Scores.PLAIN, Scores.MODIFIED]
    kernels.deliver(1)
    assert "launch" not in driver.functions()
    kernels.deliver(0)
    driver.event(1)
    launched = [call[2].spec.scores for call in driver.named("launch")]
    assert launched == [Scores.PLAIN, Scores.MODIFIED]
    for index in (0, 1):
        driver.event(index).complete()
    assert first.outcome.error is second.outcome.error is None


def test_a_loaded_kernel_waits_behind_one_that_is_compiled(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels, max_in_flight=1)
    answers = [submit(executor)]
    kernels.deliver(0)
    driver.event(0).complete()
    assert answers[0].outcome.error is None
    answers += [submit(executor, request(softcap=2.0)), submit(executor), submit(executor)]
    assert driver.functions().count("launch") == 1
    kernels.deliver(1)
    for index in (1, 2, 3):
        driver.event(index).complete()
    assert all(answer.outcome.error is None for answer in answers)
    plain, modified = Scores.PLAIN, Scores.MODIFIED
    launched = [call[2].spec.scores for call in driver.named("launch")]
    assert launched == [plain, modified, plain, plain]


def test_a_failed_compile_answers_its_requests_and_the_others_go_on(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    failing, fine = submit(executor), submit(executor, request(softcap=2.0))
    kernels.deliver(1)
    error = CompileError("kernel source", "an error", "none", "mend it", log="line", source_line="a.cu(1)")
    kernels.fail(0, error)
    assert failing.outcome.error is error
    assert error.__traceback__ is None  # its frames would keep the arrays alive
    driver.event(0).complete()
    assert fine.outcome.error is None
    again = submit(executor)
    assert len(kernels.asked) == 3
    kernels.deliver(2)
    driver.event(1).complete()
    assert again.outcome.error is None


def test_close_waits_for_kernels_that_are_compiled(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    answer = submit(executor)
    closing = threading.Thread(target=executor.close)
    closing.start()
    time.sleep(0.05)
    assert closing.is_alive()
    kernels.deliver(0)
    driver.event(0).complete()
    closing.join(PATIENCE)
    assert answer.outcome.error is None
    assert driver.functions()[-1] == "close_stream"


def test_a_sticky_error_answers_what_waits_for_its_kernel(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    first = submit(executor)
    kernels.deliver(0)
    waiting = submit(executor, request(softcap=2.0))
    driver.event(0).fail(CudaError(ILLEGAL_ADDRESS))
    assert isinstance(first.outcome.error, ContextPoisonedError)
    kernels.deliver(1)
    assert isinstance(waiting.outcome.error, ContextPoisonedError)
    assert driver.functions().count("launch") == 1


def test_many_threads_submit_while_kernels_come_and_places_are_few(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels, max_in_flight=2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: submit(executor, request(softcap=2.0 * (n % 2))), range(64)))
        for index in range(len(kernels.asked)):
            kernels.deliver(index)
        for index in range(64):
            driver.event(index).complete()
        assert all(answer.outcome.error is None for answer in answers)
    assert driver.functions().count("launch") == 64
    assert driver.functions().count("load") == 2


def test_waiting_behind_others_is_not_compiling(driver, start):
    executor = start(max_in_flight=1)
    first, second = submit(executor), submit(executor)
    time.sleep(0.2)
    for index in (0, 1):
        driver.event(index).complete()
    assert first.outcome.error is None
    assert second.outcome.compile_seconds < 0.1


def test_nobody_launches_for_others(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels, max_in_flight=1)
    answers = [submit(executor), submit(executor)]
    for index in (0, 1):
        kernels.deliver(index)  # by this thread, which must not launch
    for index in (0, 1):
        driver.event(index).complete()
    assert all(answer.outcome.error is None for answer in answers)
    assert "flashactor-cuda-0-launch" in driver.active_threads
    assert driver.active_threads <= {"MainThread", "flashactor-cuda-0-launch", "flashactor-cuda-0"}
