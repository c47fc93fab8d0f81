"""The executor that runs the compiled kernels on the host, in NumPy: with the cuda executor's plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from time import perf_counter

from flashactor import emulator
from flashactor.arrays import ArrayView
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.emulator import EmulationResult, Memory
from flashactor.emulator.launch import MAX_STEPS
from flashactor.executors.base import Outcome, Work
from flashactor.executors.host import HostExecutor
from flashactor.executors.operands import (
    WRITTEN_IN_PLACE,
    check_arch,
    output_names,
    outputs_of,
    require_arrays,
    with_outputs,
    workspace_view,
)
from flashactor.kernels.forward import ForwardFamily
from flashactor.kernels.launch import TensorMap
from flashactor.kernels.plan import kernels_of, plan, workspace_of
from flashactor.kernels.select import choose_family
from flashactor.kernels.spec import KernelSpec
from flashactor.requests import AttentionRequest
from flashactor.types import SmArch

SourceOfPtx = Callable[[KernelSpec], str]


class EmulatorExecutor(HostExecutor):
    """Runs kernels in the emulator, on arrays in host memory, with every access checked.

    A kernel that does something wrong answers with an EmulationError that names its line.
    """

    name = "emulator"

    def __init__(self, arch: SmArch | None = None, *, schedule: str = "min", races: bool = False) -> None:
        """
        Args:
            arch: architecture whose kernels are run (default: that of each request).
            schedule, races: as in ``flashactor.emulator.launch``.
        """
        super().__init__()
        self.arch = arch
        self._schedule, self._races = schedule, races

    def prepare(self, work: Work) -> Work:
        """Check that there are arrays and a kernel for them.

        Raises:
            FlashAttnError: there is none, or the request is for another architecture.
        """
        require_arrays(work.request)
        if self.arch is not None:
            check_arch(work.request, self.arch)
        choose_family(work.request, work.key.arch)
        return super().prepare(work)

    def compute(self, work: Work) -> Outcome:
        """Compile the kernels that this process has not compiled yet, and run them."""
        request = work.request
        began = perf_counter()
        family = choose_family(request, work.key.arch)
        for spec in kernels_of(request, work.key.arch, family):
            kernel_ptx(spec)
        compiled = perf_counter()
        arrays = with_outputs(request, require_arrays(request))
        emulate(request, work.key.arch, family, arrays, schedule=self._schedule, races=self._races)
        return Outcome(
            outputs=outputs_of(request, arrays),
            compile_seconds=compiled - began,
            launch_seconds=perf_counter() - compiled,
        )


@lru_cache(maxsize=64)
def kernel_ptx(spec: KernelSpec) -> str:
    """A kernel's PTX with line information, compiled once in a process.

    Raises:
        CompileError: NVRTC refused the source.
        DeviceUnavailableError: there is no NVRTC library.
    """
    return compile_ptx(spec, line_info=True)


def emulate(
    request: AttentionRequest,
    arch: SmArch,
    family: ForwardFamily,
    arrays: dict[str, ArrayView],
    *,
    ptx: SourceOfPtx = kernel_ptx,
    schedule: str = "min",
    races: bool = False,
    report: bool = False,
    max_steps: int = MAX_STEPS,
) -> tuple[EmulationResult, ...]:
    """Run a request's kernels on host arrays; one result for each launch.

    Inputs must not be written, outputs and scratch memory must not be read before they are written, and the
    bytes between the elements of a strided array must not be touched at all.

    Args:
        request: a request with arrays.
        arch: architecture to plan for.
        family: whose forward kernels.
        arrays: the request's arrays, and every output; outputs are written.
        ptx: where the text of a kernel comes from.
        schedule, races, report, max_steps: as in ``flashactor.emulator.launch``.

    Raises:
        OperandError: an array is not in host memory.
        EmulationError: a kernel did something wrong.
    """
    memory = Memory()
    outputs = output_names(request, arrays)
    placed: dict[str, ArrayView] = {}
    for name, view in arrays.items():
        if name == "workspace":
            continue
        is_output = name in outputs
        address = memory.add(
            view.to_numpy(),
            name,
            written=not is_output,
            read_only=not is_output and name not in WRITTEN_IN_PLACE,
        )
        placed[name] = replace(view, pointer=address)
    scratch = workspace_view(arrays, workspace_of(request, arch, family).size)
    workspace = memory.add(scratch.to_numpy(), "workspace", written=False) if scratch else 0
    results = []
    for step in plan(request, arch, family, placed, workspace).launches:
        results.append(
            emulator.launch(
                ptx(step.spec),
                step.spec.entry,
                step.grid,
                step.block,
                [step.parameter(_encode)],
                shared=step.shared_bytes,
                memory=memory,
                schedule=schedule,
                races=races,
                report=report,
                max_steps=max_steps,
            )
        )
    memory.require_written(*(name for name in outputs if not _may_miss(request)))
    memory.copy_back()
    return tuple(results)


def _encode(tensor_map: TensorMap) -> bytes:
    """A map as the emulator reads it."""
    return emulator.encode_tiled(
        tensor_map.dtype,
        tensor_map.address,
        tensor_map.dims,
        tensor_map.strides,
        tensor_map.box,
        swizzle=emulator.Swizzle(tensor_map.swizzle_bytes),
    )


def _may_miss(request: AttentionRequest) -> bool:
    """Whether rows of outputs belong to no sequence: those behind the last offset are not written."""
    offsets = request.arrays().get("cu_seqlens_q")
    return offsets is not None and int(offsets.to_numpy()[-1]) < request.require_operands().q.shape[0]
