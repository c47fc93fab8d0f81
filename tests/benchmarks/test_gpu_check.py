"""The command that checks a GPU, on a machine without one."""

import os
import subprocess
import sys

import pytest
import torch
from gpu_fakes import ARCH, MACHINE, Driver, Kernels, a_report, cupy_on_numpy

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import agreement, correctness, graph, libraries, machine, timing
from benchmarks.gpu_check.libraries import TorchArrays
from benchmarks.gpu_check.speed import OURS
from flashactor import DType, service
from flashactor.errors import ContextPoisonedError, DeviceUnavailableError
from flashactor.executors import cuda_driver, select
from flashactor.executors.mock import MockExecutor
from flashactor.executors.reference import ReferenceExecutor, compute
from flashactor.kernels.combine import combine_spec
from flashactor.kernels.merge import merge_spec


@pytest.fixture
def device(monkeypatch):
    """A device, as far as the command asks."""
    monkeypatch.setattr(gpu_check, "device_count", lambda: 1)
    monkeypatch.setattr(gpu_check, "device_arch", lambda: ARCH)


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
def test_one_failure_fails_the_run(device, monkeypatch, tmp_path, capsys, problem, status):
    monkeypatch.setattr(gpu_check, "run", lambda *_, **__: a_report(problem=problem))
    assert gpu_check.main(["--results", str(tmp_path)]) == status
    assert len(list(tmp_path.iterdir())) == 2
    assert ("FAILED" in capsys.readouterr().out) is (status == 1)


def test_options_select_kernels_of_the_device(device, monkeypatch, tmp_path):
    asked = []

    def run(console, specs, **_):
        asked.extend(specs)
        return a_report()

    monkeypatch.setattr(gpu_check, "run", run)
    options = ["--feature", "merge", "--dtype", "bf16", "--results", str(tmp_path)]
    assert gpu_check.main(options) == 0
    assert asked == [merge_spec(ARCH, DType.BF16)]


def test_kernels_of_another_architecture_fail_the_run(device, capsys):
    assert gpu_check.main(["--arch", "sm_80"]) == 1
    assert gpu_check.NO_KERNEL in " ".join(capsys.readouterr().out.split())


def test_an_unusable_device_fails_the_run(device, monkeypatch, capsys):
    def unusable(*_, **__):
        raise DeviceUnavailableError("compute_capability", "7.5", "8.0 or newer", "use another")

    monkeypatch.setattr(gpu_check, "run", unusable)
    assert gpu_check.main([]) == 1
    assert "compute_capability: got 7.5" in capsys.readouterr().out


def test_a_device_without_an_array_library_fails_the_run(device, monkeypatch, capsys):
    monkeypatch.setattr(libraries, "device_library", lambda: None)
    assert gpu_check.main([]) == 1
    assert gpu_check.NO_LIBRARY in " ".join(capsys.readouterr().out.split())


def test_no_torch_on_the_device_and_no_cupy_is_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert libraries.device_library() is None
    monkeypatch.setitem(sys.modules, "cupy", cupy_on_numpy())
    assert libraries.device_library().name == "cupy"


@pytest.fixture
def host_device(monkeypatch):
    """The host in the device's place: the reference executor, its formula for an emulator, a fake driver."""

    def emulate(request, arch, family, arrays):
        compute(request)

    monkeypatch.setitem(select.EXECUTORS, "cuda", lambda options: ReferenceExecutor(ARCH))
    monkeypatch.setattr(gpu_check, "device_arch", lambda: ARCH)
    monkeypatch.setattr(service, "kernel_source", Kernels)
    monkeypatch.setattr(libraries, "device_library", lambda: TorchArrays("cpu"))
    monkeypatch.setattr(machine, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(agreement, "emulate", emulate)
    monkeypatch.setattr(correctness, "BURST", 2)
    monkeypatch.setattr(cuda_driver, "CudaDriver", lambda ordinal: Driver())


def test_a_whole_quick_run(host_device, monkeypatch):
    """Everything but the launches themselves."""
    replayed = correctness.Checked(graph.TITLE, 0.5, 1e-6, None)
    monkeypatch.setattr(graph, "check_graphs", lambda library, driver, kernels: iter([replayed]))
    monkeypatch.setattr(timing.Ours, "attention", lambda self, problem: {OURS: None})
    monkeypatch.setattr(timing.Ours, "decode", lambda self, problem: {OURS: None})
    monkeypatch.setattr(
        timing,
        "measure",
        lambda problems, contenders, repeats: (timing.Measurement.of(p, {OURS: [1.0]}) for p in problems),
    )
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device, repeats: 4000.0)
    monkeypatch.setattr(timing, "our_side", lambda driver, kernels: _Side())
    specs = [combine_spec(ARCH, DType.F16), merge_spec(ARCH, DType.BF16)]
    console = gpu_check.Console(quiet=True)
    found = gpu_check.run(console, specs, quick=True, command=gpu_check.command(["--quick"]))
    assert found.command == "python -m benchmarks.gpu_check --quick"
    assert found.failures == []
    assert {spec.label for spec in specs} == {each.title.partition(":")[0] for each in found.checked[:-4]}
    bursts = [each.title.split(".")[0] + each.title[-9:] for each in found.checked[-4:]]
    assert bursts == [
        f"{family}request {number}" for family in ("sm90_wgmma", "sm80_mma") for number in (0, 1)
    ]
    assert {each.kind for each in found.agreements} == {"common.combine", "common.merge"}
    assert found.graphs == (replayed,)
    assert len(found.speed.attention) == 3 * 2 * 2
    assert len(found.speed.decode) == 3


def test_a_lost_device_ends_the_run_with_a_report(host_device, monkeypatch):
    def script(work):
        raise ContextPoisonedError("context", "CUDA_ERROR_ILLEGAL_ADDRESS", "a sound one", "start anew")

    monkeypatch.setitem(select.EXECUTORS, "cuda", lambda options: MockExecutor(script=script, arch=ARCH))
    console = gpu_check.Console(quiet=True)
    found = gpu_check.run(console, [merge_spec(ARCH, DType.BF16)], quick=False, command="")
    assert [title for title, _ in found.failures] == [
        "common.merge.bf16.sm_90a: whole rows",
        "all that follows",
    ]
    assert all("CUDA_ERROR_ILLEGAL_ADDRESS" in problem for _, problem in found.failures)
    assert (found.graphs, found.speed) == ((), None)


class _Side:
    """``timing.our_side`` without streams."""

    device = "cpu"
    attention = decode = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
