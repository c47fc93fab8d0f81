"""The executor that runs the compiled kernels on the host, in NumPy: with the cuda executor's plans."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from time import perf_counter
from typing import Any

from flashactor import emulator
from flashactor.arrays import ArrayView
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.emulator import EmulationResult, Memory
from flashactor.emulator.launch import MAX_STEPS
from flashactor.errors import FlashAttnError
from flashactor.executors.base import Done, Outcome, Outputs, Work
from flashactor.executors.operands import check_arch, forward_outputs
from flashactor.kernels.launch import plan_forward
from flashactor.kernels.select import choose_kernel
from flashactor.kernels.spec import KernelSpec
from flashactor.types import SmArch


class EmulatorExecutor:
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
        self.arch = arch
        self._schedule, self._races = schedule, races

    def submit(self, work: Work, done: Done) -> None:
        """Compute the work on the calling thread."""
        try:
            outcome = self._run(work)
        except FlashAttnError as error:
            outcome = Outcome(error=error)
        done(outcome)

    def close(self) -> None:
        """Nothing to release."""

    def _run(self, work: Work) -> Outcome:
        request = work.request
        operands = request.require_operands()
        if self.arch is not None:
            check_arch(request, self.arch)
        began = perf_counter()
        spec = choose_kernel(request, work.key.arch)
        ptx = kernel_ptx(spec)
        compiled = perf_counter()
        out, lse = forward_outputs(operands)
        emulate_forward(
            spec,
            ptx,
            (operands.q, operands.k, operands.v, out, lse),
            request.scale,
            schedule=self._schedule,
            races=self._races,
        )
        return Outcome(
            outputs=Outputs(out=out.array, lse=lse.array),
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


def emulate_forward(
    spec: KernelSpec,
    ptx: str,
    operands: tuple[Any, Any, Any, Any, Any],
    softmax_scale: float,
    *,
    schedule: str = "min",
    races: bool = False,
    report: bool = False,
    max_steps: int = MAX_STEPS,
) -> EmulationResult:
    """Run a dense forward kernel on host arrays.

    Inputs must not be written, outputs must not be read before they are written, and the bytes between the
    elements of a strided array must not be touched at all.

    Args:
        spec: the kernel.
        ptx: its PTX.
        operands: q, k, v, out and lse, arrays or views, shaped as ``plan_forward`` says; out and lse are
            written.
        softmax_scale: factor of the scores.
        schedule, races, report, max_steps: as in ``flashactor.emulator.launch``.

    Raises:
        OperandError: an array is not in host memory.
        EmulationError: the kernel did something wrong.
    """
    memory = Memory()
    q, k, v, out, lse = (
        _placed(memory, array, name, is_input)
        for array, name, is_input in zip(
            operands, ("q", "k", "v", "out", "lse"), (True, True, True, False, False), strict=True
        )
    )
    plan = plan_forward(spec, q, k, v, out, lse, softmax_scale)
    result = emulator.launch(
        ptx,
        spec.entry,
        plan.grid,
        plan.block,
        [plan.params],
        shared=plan.shared_bytes,
        memory=memory,
        schedule=schedule,
        races=races,
        report=report,
        max_steps=max_steps,
    )
    memory.require_written("out", "lse")
    memory.copy_back()
    return result


def _placed(memory: Memory, array: Any, name: str, is_input: bool) -> ArrayView:
    """A view of the array's copy in the emulator's memory."""
    view = ArrayView.of(array, name)
    address = memory.add(view.to_numpy(), name, written=is_input, read_only=is_input)
    return replace(view, pointer=address)
