"""Runs the same requests in the emulator and on the device: how far the emulator is from the hardware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_check.correctness import TIMEOUT, insisting, message
from benchmarks.gpu_check.libraries import ArrayLibrary
from benchmarks.gpu_check.moving import fetched, on_device
from flashactor import FlashAttnActor
from flashactor.check.case import Case
from flashactor.check.cases import cases_of
from flashactor.errors import FlashAttnError
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import WRITTEN_IN_PLACE, output_names, require_arrays, with_outputs
from flashactor.kernels.select import family_of
from flashactor.kernels.sm90 import HopperSpec
from flashactor.kernels.spec import KernelSpec


@dataclass(frozen=True, slots=True)
class Agreement:
    """One request, emulated and run.

    Attributes:
        kind: of the kernel, with its family.
        title: the case.
        differences: output -> largest difference; 0 where all bits but the signs of zeros are equal.
        problem: why there is no result, in one line; None if there is.
    """

    kind: str
    title: str
    differences: dict[str, float]
    problem: str | None = None


def agreement_cases(specs: Iterable[KernelSpec]) -> list[Case]:
    """The smallest cases of the first kernel of each kind; of Hopper's, of each role, too."""
    first: dict[tuple[str, ...], KernelSpec] = {}
    for spec in specs:
        roles = spec.features if isinstance(spec, HopperSpec) else ()
        first.setdefault((spec.family, spec.kind, *roles), spec)
    cases = [case for spec in first.values() for case in cases_of(spec)]
    return [case for case in cases if case.every_schedule or case.whole_tiles]


def compare(actor: FlashAttnActor, library: ArrayLibrary, cases: Sequence[Case]) -> Iterator[Agreement]:
    """Run each case both ways."""
    for case in cases:
        yield _compare(actor, library, case)


def _compare(actor: FlashAttnActor, library: ArrayLibrary, case: Case) -> Agreement:
    request, kind = insisting(case.spec, case.request()), f"{case.spec.family}.{case.spec.kind}"
    moved = on_device(request, library)
    arrays = with_outputs(request, require_arrays(request))
    names = (*output_names(request, arrays), *(name for name in WRITTEN_IN_PLACE if name in arrays))
    try:
        actor.ask(message(moved)).result(TIMEOUT)
        emulate(request, case.spec.arch, family_of(case.spec), arrays)
    except FlashAttnError as error:
        return Agreement(kind, str(case), {}, f"{type(error).__name__}: {error}")
    results = fetched(moved, names, library)
    found = {name: difference(results[name], arrays[name].to_numpy()) for name in names}
    strange = ", ".join(name for name, value in found.items() if np.isinf(value))
    return Agreement(
        kind, str(case), found, f"NaN or infinity in one of both: {strange}" if strange else None
    )


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest difference of two arrays; infinite where only one is NaN, or an infinity."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        found = np.where(same, 0.0, np.abs(x - y))
    return float(np.where(np.isnan(found), np.inf, found).max(initial=0.0))
