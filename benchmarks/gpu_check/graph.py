"""A decode step in a CUDA graph: captured once, replayed over other queries."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu_check.correctness import Checked
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
from flashactor.kernels.sm80 import forward_spec
from flashactor.types import DType, SmArch

TITLE = "CUDA graph of a decode step"


def decode_case(arch: SmArch) -> Case:
    """Few queries over pages, and so many keys that they are cut into splits: two kernels and a workspace."""
    spec = forward_spec(arch, DType.BF16, 128, paged=True, decode=True)
    return next(case for case in cases_of(spec) if case.name == "splits")


def check_graph(library: ArrayLibrary, driver: CudaDriver, kernels: KernelSource) -> Checked:
    """Capture a request that brings out, lse and workspace, replay it over new queries, and judge that.

    Needs PyTorch with CUDA. What PyTorch says of a capture that fails becomes the problem.
    """
    torch = import_torch()
    request = decode_case(driver.arch).request()
    expected = expected_of(request)
    moved = on_device(request, library)
    q = moved.require_operands().q.array
    size = workspace_of(moved, driver.arch).size
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
        return Checked.failed(TITLE, error)
    return Checked.of(TITLE, judge(fetched(moved, expected, library), expected))
