"""A device without memory: what is in flight ends, pools are released, one more attempt, then the sizes."""

import gc
import sys
import threading

import pytest
from fake_cuda import CudaError, arrays, request, submit, submit_prepared, work_of

from flashactor import Fa2FwdRequest
from flashactor.errors import ContextPoisonedError, LaunchError, OutOfMemoryError
from flashactor.executors import cuda
from flashactor.executors.device_memory import release_pools

NO_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY: unable to allocate"
OUT_BYTES, LSE_BYTES = 2 * 100 * 4 * 128 * 2, 2 * 4 * 100 * 4


def request_without_outputs():
    return Fa2FwdRequest.from_arrays(*arrays()[:3])


def test_a_second_attempt_succeeds_when_the_pools_are_released(driver, executor, allocator, released):
    allocator.failures.append(MemoryError("tried to allocate"))
    answer = submit(executor, request_without_outputs())
    driver.event(0).complete()
    assert answer.outcome.error is None
    assert released == ["torch", "cupy", "cupy pinned"]


@pytest.mark.parametrize("function", ["load", "launch", "allow_shared_memory"])
def test_the_driver_may_be_who_has_no_memory(driver, executor, released, function):
    driver.failures[function].append(CudaError(NO_MEMORY))
    answer = submit(executor)
    driver.event(0).complete()
    assert answer.outcome.error is None
    assert driver.functions().count(function) == 2
    assert released == ["torch", "cupy", "cupy pinned"]


@pytest.mark.parametrize("kind", [MemoryError, type("OutOfMemoryError", (RuntimeError,), {})])
def test_after_two_attempts_the_error_says_what_was_wanted_and_what_is_free(
    executor, allocator, released, kind
):
    allocator.failures += [
        kind("tried to allocate 2 GiB"),
        kind("tried to allocate 3 GiB"),
        kind("once more"),
    ]
    error = submit(executor, request_without_outputs()).outcome.error
    assert isinstance(error, OutOfMemoryError)
    assert "3 GiB while launching flashactor::" in error.got
    assert f"{OUT_BYTES + LSE_BYTES} bytes wanted for outputs and workspace" in error.got
    assert error.got.endswith("1000 free of 8000")
    assert isinstance(error.__cause__, kind)
    assert len(allocator.failures) == 1


def test_only_what_the_caller_did_not_bring_counts_as_wanted(driver, executor, released):
    driver.failures["launch"] += [CudaError(NO_MEMORY), CudaError(NO_MEMORY)]
    error = submit(executor).outcome.error
    assert isinstance(error, OutOfMemoryError)
    assert "; 0 bytes wanted" in error.got


def test_what_is_in_flight_ends_before_the_pools_are_released(driver, executor, allocator, released):
    """Its arrays are let go by then, also those that the first attempt had made before memory ran out."""
    first = submit(executor)
    q, k, v, out, _ = arrays()
    prepared = executor.prepare(work_of(Fa2FwdRequest.from_arrays(q, k, v, out=out)))
    allocator.failures.append(MemoryError("tried to allocate"))
    given_at_release = []
    sys.modules["torch"].cuda.empty_cache = lambda: given_at_release.append(first.given)
    answers = []
    submitting = threading.Thread(target=lambda: answers.append(submit_prepared(executor, prepared)))
    submitting.start()
    assert driver.event(0).waiting.wait(10)
    assert given_at_release == []
    driver.event(0).complete()
    submitting.join(10)
    driver.event(1).complete()
    assert answers[0].outcome.error is None
    assert given_at_release == [True]


def test_what_the_first_attempt_allocated_is_gone_at_the_second(driver, executor, allocator, released):
    seen = []

    def empty_cache():
        gc.collect()
        seen.extend(reference() for reference in allocator.made)

    sys.modules["torch"].cuda.empty_cache = empty_cache
    driver.failures["launch"].append(CudaError(NO_MEMORY))
    answer = submit(executor, request_without_outputs())
    driver.event(0).complete()
    assert answer.outcome.error is None
    assert seen == [None, None]


def test_a_kernel_that_hangs_holds_the_second_attempt_up_for_a_while_only(
    driver, executor, released, monkeypatch
):
    monkeypatch.setattr(cuda, "MEMORY_WAIT_SECONDS", 0.01)
    submit(executor)
    driver.failures["launch"].append(CudaError(NO_MEMORY))
    submit(executor)
    assert driver.functions().count("launch") == 3
    assert released == ["torch", "cupy", "cupy pinned"]


@pytest.mark.parametrize(
    ("second", "kind"),
    [("CUDA_ERROR_INVALID_VALUE: it", LaunchError), ("CUDA_ERROR_ASSERT: it", ContextPoisonedError)],
)
def test_another_error_at_the_second_attempt_is_the_answer(driver, executor, released, second, kind):
    driver.failures["launch"] += [CudaError(NO_MEMORY), CudaError(second)]
    error = submit(executor).outcome.error
    assert type(error) is kind
    assert "bytes wanted" not in error.got


def test_other_errors_are_not_tried_again(driver, executor, released):
    driver.failures["launch"].append(CudaError("CUDA_ERROR_INVALID_VALUE: it"))
    assert isinstance(submit(executor).outcome.error, LaunchError)
    assert driver.functions().count("launch") == 1
    assert released == []


def test_libraries_that_are_not_loaded_are_not_imported(monkeypatch):
    for name in ("torch", "cupy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    release_pools()
    assert not {"torch", "cupy"} & set(sys.modules)


def test_the_error_keeps_no_arrays_alive(driver, executor, released, allocator):
    driver.failures["launch"] += [CudaError(NO_MEMORY), CudaError(NO_MEMORY)]
    error = submit(executor, request()).outcome.error
    assert error.__traceback__ is None
    submit(executor, request_without_outputs())
    driver.event(0).complete()
    executor.close()
    gc.collect()
    assert [reference() for reference in allocator.made] == [None, None]
