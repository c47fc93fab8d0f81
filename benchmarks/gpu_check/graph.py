"""A decode step in a CUDA graph: captured once, replayed over other queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu_check.correctness import Checked, insisting
from benchmarks.gpu_check.launches import prepare, stream_of
from benchmarks.gpu_check.libraries import ArrayLibrary, import_torch
from benchmarks.gpu_check.moving import fetched, on_device
from flashactor.arrays import ArrayView
from flashactor.check.case import Case
from flashactor.check.cases import cases_of
from flashactor.check.judge import judge
from flashactor.check.layouts import UNWRITTEN
from flashactor.check.oracle import expected_of
from flashactor.executors.base import KernelSource
from flashactor.executors.cuda_driver import CudaDriver
from flashactor.kernels.plan import workspace_of
from flashactor.kernels.select import family_of
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.spec import TiledSpec
from flashactor.types import DType, SmArch

TITLE = "CUDA graph of a decode step"


def decode_cases(arch: SmArch) -> tuple[Case, ...]:
    """Few queries over pages, and so many keys that they are cut into splits: two kernels and a workspace.

    A case for each family that the architecture runs.
    """
    specs: tuple[TiledSpec, ...] = (forward_spec(arch, DType.BF16, 128, paged=True, decode=True),)
    if arch is SmArch.SM90A:
        specs = (hopper_spec(DType.BF16, 128, decode=True), *specs)
    return tuple(case for spec in specs for case in cases_of(spec) if case.name == "splits")


def check_graphs(library: ArrayLibrary, driver: CudaDriver, kernels: KernelSource) -> Iterator[Checked]:
    """Capture requests that bring out, lse and workspace, replay them over new queries, and judge that.

    Needs PyTorch with CUDA. What PyTorch says of a capture that fails becomes the problem.
    """
    for case in decode_cases(driver.arch):
        yield _check(case, library, driver, kernels)


def _check(case: Case, library: ArrayLibrary, driver: CudaDriver, kernels: KernelSource) -> Checked:
    torch, title = import_torch(), f"{TITLE}: {case.spec.label}"
    request = insisting(case.spec, case.request())
    expected = expected_of(request)
    moved = on_device(request, library)
    q = moved.require_operands().q.array
    size = workspace_of(moved, driver.arch, family_of(case.spec)).size
    workspace = ArrayView.of(torch.empty(size, dtype=torch.uint8, device=q.device), "workspace")
    moved = replace(moved, operands=replace(moved.require_operands(), workspace=workspace))
    queries = q.clone()
    try:
        launches = prepare(moved, driver, kernels)
        q.zero_()
        launches.run(driver, stream_of(torch.cuda.current_stream().cuda_stream))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launches.run(driver, stream_of(torch.cuda.current_stream().cuda_stream))
        q.copy_(queries)
        for name in expected:
            moved.arrays()[name].array.fill_(UNWRITTEN)
        graph.replay()
        torch.cuda.synchronize()
    except Exception as error:
        return Checked.failed(title, error)
    return Checked.of(title, judge(fetched(moved, expected, library), expected))
