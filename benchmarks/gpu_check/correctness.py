"""Runs cases through an actor and judges the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_check.libraries import ArrayLibrary
from flashactor import Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind
from flashactor.check.cases import Case, Layout, Shape, random_values, verdict
from flashactor.check.judge import Verdict
from flashactor.errors import FlashAttnError
from flashactor.kernels.spec import KernelSpec

TIMEOUT = 120.0
"""Seconds for one answer; the first of a kernel includes compiling it."""

BURST = 32
"""Requests that the burst check has in the actor at once."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one case.

    Attributes:
        title: the case.
        ratio: error as a share of what is allowed; above 1 is a failure.
        lse_error: largest error of lse.
        problem: what is wrong, in one line; None if nothing is.
    """

    title: str
    ratio: float
    lse_error: float
    problem: str | None


def check_cases(actor: FlashAttnActor, library: ArrayLibrary, cases: list[Case]) -> Iterator[Checked]:
    """Send each case and judge its answer; an error of the actor is a failed case."""
    for case in cases:
        yield _check(actor, library, case)


def check_burst(actor: FlashAttnActor, library: ArrayLibrary, spec: KernelSpec) -> Iterator[Checked]:
    """Send many requests at once and drop their arrays, so that only the executor keeps them alive."""
    # Long enough that launches overlap completions.
    case = Case(spec, Shape("burst", 1, 4 * spec.tile_m + 1, 8 * spec.tile_n + 1, 4, 2))
    values = [random_values(case, seed) for seed in range(BURST)]
    pending = []
    for each in values:
        pending.append(actor.ask(_message(case, *(library.put(x, Layout.CONTIGUOUS) for x in each))))
        library.scribble(max(x.size for x in each))
    for index, each in enumerate(values):
        title = f"{case}, {index + 1} of {BURST} at once"
        try:
            reply = pending[index].result(TIMEOUT)
        except FlashAttnError as error:
            yield _failed(title, error)
        else:
            yield _checked(title, verdict(case, each, library.get(reply.out), library.get(reply.lse)))


def _check(actor: FlashAttnActor, library: ArrayLibrary, case: Case) -> Checked:
    values = random_values(case)
    *layouts, out_layout = case.shape.layouts
    q, k, v = (library.put(x, layout) for x, layout in zip(values, layouts, strict=True))
    # Contiguous outputs come from the executor; the others prove that it keeps to the caller's strides.
    out = None
    if out_layout is not Layout.CONTIGUOUS:
        out = library.empty(values[0].shape, case.spec.dtype, out_layout)
    try:
        reply = actor.ask(_message(case, q, k, v, out)).result(TIMEOUT)
    except FlashAttnError as error:
        return _failed(str(case), error)
    return _checked(str(case), verdict(case, values, library.get(reply.out), library.get(reply.lse)))


def _message(case: Case, q: Any, k: Any, v: Any, out: Any = None) -> FlashAttnMsg:
    mask = MaskKind.causal() if case.spec.causal else MaskKind.full()
    return FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, out=out, mask=mask))


def _checked(title: str, found: Verdict) -> Checked:
    ratio = found.error / found.allowed if found.allowed else float(found.error > 0.0)
    return Checked(title, ratio, found.lse_error, found.problem)


def _failed(title: str, error: FlashAttnError) -> Checked:
    return Checked(title, float("inf"), float("inf"), f"{type(error).__name__}: {error}")
