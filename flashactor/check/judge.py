"""Whether a result is right: its error against that of the same formula in the same low precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor.check.oracle import Expected


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far results are from the exact ones.

    Attributes:
        error_ratio: largest error of an output over the low-precision formula's, the worst of those that have
            one; None if none has.
        lse_error: largest error of lse where it is finite; None where it is no output.
        problem: what is wrong, in one line; None if nothing is.
    """

    error_ratio: float | None
    lse_error: float | None
    problem: str | None


def judge(results: Mapping[str, NDArray[Any]], expected: Mapping[str, Expected]) -> Verdict:
    """Compare a kernel's outputs, by name, with what they must be."""
    ratios, lse_error, problems = [], None, []
    for name, wanted in expected.items():
        difference = _difference(results[name], wanted.exact)
        allowed = wanted.allowed
        if wanted.low is not None:
            allowed = allowed_error(wanted.low, wanted.exact, wanted.roundings)
        error, problem = _largest(name, difference, allowed, results[name], wanted.exact)
        problems.append(problem)
        if wanted.low is not None:
            own = own_error(wanted.low, wanted.exact)
            ratios.append(error / own if own else float(error > 0))
        elif name == "lse":
            lse_error = error
    return Verdict(max(ratios, default=None), lse_error, next(filter(None, problems), None))


def allowed_error(low: NDArray[Any], exact: NDArray[Any], roundings: int = 1) -> float:
    """Twice the error of the low-precision formula, or some roundings of the largest value if that is more.

    It is more where the formula happens to be exact (few keys): a result that is right but for its rounding
    to the output's type must pass.
    """
    epsilon = float(ml_dtypes.finfo(low.dtype).eps)  # type: ignore[no-untyped-call]
    return max(2.0 * own_error(low, exact), roundings * epsilon / 2.0 * float(np.abs(exact).max(initial=0.0)))


def own_error(low: NDArray[Any], exact: NDArray[Any]) -> float:
    """The largest error of the low-precision formula."""
    return float(np.abs(low.astype(np.float64) - exact).max(initial=0.0))


def _difference(actual: NDArray[Any], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each element is off; where the exact value is not finite, only this very value will do."""
    values = actual.astype(np.float64)
    finite = np.isfinite(exact)
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(values - exact), 0.0)
    same = (values == exact) | (np.isnan(values) & np.isnan(exact))
    difference[~finite & ~same] = np.inf
    return difference


def _largest(
    name: str,
    difference: NDArray[np.float64],
    allowed: float | NDArray[np.float64],
    actual: NDArray[Any],
    exact: NDArray[Any],
) -> tuple[float, str | None]:
    """The largest difference, NaN above all, and the line that names a place where it is too large."""
    if not difference.size:
        return 0.0, None
    ranked = np.where(np.isnan(difference), np.inf, difference)
    largest = float(ranked.max())
    excess = ranked - allowed
    if not (excess > 0).any():
        return largest, None
    index = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
    limit = float(np.broadcast_to(allowed, ranked.shape)[index])
    return largest, (
        f"{name}{list(index)} is {float(actual[index]):.6g}, exact {float(exact[index]):.6g}: "
        f"off by {float(ranked[index]):.3g}, {limit:.3g} allowed; {int((excess > 0).sum())} of {ranked.size} "
        "values are"
    )
