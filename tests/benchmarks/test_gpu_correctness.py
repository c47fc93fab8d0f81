"""The GPU check's requests and judgement, with executors that need no GPU."""

import numpy as np
import pytest
import torch
from gpu_fakes import ARCH, Driver, Graphs, Kernels, actor_that, cupy_on_numpy

from benchmarks.gpu_check import agreement, correctness, graph
from benchmarks.gpu_check.agreement import agreement_cases, compare, difference
from benchmarks.gpu_check.correctness import check_burst, check_cases
from benchmarks.gpu_check.libraries import CupyArrays, TorchArrays
from benchmarks.gpu_check.moving import fetched, on_device
from benchmarks.gpu_check.sdpa import LongCase, check_against_sdpa, sdpa_cases
from flashactor import DType, FlashAttnActor, SmArch
from flashactor.check.case import Case
from flashactor.check.cases import CASES, cases_of
from flashactor.errors import LaunchError
from flashactor.executors.base import Outputs
from flashactor.executors.reference import ReferenceExecutor, compute
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.select import choose_kernels, family_of
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm90 import hopper_spec
from flashactor.reference.quantization import numpy_dtype

HOST = TorchArrays("cpu")
LIBRARIES = [HOST, CupyArrays(cupy_on_numpy())]
SPECS = all_specs(ARCH)
FORWARD = forward_spec(ARCH, DType.F16, 32)


@pytest.fixture(scope="module")
def actor():
    with FlashAttnActor.start(executor=ReferenceExecutor(ARCH)) as running:
        yield running


def case_of(kind):
    spec = next(spec for spec in SPECS if spec.kind == kind)
    return next(case for case in cases_of(spec) if case.every_schedule)


def small_case(name="one tile"):
    return next(case for case in cases_of(FORWARD) if case.name == name)


# Arrays and requests


@pytest.mark.parametrize("library", LIBRARIES, ids=["torch", "cupy"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float32", "int32"])
def test_values_and_what_lies_around_them_survive_the_way(library, dtype):
    kind = numpy_dtype(DType.parse(dtype)) if dtype not in ("float32", "int32") else np.dtype(dtype)
    memory = np.arange(2 * 3 * 8).reshape(2, 3, 8).astype(kind)
    host = memory.swapaxes(0, 1)[1:, :, 2:6]
    array = library.put(host)
    back = library.get(array, kind)
    assert back.dtype == kind
    np.testing.assert_array_equal(back, host)
    strides = array.stride() if library is HOST else [stride // kind.itemsize for stride in array.strides]
    assert tuple(strides) == (8, 24, 1)
    wider = array.as_strided((8,), (1,), 8) if library is HOST else array.base.view(array.dtype)[8:16]
    np.testing.assert_array_equal(library.get(wider, kind), memory.reshape(-1)[8:16])
    library.scribble(8)


@pytest.mark.parametrize("library", LIBRARIES, ids=["torch", "cupy"])
@pytest.mark.parametrize("kind", list(CASES))
def test_a_request_on_the_device_is_the_same_request(library, kind):
    case = case_of(kind)
    host = case.request()
    moved = on_device(host, library)
    before, after = host.arrays(), moved.arrays()
    assert choose_kernels(moved, ARCH) == choose_kernels(host, ARCH)
    assert after.keys() == before.keys()
    for name, view in before.items():
        assert (after[name].shape, after[name].dtype) == (view.shape, view.dtype)
        assert after[name].pointer != view.pointer
        np.testing.assert_array_equal(fetched(moved, [name], library)[name], view.to_numpy())


# Judgement


# Gradients of sinks are judged by the out that is given, and the reference computes one of its own.
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "bwd_reduce"])
def test_right_answers_of_every_kind_pass(actor, kind):
    case = case_of(kind)
    (checked,) = check_cases(actor, HOST, [case])
    assert (checked.title, checked.problem) == (str(case), None)
    assert 0 <= checked.error_ratio <= 1


def test_a_case_whose_request_runs_other_kernels_fails(actor):
    (checked,) = check_cases(actor, HOST, [Case(FORWARD, "strange", case_of("merge").request)])
    assert checked.problem.startswith("the request runs common.merge.f16")


def test_wrong_answers_fail(monkeypatch):
    monkeypatch.setattr(correctness, "BURST", 2)

    def script(work):
        outputs = compute(work.request)
        outputs.out[0, 3] = 0.0
        return outputs

    with actor_that(script) as wrong:
        (checked,) = check_cases(wrong, HOST, [small_case()])
        bursts = list(check_burst(wrong, HOST, FORWARD))
    assert checked.error_ratio > 1
    assert checked.problem.startswith("out[0, 3, ")
    assert [each.problem[:9] for each in bursts] == ["out[0, 3,"] * 2


def test_a_burst_of_right_answers_passes(actor, monkeypatch):
    monkeypatch.setattr(correctness, "BURST", 2)
    bursts = list(check_burst(actor, HOST, FORWARD))
    assert [each.problem for each in bursts] == [None, None]
    assert bursts[0].error_ratio != bursts[1].error_ratio  # each of values of its own


def test_errors_fail_with_their_text():
    def script(work):
        raise LaunchError("launch", "CUDA_ERROR_INVALID_VALUE", "CUDA_SUCCESS", "report it")

    with actor_that(script) as failing:
        (checked,) = check_cases(failing, HOST, [small_case()])
        burst = next(check_burst(failing, HOST, FORWARD))
        (long,) = check_against_sdpa(failing, [LongCase(FORWARD, True, 9)], "cpu")
        (compared,) = compare(failing, HOST, [small_case()])
    for each in (checked, burst, long, compared):
        assert each.problem.startswith("LaunchError: launch: got CUDA_ERROR_INVALID_VALUE")


def test_sdpa_agrees_with_right_answers_and_not_with_wrong_ones(actor):
    both, full, masked = (
        forward_spec(ARCH, DType.BF16, 64),
        hopper_spec(DType.F16, 128, full=True),
        hopper_spec(DType.F16, 128),
    )
    others = [forward_spec(ARCH, DType.F16, 64, decode=True), hopper_spec(DType.F16, 128, decode=True)]
    cases = sdpa_cases([both, full, masked, *others], seqlen=32)
    expected = [(both, False), (both, True), (full, False), (masked, True)]
    assert [(case.spec, case.causal) for case in cases] == expected
    assert [each.problem for each in check_against_sdpa(actor, cases, "cpu")] == [None] * 4
    with actor_that(lambda work: Outputs(out=torch.zeros(2, 41, 8, work.request.head_dim))) as wrong:
        assert all("out is off by" in each.problem for each in check_against_sdpa(wrong, cases, "cpu"))


# Agreement with the emulator


def test_every_kind_is_emulated_in_a_few_cases():
    cases = agreement_cases(SPECS)
    assert {case.spec.kind for case in cases} == set(CASES)
    hopper = {case.spec.features for case in cases if case.spec.family == "sm90_wgmma"}
    roles = {("full",), ("decode",), ()}
    assert {tuple(word for word in features if word in ("full", "decode")) for features in hopper} == roles
    assert len(cases) <= 3 * (len(CASES) + len(hopper))


def test_the_largest_difference_of_each_output_is_found(actor, monkeypatch):
    def emulate(request, arch, family, arrays):
        assert (arch, family) == (ARCH, SM80)
        answer = compute(request)
        arrays["out"].to_numpy()[...] = answer.out
        arrays["out"].to_numpy()[0, 0, 0, 0] += 0.5

    monkeypatch.setattr(agreement, "emulate", emulate)
    (compared,) = compare(actor, HOST, [small_case()])
    assert (compared.kind, compared.problem) == ("sm80_mma.fwd", None)
    assert compared.differences == {"out": pytest.approx(0.5, rel=0.01), "lse": 0.0}


def test_a_nan_of_one_side_fails(actor, monkeypatch):
    def emulate(request, arch, family, arrays):
        compute(request)
        arrays["lse"].to_numpy()[0, 0, 0] = np.nan

    monkeypatch.setattr(agreement, "emulate", emulate)
    (compared,) = compare(actor, HOST, [small_case()])
    assert compared.problem == "NaN or infinity in one of both: lse"


def test_differences_of_what_is_not_finite():
    a = np.array([1.0, np.nan, -np.inf, 2.0])
    assert difference(a, a) == 0.0
    assert difference(a, np.array([1.5, np.nan, -np.inf, 2.0])) == 0.5
    assert difference(a, np.array([1.0, 0.0, -np.inf, 2.0])) == np.inf
    assert difference(a, np.array([1.0, np.nan, 0.0, 2.0])) == np.inf


# The CUDA graph


@pytest.fixture
def graphs(monkeypatch):
    """A graph check whose launches are computed by the reference executor's formula."""
    cuda = Graphs()

    class Launches:
        def __init__(self, request):
            self.request = request

        def run(self, driver, stream):
            assert self.request.require_operands().workspace.size > 0
            if cuda.capturing is None:
                compute(self.request)
            else:
                cuda.capturing.append(lambda: compute(self.request))

    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(graph, "prepare", lambda request, driver, kernels: Launches(request))
    monkeypatch.setattr(graph, "stream_of", lambda handle: handle)
    return cuda


def test_a_graph_that_replays_is_right(graphs):
    found = list(graph.check_graphs(HOST, Driver(), Kernels()))
    assert [each.title.removeprefix(graph.TITLE)[:7] for each in found] == [": sm90_", ": sm80_"]
    assert [each.problem for each in found] == [None, None]
    assert max(each.error_ratio for each in found) <= 1


def test_a_graph_that_captured_nothing_is_wrong(graphs, monkeypatch):
    monkeypatch.setattr(
        graphs, "CUDAGraph", lambda: type("Nothing", (), {"steps": [], "replay": lambda _: None})()
    )
    assert all(each.problem.startswith("out[") for each in graph.check_graphs(HOST, Driver(), Kernels()))


def test_what_a_failed_capture_says_is_the_problem(graphs, monkeypatch):
    def refuse():
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "CUDAGraph", refuse)
    for each in graph.check_graphs(HOST, Driver(), Kernels()):
        assert each.problem.startswith("RuntimeError: operation not")


def test_the_graphs_are_of_two_kernels_each():
    cases = graph.decode_cases(ARCH)
    assert [case.spec.family for case in cases] == ["sm90_wgmma", "sm80_mma"]
    for case in cases:
        kinds = [spec.kind for spec in kernels_of(case.request(), ARCH, family_of(case.spec))]
        assert kinds == ["fwd", "combine"]
    assert [case.spec.family for case in graph.decode_cases(SmArch.SM89)] == ["sm80_mma"]
