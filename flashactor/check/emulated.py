"""The dynamic half of a kernel's check: its PTX runs in the emulator, against the reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flashactor.arrays import ArrayView
from flashactor.check.access import allowed_transactions
from flashactor.check.case import Case
from flashactor.check.cases import cases_of
from flashactor.check.findings import Finding
from flashactor.check.judge import judge
from flashactor.check.oracle import expected_of
from flashactor.emulator import SCHEDULES, EmulationResult
from flashactor.errors import EmulationError
from flashactor.executors.emulator import emulate, kernel_ptx
from flashactor.executors.operands import require_arrays, with_outputs
from flashactor.kernels.plan import plan
from flashactor.kernels.select import family_of
from flashactor.kernels.spec import KernelSpec
from flashactor.requests import AttentionRequest

MEMORY_ACCESS = "memory access"

MAX_STEPS = 200_000
"""Basic blocks after which a kernel that does not end is given up: the largest case takes a hundredth."""


def emulated_findings(
    spec: KernelSpec,
    ptx: str,
    *,
    races: bool = True,
    every_schedule: bool = False,
    names: tuple[str, ...] | None = None,
) -> tuple[Finding, ...]:
    """One finding for each case that the kernel is tried on, and one on how it accesses memory.

    Kernels whose PTX differs in its target alone are run once: the emulator computes the same for both.

    Args:
        spec: the kernel.
        ptx: its PTX.
        races: whether to look for data races.
        every_schedule: whether each case runs under every schedule (default: those that are made for it).
        names: of the cases (default: all).
    """
    schedule = "all" if every_schedule else None
    return _findings(_without_target(ptx), _Identity(spec, ptx), races, schedule, names)


class _Identity:
    """A specification that equals those which differ from it in the architecture alone."""

    def __init__(self, spec: KernelSpec, ptx: str) -> None:
        self.spec, self.ptx = spec, ptx
        self._key = (spec.defines, spec.source, spec.entry)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _without_target(ptx: str) -> str:
    return "\n".join(line for line in ptx.splitlines() if not line.startswith((".target", "//")))


@lru_cache(maxsize=256)
def _findings(
    _: str, identity: _Identity, races: bool, schedule: str | None, names: tuple[str, ...] | None
) -> tuple[Finding, ...]:
    cases = [case for case in cases_of(identity.spec) if names is None or case.name in names]
    found = [check_case(case, identity.ptx, races=races, schedule=schedule) for case in cases]
    found += [check_memory_access(case, identity.ptx) for case in cases if case.whole_tiles]
    return tuple(found)


def check_case(
    case: Case, ptx: str, *, races: bool = True, schedule: str | None = None, max_steps: int = MAX_STEPS
) -> Finding:
    """Run one request and judge its results.

    Args:
        case: the request and the kernel.
        ptx: of this kernel; the others of the request are compiled from the sources.
        races: whether to look for data races.
        schedule: as of the emulator (default: all where the case is made for it, else the quickest).
        max_steps: basic blocks after which a kernel is given up.
    """
    if schedule is None:
        schedule = "all" if case.every_schedule else SCHEDULES[0]
    run = _Run.of(case)
    if case.spec not in run.kernels:
        return run.strange(case)
    expected = expected_of(run.request)
    try:
        results = run.emulate(case, ptx, schedule=schedule, races=races, max_steps=max_steps)
    except EmulationError as error:
        return Finding(case.name, False, f"{type(error).__name__}: {error}")
    verdict = judge({name: run.arrays[name].to_numpy() for name in expected}, expected)
    agree = not case.deterministic or all(result.is_deterministic for result in results)
    ratio = "" if verdict.error_ratio is None else f", errors {verdict.error_ratio:.2f} of the formula's"
    detail = f"{', '.join(results[0].schedules)}: right{ratio}"
    return Finding(
        check=case.name,
        ok=verdict.problem is None and agree,
        detail=verdict.problem or (detail if agree else f"schedules disagree; {detail}"),
        out_error_ratio=verdict.error_ratio,
        lse_error=verdict.lse_error,
    )


def check_memory_access(case: Case, ptx: str) -> Finding:
    """Count bank conflicts, and sectors of global memory that were moved in vain, on whole tiles."""
    run, check = _Run.of(case), f"{MEMORY_ACCESS}, {case.name}"
    if case.spec not in run.kernels:
        return run.strange(case)
    try:
        results = run.emulate(case, ptx, report=True)
    except EmulationError as error:
        return Finding(check, False, f"{type(error).__name__}: {error}")
    own = [result for kernel, result in zip(run.kernels, results, strict=True) if kernel == case.spec]
    lines = [line for result in own for line in result.memory_lines]
    wasteful = [line for line in lines if line.transactions > allowed_transactions(line)]
    detail = ", ".join(
        f"{sum(line.transactions for line in lines if line.space == space)} {unit}"
        for space, unit in (("shared", "wavefronts"), ("global", "sectors"))
    )
    for line in wasteful[:1]:
        detail += f", {line.transactions} instead of {line.ideal} at {line.cuda_line}: {line.instruction}"
    return Finding(check, not wasteful, detail)


@dataclass(frozen=True, slots=True)
class _Run:
    """A request with all its arrays, and the kernels of its launches."""

    request: AttentionRequest
    arrays: dict[str, ArrayView]
    kernels: tuple[KernelSpec, ...]

    @classmethod
    def of(cls, case: Case) -> _Run:
        request = case.request()
        arrays = with_outputs(request, require_arrays(request))
        launches = plan(request, case.spec.arch, family_of(case.spec), arrays, workspace=0).launches
        return cls(request, arrays, tuple(launch.spec for launch in launches))

    def emulate(self, case: Case, ptx: str, **options: Any) -> tuple[EmulationResult, ...]:
        """Run every kernel of the request, that of the case from its PTX."""

        def source(spec: KernelSpec) -> str:
            return ptx if spec == case.spec else kernel_ptx(spec)

        family = family_of(case.spec)
        return emulate(self.request, case.spec.arch, family, self.arrays, ptx=source, **options)

    def strange(self, case: Case) -> Finding:
        """The failure of a case whose plan does not contain its kernel."""
        labels = ", ".join(kernel.label for kernel in self.kernels)
        return Finding(case.name, False, f"the request runs {labels}, and not {case.spec.label}")
