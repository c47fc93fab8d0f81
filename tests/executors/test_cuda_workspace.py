"""Requests of several kernels, and their scratch memory: allocated, or the caller's and then nothing is."""

import gc
import struct
import sys
import weakref

import numpy as np
import pytest
from fake_cuda import (
    LSE,
    OUT,
    PATIENCE,
    CudaError,
    DeviceArray,
    FakeKernels,
    submit,
    submit_prepared,
    work_of,
)

from flashactor import Fa2FwdRequest, FlashAttnError, MaskKind, SmArch, workspace_size
from flashactor.errors import LaunchError, MissingOperandsError, OperandError, RequestError
from flashactor.executors.operands import workspace_view
from flashactor.kernels.combine import CombineSpec
from flashactor.kernels.params import COMBINE_PARAMS
from flashactor.kernels.plan import plan
from flashactor.kernels.sm90 import HOPPER_PARAMS
from flashactor.kernels.sm90_forward import SM90

SCRATCH = 18 << 28
"""Address of the workspace that requests bring along."""


def decode(batch=1, **options):
    """One query token of each sequence over many keys: few tiles, so that each is split."""
    q, out = DeviceArray(batch, 1, 8, 128), DeviceArray(batch, 1, 8, 128, address=OUT)
    k, v = DeviceArray(batch, 8192, 2, 128), DeviceArray(batch, 8192, 2, 128)
    lse = DeviceArray(batch, 8, 1, typestr="<f4", address=LSE)
    given = {"out": out, "lse": lse, "mask": MaskKind.causal(), "arch": SmArch.SM90A}
    return Fa2FwdRequest.from_arrays(q, k, v, **{**given, **options})


def scratch(size, address=SCRATCH):
    return DeviceArray(size, typestr="|u1", address=address)


NEEDED = workspace_size(decode())


@pytest.fixture
def allocated(monkeypatch):
    """What is allocated, as (shape, dtype), from now on."""
    seen = []

    def allocate(like, shape, dtype):
        seen.append((shape, dtype))
        return DeviceArray(*shape, typestr=np.dtype(dtype).str, address=19 << 28)

    monkeypatch.setitem(sys.modules["flashactor.allocation"]._ALLOCATORS, "fake_cuda", allocate)
    return seen


@pytest.fixture
def no_allocation(monkeypatch):
    def allocate(like, shape, dtype):
        raise MemoryError(f"{shape} of {dtype} was asked for")

    monkeypatch.setitem(sys.modules["flashactor.allocation"]._ALLOCATORS, "fake_cuda", allocate)


def field(params, layout, name):
    names = [name for name, _ in layout.fields]
    formats = {"pointer": "Q", "i64": "q", "int": "i", "u32": "I", "float": "f"}
    values = struct.unpack("<" + "".join(formats[kind] for _, kind in layout.fields), params)
    return values[names.index(name)]


def test_a_split_request_launches_its_kernels_in_order_and_records_one_event(driver, executor, no_allocation):
    a_request = decode(workspace=scratch(NEEDED))
    answer = submit(executor, a_request)
    driver.event(0).complete()
    assert answer.outcome.error is None
    main, combine = plan(a_request, SmArch.SM90A, SM90, a_request.arrays(), SCRATCH).launches
    assert isinstance(combine.spec, CombineSpec)
    assert driver.calls == [
        ("create_stream",),
        ("load", b"cubin of flash_fwd_sm90", "flash_fwd_sm90"),
        ("load", b"cubin of flash_combine", "flash_combine"),
        ("wait_for", "own stream", 0),
        ("allow_shared_memory", "kernel flash_fwd_sm90", main.shared_bytes),
        ("launch", "own stream", "kernel flash_fwd_sm90", main),
        ("launch", "own stream", "kernel flash_combine", combine),
        ("record", "own stream"),
    ]


def test_the_work_is_ready_when_the_last_of_its_kernels_is_there(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    prepared, calls = executor.prepare(work_of(decode(workspace=scratch(NEEDED)))), []
    prepared.when_ready(lambda: calls.append("ready"))
    assert [spec.kind for spec, _ in kernels.asked] == ["fwd", "combine"]
    kernels.deliver(1)
    assert not prepared.ready
    kernels.deliver(0)
    assert prepared.ready
    assert calls == ["ready"]
    answer = submit_prepared(executor, prepared)
    driver.event(0).complete()
    assert answer.outcome.error is None
    assert driver.functions().count("launch") == 2


def test_one_kernel_that_does_not_compile_answers_the_work(driver, start):
    kernels = FakeKernels(at_once=False)
    executor = start(kernels)
    prepared = executor.prepare(work_of(decode(workspace=scratch(NEEDED))))
    error = LaunchError("kernel", "a bad one", "a good one", "mend it")
    kernels.fail(1, error)
    kernels.deliver(0)
    assert submit_prepared(executor, prepared).outcome.error is error
    assert "launch" not in driver.functions()


def test_a_second_kernel_that_fails_to_launch_waits_for_the_first(driver, executor):
    def launch(stream, kernel, step):
        driver._call("launch", stream, kernel, step)
        driver.failures["launch"].append(CudaError("CUDA_ERROR_INVALID_VALUE: the second"))

    driver.launch = launch
    answer = submit(executor, decode(workspace=scratch(NEEDED)))
    assert isinstance(answer.outcome.error, LaunchError)
    assert driver.functions()[-3:] == ["launch", "launch", "synchronize"]


def test_with_outputs_and_workspace_a_launch_allocates_nothing_and_waits_for_nothing(
    driver, executor, no_allocation
):
    answers = [submit(executor, decode(workspace=scratch(NEEDED))) for _ in range(3)]
    assert not any(answer.given for answer in answers)  # so `submit` came back while nothing was done
    assert driver.functions().count("launch") == 6
    assert "synchronize" not in driver.functions()
    for index in range(3):
        driver.event(index).complete()
    assert all(answer.outcome.error is None for answer in answers)
    assert driver.waiting_threads == {"flashactor-cuda-0"}
    assert "synchronize" not in driver.functions()


def test_without_a_workspace_one_is_allocated_of_just_the_size(driver, executor, allocated):
    answer = submit(executor, decode())
    driver.event(0).complete()
    assert answer.outcome.error is None
    assert allocated == [((NEEDED,), "uint8")]
    (_, _, main), (_, _, combine) = driver.named("launch")
    assert field(main.params, HOPPER_PARAMS, "partial_out") == 19 << 28
    assert field(combine.params, COMBINE_PARAMS, "partial_out") == 19 << 28
    lse = field(main.params, HOPPER_PARAMS, "partial_lse")
    assert lse == field(combine.params, COMBINE_PARAMS, "partial_lse")
    assert 19 << 28 < lse < (19 << 28) + NEEDED


def test_a_workspace_that_is_not_needed_is_not_allocated(driver, executor, no_allocation):
    short = {"k": DeviceArray(1, 64, 2, 128), "v": DeviceArray(1, 64, 2, 128)}
    whole = decode()
    q, out, lse = (whole.arrays()[name] for name in ("q", "out", "lse"))
    a_request = Fa2FwdRequest.from_arrays(q, **short, out=out, lse=lse)
    assert workspace_size(a_request, SmArch.SM90A) == 0
    answer = submit(executor, a_request)
    driver.event(0).complete()
    assert answer.outcome.error is None


def test_a_workspace_that_is_too_small_is_refused_with_its_size(driver, executor, no_allocation):
    error = submit(executor, decode(workspace=scratch(NEEDED - 1))).outcome.error
    assert isinstance(error, OperandError)
    assert error.field == "workspace"
    assert error.got == f"{NEEDED - 1} bytes"
    assert str(NEEDED) in error.expected
    assert "workspace_size" in error.remedy
    assert "launch" not in driver.functions()


def test_a_workspace_lives_until_the_event_and_no_longer(driver, executor):
    def launch():
        array = scratch(NEEDED)
        submit(executor, decode(workspace=array))
        return weakref.ref(array)

    reference = launch()
    gc.collect()
    assert reference() is not None
    driver.event(0).complete()
    executor._in_flight.wait_until_complete(PATIENCE)
    gc.collect()
    assert reference() is None


def test_an_allocated_workspace_lives_until_the_event_and_no_longer(driver, executor, monkeypatch):
    made = []

    def allocate(like, shape, dtype):
        array = DeviceArray(*shape, typestr=np.dtype(dtype).str)
        made.append(weakref.ref(array))
        return array

    monkeypatch.setitem(sys.modules["flashactor.allocation"]._ALLOCATORS, "fake_cuda", allocate)
    submit(executor, decode())
    gc.collect()
    (reference,) = made
    assert reference() is not None
    driver.event(0).complete()
    executor._in_flight.wait_until_complete(PATIENCE)
    gc.collect()
    assert reference() is None


def test_a_workspace_on_another_device_is_refused():
    elsewhere = DeviceArray(NEEDED, typestr="|u1", ordinal=1)
    with pytest.raises(OperandError, match="workspace"):
        decode(workspace=elsewhere)


def test_the_size_is_the_architectures():
    free = decode(batch=20, arch=None)
    sizes = {arch: workspace_size(free, arch) for arch in SmArch}
    assert len(set(sizes.values())) > 1  # more multiprocessors, more splits
    assert workspace_size(decode(batch=20, arch=SmArch.SM120)) == sizes[SmArch.SM120]
    assert workspace_size(free) == sizes[SmArch.SM80]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((Fa2FwdRequest(SmArch.SM80, decode().dtype, 64),), MissingOperandsError),
        (("a request",), RequestError),
        ((decode(), "sm_80"), RequestError),
    ],
    ids=["bare cell", "no request", "no architecture"],
)
def test_a_size_that_nobody_can_tell(arguments, error):
    assert issubclass(error, FlashAttnError)
    with pytest.raises(error):
        workspace_size(*arguments)


def test_a_larger_workspace_is_used_from_its_start():
    given = scratch(2 * NEEDED)
    arrays = decode(workspace=given).arrays()
    assert workspace_view(arrays, NEEDED).array is given
    assert workspace_view(decode().arrays(), 0) is None
