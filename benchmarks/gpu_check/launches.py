"""The launches of a request without an actor: the same plan, the same kernels, on any stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashactor.arrays import ArrayView
from flashactor.executors.base import KernelSource
from flashactor.executors.cuda import DEFAULT_SHARED_BYTES
from flashactor.executors.cuda_driver import CudaDriver
from flashactor.executors.operands import require_arrays, with_outputs, workspace_view
from flashactor.kernels.launch import KernelLaunch
from flashactor.kernels.plan import kernels_of, plan, workspace_of
from flashactor.kernels.select import choose_family
from flashactor.requests import AttentionRequest


@dataclass(frozen=True, slots=True)
class Launches:
    """A request that is ready to be launched, as often as one likes.

    Attributes:
        arrays: the request's arrays, every output and the workspace, kept alive.
        steps: (kernel, its launch) in the order of the stream.
    """

    arrays: Mapping[str, ArrayView]
    steps: tuple[tuple[Any, KernelLaunch], ...]

    def run(self, driver: CudaDriver, stream: Any) -> None:
        """Enqueue all kernels."""
        for kernel, step in self.steps:
            driver.launch(stream, kernel, step)


def prepare(request: AttentionRequest, driver: CudaDriver, kernels: KernelSource) -> Launches:
    """Allocate what the request lacks, plan it, and load its kernels.

    Raises:
        FlashAttnError: no kernel for the request on this device, or what is wrong with it.
    """
    arrays = with_outputs(request, require_arrays(request))
    family = choose_family(request, driver.arch)
    compiled = {spec: kernels.ask(spec) for spec in kernels_of(request, driver.arch, family)}
    workspace = workspace_view(arrays, workspace_of(request, driver.arch, family).size)
    if workspace is not None:
        arrays["workspace"] = workspace
    launches = plan(request, driver.arch, family, arrays, workspace.pointer if workspace else 0).launches
    steps = []
    for step in launches:
        kernel = driver.load(compiled[step.spec].result().cubin, step.spec.entry)
        if step.shared_bytes > DEFAULT_SHARED_BYTES:
            driver.allow_shared_memory(kernel, step.shared_bytes)
        steps.append((kernel, step))
    return Launches(arrays, tuple(steps))


def stream_of(handle: int) -> Any:
    """A library's stream, as the driver takes it."""
    from cuda.core import Stream

    return Stream.from_handle(handle)
