"""Runs the check's cases on the device through an actor, and judges the answers on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.gpu_check.libraries import ArrayLibrary
from benchmarks.gpu_check.moving import Request, fetched, on_device, to_host
from flashactor import FlashAttnActor, FlashAttnMsg
from flashactor.arrays import ArrayView
from flashactor.check.attention_cases import forward_request
from flashactor.check.case import Case
from flashactor.check.judge import Verdict, judge
from flashactor.check.oracle import expected_of
from flashactor.check.shapes import CAUSAL, Shape
from flashactor.errors import ContextPoisonedError, FlashAttnError
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.select import family_of
from flashactor.kernels.sm80 import ForwardSpec
from flashactor.kernels.sm90 import HopperSpec
from flashactor.kernels.spec import KernelSpec
from flashactor.requests import AttentionRequest
from flashactor.types import Direction

TIMEOUT = 120.0
"""Seconds for one answer; the first of a kernel includes compiling it."""

BURST = 32
"""Requests that the burst check has in the actor at once."""

LOST_DEVICE = (ContextPoisonedError, RuntimeError)
"""What is raised when nothing runs on the device any more; RuntimeError is the libraries' word for it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one case.

    Attributes:
        title: the case.
        error_ratio: largest error of an output over the low-precision formula's; None where there is none.
        lse_error: largest error of lse; None where there is none.
        problem: what is wrong, in one line; None if nothing is.
    """

    title: str
    error_ratio: float | None
    lse_error: float | None
    problem: str | None

    @classmethod
    def of(cls, title: str, verdict: Verdict) -> Checked:
        """What a verdict says."""
        return cls(title, verdict.error_ratio, verdict.lse_error, verdict.problem)

    @classmethod
    def failed(cls, title: str, error: Exception) -> Checked:
        """A case that has no results."""
        return cls(title, None, None, f"{type(error).__name__}: {error}")


def check_cases(actor: FlashAttnActor, library: ArrayLibrary, cases: Iterable[Case]) -> Iterator[Checked]:
    """Send each case and judge its answer; an error of the actor is a failed case.

    Raises:
        ContextPoisonedError, RuntimeError: after that failed case, where no other can run any more.
    """
    for case in cases:
        try:
            found, lost = _check(actor, library, case), None
        except LOST_DEVICE as error:
            found, lost = Checked.failed(str(case), error), error
        yield found
        if lost is not None:
            raise lost


def check_burst(
    actor: FlashAttnActor, library: ArrayLibrary, spec: ForwardSpec | HopperSpec
) -> Iterator[Checked]:
    """Send many requests at once and drop their arrays, so that only the executor keeps them alive.

    Args:
        actor, library: what computes, and on whose arrays.
        spec: a kernel that takes a causal mask.
    """
    # Long enough that launches overlap completions.
    shape = Shape(name="burst", q=(4 * spec.tile.m + 1,), k=(8 * spec.tile.n + 1,), heads=(4, 2), mask=CAUSAL)
    requests = [insisting(spec, forward_request(spec, shape, seed)) for seed in range(BURST)]
    pending = [actor.ask(message(_without_outputs(on_device(each, library)))) for each in requests]
    # What the requests were made of is free now, for whoever does not keep it.
    operands = requests[0].require_operands()
    library.scribble(BURST * (operands.q.size + operands.k.size + operands.v.size))
    for number, (request, answer) in enumerate(zip(requests, pending, strict=True)):
        title = f"{spec.label}: burst, request {number}"
        expected = expected_of(request)
        try:
            reply = answer.result(TIMEOUT)
        except FlashAttnError as error:
            yield Checked.failed(title, error)
            continue
        results = {name: to_host(ArrayView.of(getattr(reply, name), name), library) for name in expected}
        yield Checked.of(title, judge(results, expected))


def message(request: AttentionRequest) -> FlashAttnMsg:
    """The message of a request."""
    backward = request.DIRECTION is Direction.BACKWARD
    return FlashAttnMsg.backward(request) if backward else FlashAttnMsg.forward(request)


def insisting(spec: KernelSpec, request: Request) -> Request:
    """The request, which insists on the family of a kernel: another family may come first."""
    return replace(request, implementation=family_of(spec).name)


def _check(actor: FlashAttnActor, library: ArrayLibrary, case: Case) -> Checked:
    request = insisting(case.spec, case.request())
    kernels = kernels_of(request, case.spec.arch, family_of(case.spec))
    if case.spec not in kernels:
        labels = ", ".join(kernel.label for kernel in kernels)
        return Checked(str(case), None, None, f"the request runs {labels}")
    expected = expected_of(request)
    moved = on_device(request, library)
    try:
        actor.ask(message(moved)).result(TIMEOUT)
    except ContextPoisonedError:
        raise
    except FlashAttnError as error:
        return Checked.failed(str(case), error)
    return Checked.of(str(case), judge(fetched(moved, expected, library), expected))


def _without_outputs(request: AttentionRequest) -> AttentionRequest:
    """The request of a forward pass, whose out and lse the executor allocates."""
    return replace(request, operands=replace(request.require_operands(), out=None, lse=None))
