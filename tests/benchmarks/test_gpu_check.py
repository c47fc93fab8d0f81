"""The GPU check on a machine without one: cases, judgement, figures, report, exit code."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import correctness, libraries, machine
from benchmarks.gpu_check.cases import QUICK_HEAD_DIMS, correctness_cases
from benchmarks.gpu_check.correctness import Checked, check_burst, check_cases
from benchmarks.gpu_check.libraries import CupyArrays, TorchArrays
from benchmarks.gpu_check.report import Machine, Report, document, markdown, table
from benchmarks.gpu_check.sdpa import check_against_sdpa, sdpa_cases
from benchmarks.gpu_check.speed import OURS, Measurement, Problem, problems
from flashactor import DType, FlashAttnActor, SmArch, reference
from flashactor.check.cases import CONTIGUOUS, HEADS_FIRST, MIXED, Case, Layout, Shape, random_values, shapes
from flashactor.check.judge import LSE_TOLERANCE, judge
from flashactor.errors import DeviceUnavailableError, LaunchError
from flashactor.executors import select
from flashactor.executors.base import Outputs
from flashactor.executors.mock import MockExecutor
from flashactor.executors.reference import ReferenceExecutor, compute
from flashactor.kernels.sm80 import all_specs, forward_spec
from flashactor.reference import AttentionParams

ARCH = SmArch.SM90A
CAUSAL = forward_spec(ARCH, DType.BF16, 64, True)
FULL = forward_spec(ARCH, DType.F16, 128, False)
SMALL = Shape("small", 2, 9, 13, heads_q=4)
MACHINE = Machine("NVIDIA H200", "sm_90a", "580.65.6", "Xeon", {"python": "3.11.7", "torch": "2.13.0"})


@pytest.fixture
def actor():
    with FlashAttnActor.start(executor="reference") as running:
        yield running


def actor_that(script):
    return FlashAttnActor.start(executor=MockExecutor(script=script, arch=ARCH))


# Cases


def test_every_kernel_meets_every_shape():
    specs = list(all_specs(ARCH))
    cases = correctness_cases(specs, tuple(DType), quick=False)
    assert {case.spec for case in cases} == set(specs)
    assert len(cases) == len(specs) * len(shapes(128, 64))
    assert len({str(case) for case in cases}) == len(cases)


@pytest.mark.parametrize(("tile_m", "tile_n"), [(128, 128), (64, 64), (128, 80)])
def test_the_shapes_cover_what_kernels_get_wrong(tile_m, tile_n):
    listed = shapes(tile_m, tile_n)
    assert len({shape.name for shape in listed}) == len(listed)
    whole = [s.seqlen_q % tile_m == 0 and s.seqlen_k % tile_n == 0 for s in listed]
    assert any(whole)
    assert not all(whole)
    assert any(s.seqlen_q < s.seqlen_k for s in listed)
    assert any(s.seqlen_q > s.seqlen_k > 1 for s in listed)  # under a causal mask: queries that see nothing
    assert {s.seqlen_q for s in listed} & {s.seqlen_k for s in listed} >= {1}
    assert {s.heads_q // s.heads_kv for s in listed} >= {1, 2, 4, 6}
    assert {layout for s in listed for layout in s.layouts} == set(Layout)
    assert any(len(set(s.layouts)) > 2 for s in listed)  # one array's strides do not serve for another
    assert {s.unused for s in listed} == {0, 8, 24}


def test_quick_and_types_make_it_fewer():
    specs = list(all_specs(ARCH))
    everything = correctness_cases(specs, tuple(DType), quick=False)
    quick = correctness_cases(specs, tuple(DType), quick=True)
    assert {case.spec.head_dim for case in quick} == set(QUICK_HEAD_DIMS)
    assert {case.head_dim for case in quick} > set(QUICK_HEAD_DIMS)
    assert set(map(str, quick)) < set(map(str, everything))
    assert {case.spec.dtype for case in correctness_cases(specs, [DType.F16], quick=True)} == {DType.F16}


# Judgement


def judged(change=lambda out, lse: None):
    """The verdict on the low-precision formula's own result after a change, for a case with empty rows."""
    q, k, v = random_values(Case(CAUSAL, Shape("empty rows", 1, 12, 9)))
    params = AttentionParams(64**-0.5, window_right=0)
    exact, exact_lse = reference.forward(q, k, v, params)
    low, low_lse = reference.forward_low_precision(q, k, v, params, "bf16")
    out, lse = low.copy(), low_lse.copy()
    change(out, lse)
    return judge(out, lse, exact, exact_lse, low)


def test_the_formula_itself_passes():
    verdict = judged()
    assert verdict.problem is None
    assert 0 < verdict.error < verdict.allowed
    assert verdict.lse_error < LSE_TOLERANCE


@pytest.mark.parametrize(
    ("index", "value", "problem"),
    [
        ((0, 5, 1, 7), np.nan, "out[0, 5, 1, 7] is nan"),
        ((0, 5, 1, 7), np.inf, "out[0, 5, 1, 7] is inf"),
        ((0, 0, 1, 3), 0.5, "out[0, 0, 1, 3] is 0.5, exact 0: off by 0.5"),  # a row that sees no key
    ],
)
def test_a_fault_in_out_is_found_and_named(index, value, problem):
    def change(out, lse):
        out[index] = value

    assert judged(change).problem.startswith(problem)


@pytest.mark.parametrize(
    ("index", "value", "problem"),
    [
        ((0, 1, 8), 0.0, "lse[0, 1, 8] is 0, exact 2.6"),
        ((0, 1, 8), np.nan, "lse[0, 1, 8] is nan"),
        ((0, 1, 0), 0.0, "lse[0, 1, 0] is 0, exact -inf"),
        ((0, 1, 0), np.inf, "lse[0, 1, 0] is inf, exact -inf"),
    ],
)
def test_a_fault_in_lse_is_found_and_named(index, value, problem):
    def change(out, lse):
        lse[index] = value

    assert judged(change).problem.startswith(problem)


def test_lse_is_judged_tightly():
    def change(out, lse):
        lse[0, 1, 8] += 2 * LSE_TOLERANCE

    assert judged(change).problem.startswith("lse[0, 1, 8]")


def test_many_faults_are_counted():
    def change(out, lse):
        out[:] = out[:, ::-1].copy()

    assert re.search(r"; \d{3,} of 1536 values are$", judged(change).problem)


def test_a_rounded_result_passes_where_the_formula_is_exact():
    exact = np.full((1, 1, 1, 2), 1.0 + 2**-9)
    low = np.ones((1, 1, 1, 2), ml_dtypes.bfloat16)
    lse = np.zeros((1, 1, 1), np.float32)
    assert judge(low, lse, exact, lse, exact.astype(ml_dtypes.bfloat16)).problem is None


# Correctness, with an executor that needs no GPU


@pytest.mark.parametrize(
    "layouts", [CONTIGUOUS, HEADS_FIRST, MIXED], ids=["contiguous", "heads first", "mixed"]
)
@pytest.mark.parametrize("spec", [CAUSAL, FULL], ids=["bf16 causal", "f16 full"])
def test_right_answers_pass(actor, spec, layouts):
    shape = Shape("small", 2, 9, 13, heads_q=4, layouts=layouts)
    (checked,) = check_cases(actor, TorchArrays("cpu"), [Case(spec, shape)])
    assert checked.problem is None
    assert checked.ratio <= 1
    assert checked.title == (
        f"{spec.dtype.tag} d={spec.head_dim} {'causal' if spec.causal else 'full'}, "
        "small: batch 2, 9 x 13, heads 4/2"
    )


def test_wrong_answers_fail(monkeypatch):
    monkeypatch.setattr(correctness, "BURST", 2)

    def script(work):
        outputs = compute(work.request)
        outputs.out[0, 3] = 0.0
        return outputs

    with actor_that(script) as wrong:
        (checked,) = check_cases(wrong, TorchArrays("cpu"), [Case(CAUSAL, SMALL)])
        bursts = list(check_burst(wrong, TorchArrays("cpu"), CAUSAL))
    assert checked.ratio > 1
    assert checked.problem.startswith("out[0, 3, ")
    assert len(bursts) == 2
    assert all(each.problem for each in bursts)


def test_errors_fail_with_their_text():
    def script(work):
        raise LaunchError("launch", "CUDA_ERROR_INVALID_VALUE", "CUDA_SUCCESS", "report it")

    with actor_that(script) as failing:
        (checked,) = check_cases(failing, TorchArrays("cpu"), [Case(CAUSAL, SMALL)])
        burst = next(check_burst(failing, TorchArrays("cpu"), CAUSAL))
        (long,) = check_against_sdpa(failing, [Case(CAUSAL, SMALL)], "cpu")
    for each in (checked, burst, long):
        assert each.problem.startswith("LaunchError: launch: got CUDA_ERROR_INVALID_VALUE")


def test_sdpa_agrees_with_right_answers_and_not_with_wrong_ones(actor):
    cases = sdpa_cases([CAUSAL, FULL], seqlen=32)
    assert [each.problem for each in check_against_sdpa(actor, cases, "cpu")] == [None, None]
    with actor_that(lambda work: Outputs(out=torch.zeros(2, 41, 8, work.request.head_dim))) as wrong:
        assert all("out is off by" in each.problem for each in check_against_sdpa(wrong, cases, "cpu"))


# Array libraries


def cupy_on_numpy():
    return SimpleNamespace(empty=np.empty, full=np.full, asarray=np.asarray, asnumpy=np.asarray)


@pytest.mark.parametrize("layout", list(Layout), ids=lambda layout: layout.value)
@pytest.mark.parametrize("library", [TorchArrays("cpu"), CupyArrays(cupy_on_numpy())], ids=["torch", "cupy"])
def test_values_survive_the_way_to_the_device_and_back(library, layout):
    for dtype in library.dtypes:
        name = dtype.numpy_name
        values = np.arange(2 * 3 * 4 * 8).reshape(2, 3, 4, 8).astype(getattr(ml_dtypes, name, name))
        array = library.put(values, layout)
        strides = array.stride() if library.name == "torch" else tuple(s // 2 for s in array.strides)
        assert (
            strides
            == {
                Layout.CONTIGUOUS: (96, 32, 8, 1),
                Layout.PADDED: (192, 64, 16, 1),
                Layout.HEADS_FIRST: (96, 8, 24, 1),
            }[layout]
        )
        back = library.get(array)
        assert back.dtype == values.dtype
        np.testing.assert_array_equal(back, values)
        library.scribble(8)


# Figures


def test_flops_count_as_the_field_does():
    full = Problem(head_dim=128, causal=False, seqlen=4096)
    assert (full.batch, full.heads) == (4, 16)
    assert full.flops == 4 * 4 * 16 * 4096**2 * 128
    assert Problem(128, True, 4096).flops * 2 == full.flops


def test_the_table_has_the_agreed_rows():
    rows = problems(quick=False)
    assert len(rows) == len(set(rows)) == 3 * 2 * 5
    assert {row.batch * row.seqlen for row in rows} == {16384}
    assert set(problems(quick=True)) < set(rows)


def test_medians_speeds_and_ratios():
    problem = Problem(128, False, 1024)
    measured = Measurement.of(
        problem, {OURS: [1.0, 9.0, 2.0], "torch flash": [4.0, 3.0]}, {"torch cudnn": "no"}
    )
    assert measured.milliseconds == {OURS: 2.0, "torch flash": 3.5}
    assert measured.tflops(OURS) == problem.flops / 2e-3 / 1e12
    assert measured.ratio("torch flash") == 1.75
    assert measured.ratio("torch cudnn") is None
    assert measured.tflops("torch cudnn") is None


# Report


def report(*, problem=None):
    checked = [
        Checked("bf16 d=64 causal, ragged", 0.4, 2e-6, None),
        Checked("f16 d=8 full, one", 0.7, 1e-6, problem),
    ]
    measured = Measurement.of(
        Problem(128, True, 4096), {OURS: [0.5], "torch flash": [1.0]}, {"torch cudnn": "not on this device"}
    )
    return Report(
        "2026-11-21T06:00:00+00:00",
        "python -m benchmarks.gpu_check",
        MACHINE,
        "torch",
        2,
        checked,
        [measured],
    )


def test_the_json_form_is_complete_and_plain():
    data = document(report(problem="out[0] is nan"))
    assert json.loads(json.dumps(data)) == data
    assert data == {
        "schema": "flashactor.gpu_check/1",
        "date": "2026-11-21T06:00:00+00:00",
        "command": "python -m benchmarks.gpu_check",
        "machine": {
            "device": "NVIDIA H200",
            "arch": "sm_90a",
            "driver": "580.65.6",
            "cpu": "Xeon",
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
        },
        "correctness": {
            "library": "torch",
            "cases": 2,
            "kernels_not_checked": 2,
            "largest_share_of_allowed_error": 0.4,
            "largest_lse_error": 2e-6,
            "failures": [{"case": "f16 d=8 full, one", "problem": "out[0] is nan"}],
        },
        "benchmark": [
            {
                "head_dim": 128,
                "causal": True,
                "batch": 4,
                "seqlen": 4096,
                "heads": 16,
                "milliseconds": {OURS: 0.5, "torch flash": 1.0},
                "tflops": {
                    OURS: pytest.approx(549.756, abs=1e-3),
                    "torch flash": pytest.approx(274.878, abs=1e-3),
                },
                "ratio": {"torch flash": 2.0},
                "unavailable": {"torch cudnn": "not on this device"},
            }
        ],
    }


def test_the_markdown_form_says_it_all():
    page = markdown(report(problem="out[0] is nan"))
    for part in (
        "# NVIDIA H200, 2026-11-21",
        "`python -m benchmarks.gpu_check`",
        "driver 580.65.6",
        "torch 2.13.0",
        "1 of 2 cases right, with torch arrays",
        "2 kernels not checked",
        "- FAILED f16 d=8 full, one: out[0] is nan",
        "| 128 | causal | 4096 | 550 | 275 | - | 2.00 | - |",
    ):
        assert part in page
    assert "FAILED" not in markdown(report())


def test_a_contender_that_appears_late_still_has_its_column():
    rows = [Measurement.of(Problem(64, False, 1024), {OURS: [1.0]}), *report().measurements]
    header, rule, first, second = table(rows)
    assert header.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert "torch flash" in header
    assert first.endswith("| - | - | - | - |")


def test_files_are_named_by_device_and_date(tmp_path):
    paths = report().write(tmp_path / "results")
    assert [path.name for path in paths] == [
        "gpu_nvidia-h200_2026-11-21.json",
        "gpu_nvidia-h200_2026-11-21.md",
    ]
    assert json.loads(paths[0].read_text())["schema"] == "flashactor.gpu_check/1"


def test_the_machine_is_the_device_and_what_is_installed(monkeypatch):
    monkeypatch.setattr(machine, "device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(machine, "device_arch", lambda: ARCH)
    monkeypatch.setattr(machine, "driver_version", lambda: "580.65.6")
    found = machine.this_machine()
    assert (found.device, found.arch, found.driver) == ("NVIDIA H200", "sm_90a", "580.65.6")
    assert {"python", "flashactor", "numpy", "torch"} <= set(found.versions)


# The command


def test_without_a_device_it_says_so_in_one_line_and_succeeds():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    assert run.stdout.strip() == gpu_check.NO_DEVICE
    assert run.stderr == ""


@pytest.mark.parametrize(("problem", "status"), [(None, 0), ("out[0] is nan", 1)])
def test_one_failure_fails_the_run(monkeypatch, tmp_path, capsys, problem, status):
    monkeypatch.setattr(gpu_check, "device_count", lambda: 1)
    monkeypatch.setattr(gpu_check, "run", lambda console, quick, command: report(problem=problem))
    assert gpu_check.main(["--results", str(tmp_path)]) == status
    assert len(list(tmp_path.iterdir())) == 2
    assert ("FAILED" in capsys.readouterr().out) is (status == 1)


def test_an_unusable_device_fails_the_run(monkeypatch, capsys):
    def unusable(*_, **__):
        raise DeviceUnavailableError("compute_capability", "7.5", "8.0 or newer", "use another")

    monkeypatch.setattr(gpu_check, "device_count", lambda: 1)
    monkeypatch.setattr(gpu_check, "run", unusable)
    assert gpu_check.main([]) == 1
    assert "compute_capability: got 7.5" in capsys.readouterr().out


def test_a_device_without_an_array_library_fails_the_run(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "device_count", lambda: 1)
    monkeypatch.setattr(libraries, "device_library", lambda: None)
    assert gpu_check.main([]) == 1
    assert gpu_check.NO_LIBRARY in " ".join(capsys.readouterr().out.split())


def test_a_whole_quick_run(monkeypatch):
    """Everything but the device: the reference executor stands for it, and tensors on the host."""
    library = TorchArrays("cpu")
    library.name = "host torch"
    monkeypatch.setitem(select.EXECUTORS, "cuda", lambda options: ReferenceExecutor(ARCH))
    monkeypatch.setattr(gpu_check, "device_arch", lambda: ARCH)
    monkeypatch.setattr(libraries, "device_library", lambda: library)
    monkeypatch.setattr(machine, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(correctness, "BURST", 2)
    console = gpu_check.Console(quiet=True)
    found = gpu_check.run(console, quick=True, command=gpu_check.command(["--quick"]))
    assert found.command == "python -m benchmarks.gpu_check --quick"
    assert found.failures == []
    assert len(found.checked) == len(correctness_cases(all_specs(ARCH), library.dtypes, quick=True)) + 2
    assert found.measurements == []


def test_no_torch_on_the_device_and_no_cupy_is_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert libraries.device_library() is None
    monkeypatch.setitem(sys.modules, "cupy", cupy_on_numpy())
    assert libraries.device_library().name == "cupy"
