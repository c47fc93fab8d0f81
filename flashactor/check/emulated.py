"""The dynamic half of a kernel's check: its PTX runs in the emulator, against the reference."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.check.cases import (
    MIXED,
    Case,
    Layout,
    Values,
    as_logical,
    memory_shape,
    random_values,
    shapes,
    verdict,
)
from flashactor.check.findings import Finding
from flashactor.emulator import SCHEDULES, EmulationResult
from flashactor.errors import EmulationError
from flashactor.executors.emulator import emulate_forward
from flashactor.kernels.spec import KernelSpec

EVERY_SCHEDULE = ("several key blocks",)
"""Shapes that run under every schedule; the others run under the quickest one."""

MEMORY_ACCESS = "memory access"

MAX_STEPS = 100_000
"""Basic blocks after which a kernel that does not end is given up: the largest case takes a hundredth."""


def emulated_findings(
    spec: KernelSpec, ptx: str, *, races: bool = True, names: tuple[str, ...] | None = None
) -> tuple[Finding, ...]:
    """One finding for each shape that the kernel is tried on, and one on how it accesses memory.

    Kernels whose PTX differs in its target alone are run once: the emulator computes the same for both.

    Args:
        spec: the kernel.
        ptx: its PTX.
        races: whether to look for data races.
        names: of the shapes (default: all).
    """
    return _findings(_without_target(ptx), _Identity(spec), races, names)


class _Identity:
    """A specification that equals those which differ from it in the architecture alone."""

    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec
        self._key = (spec.defines, spec.source, spec.entry)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _without_target(ptx: str) -> str:
    kept = (line for line in ptx.splitlines() if not line.startswith((".target", "//")))
    return ".target any\n" + "\n".join(kept)


@lru_cache(maxsize=256)
def _findings(
    ptx: str, identity: _Identity, races: bool, names: tuple[str, ...] | None
) -> tuple[Finding, ...]:
    spec = identity.spec
    cases = {shape.name: Case(spec, shape) for shape in shapes(spec.tile_m, spec.tile_n)}
    found = [
        check_case(case, ptx, races=races, schedule=schedule_of(name))
        for name, case in cases.items()
        if names is None or name in names
    ]
    return (*found, check_memory_access(cases["one tile"], ptx))


def schedule_of(name: str) -> str:
    """The schedule that a shape runs under."""
    return "all" if name in EVERY_SCHEDULE else SCHEDULES[0]


def check_case(case: Case, ptx: str, *, races: bool, schedule: str, max_steps: int = MAX_STEPS) -> Finding:
    """Run one kernel on one shape and judge the result."""
    try:
        result, values, out, lse = _run(case, ptx, schedule=schedule, races=races, max_steps=max_steps)
    except EmulationError as error:
        return Finding(case.shape.name, False, f"{type(error).__name__}: {error}")
    found = verdict(case, values, out, lse)
    agree = "" if result.is_deterministic else "schedules disagree; "
    errors = f"{', '.join(result.schedules)}: out within {found.error:.1e}, lse within {found.lse_error:.1e}"
    low_error = found.allowed / 2
    return Finding(
        check=case.shape.name,
        ok=found.problem is None and result.is_deterministic,
        detail=found.problem or agree + errors,
        out_error_ratio=found.error / low_error if low_error else float(found.error > 0),
        lse_error=found.lse_error,
    )


def check_memory_access(case: Case, ptx: str) -> Finding:
    """Count bank conflicts, and sectors of global memory that were moved in vain, on whole tiles."""
    try:
        result, *_ = _run(case, ptx, report=True)
    except EmulationError as error:
        return Finding(MEMORY_ACCESS, False, f"{type(error).__name__}: {error}")
    lines = result.memory_lines
    wasteful = [line for line in lines if line.transactions > line.ideal]
    detail = ", ".join(
        f"{sum(line.transactions for line in lines if line.space == space)} {unit}"
        for space, unit in (("shared", "wavefronts"), ("global", "sectors"))
    )
    for line in wasteful[:1]:
        detail += f", {line.transactions} instead of {line.ideal} at {line.cuda_line}: {line.instruction}"
    return Finding(MEMORY_ACCESS, not wasteful, detail)


def _run(
    case: Case,
    ptx: str,
    *,
    schedule: str = SCHEDULES[0],
    races: bool = False,
    report: bool = False,
    max_steps: int = MAX_STEPS,
) -> tuple[EmulationResult, Values, NDArray[Any], NDArray[Any]]:
    """(what happened, q k v, out, lse)."""
    values = random_values(case)
    *layouts, out_layout = case.shape.layouts
    q, k, v = (_placed(x, layout) for x, layout in zip(values, layouts, strict=True))
    out = _placed(np.zeros_like(values[0]), out_layout)
    batch, seqlen_q, heads, _ = out.shape
    lse = np.zeros((batch, heads, seqlen_q), np.float32)
    if case.shape.layouts == MIXED:
        lse = np.zeros((batch, seqlen_q, heads), np.float32).swapaxes(1, 2)
    result = emulate_forward(
        case.spec,
        ptx,
        (q, k, v, out, lse),
        case.head_dim**-0.5,
        schedule=schedule,
        races=races,
        report=report,
        max_steps=max_steps,
    )
    return result, values, out, lse


def _placed(values: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The values in memory of a layout, with NaN where no element lies."""
    memory = np.full(memory_shape(values.shape, layout), np.nan, values.dtype)
    placed: NDArray[Any] = as_logical(memory, values.shape, layout)
    placed[...] = values
    return placed
