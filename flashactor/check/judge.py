"""Whether a result is right: its error against that of the same formula in the same low precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

LSE_TOLERANCE = 1e-4
"""Largest error of lse. It is tight: a mask that is off by one key hides behind a loose one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a result is from the exact one.

    Attributes:
        error: largest error of out.
        allowed: largest error that out may have.
        lse_error: largest error of lse where it is finite.
        problem: what is wrong, in one line; None if nothing is.
    """

    error: float
    allowed: float
    lse_error: float
    problem: str | None


def allowed_error(low: NDArray[Any], exact: NDArray[Any]) -> float:
    """Twice the error of the low-precision formula, or one rounding of the largest value if that is more.

    It is more where the formula happens to be exact (few keys): a result that is right but for its rounding
    to the output's type must pass.
    """
    epsilon = float(ml_dtypes.finfo(low.dtype).eps)  # type: ignore[no-untyped-call]
    own = float(np.abs(low.astype(np.float64) - exact).max())
    return max(2.0 * own, epsilon / 2.0 * float(np.abs(exact).max()))


def judge(
    out: NDArray[Any],
    lse: NDArray[Any],
    exact: NDArray[Any],
    exact_lse: NDArray[Any],
    low: NDArray[Any],
) -> Verdict:
    """Compare a kernel's out and lse with the exact ones; ``low`` is the low-precision formula's out."""
    allowed = allowed_error(low, exact)
    difference = np.abs(out.astype(np.float64) - exact)
    error, out_problem = _largest("out", difference, allowed, out, exact)
    finite = np.isfinite(exact_lse)
    with np.errstate(invalid="ignore"):
        lse_difference = np.where(finite, np.abs(lse.astype(np.float64) - exact_lse), 0.0)
    # Where the exact lse is -inf (a query that sees no key) only -inf will do.
    lse_difference[~finite & (lse != exact_lse)] = np.inf
    lse_error, lse_problem = _largest("lse", lse_difference, LSE_TOLERANCE, lse, exact_lse)
    return Verdict(error, allowed, lse_error, out_problem or lse_problem)


def _largest(
    name: str,
    difference: NDArray[np.float64],
    allowed: float,
    actual: NDArray[Any],
    exact: NDArray[Any],
) -> tuple[float, str | None]:
    """The largest difference, NaN above all, and the line that names its place if it is too large."""
    ranked = np.where(np.isnan(difference), np.inf, difference)
    index = tuple(int(i) for i in np.unravel_index(int(ranked.argmax()), ranked.shape))
    largest = float(ranked[index])
    if largest <= allowed:
        return largest, None
    wrong = int((ranked > allowed).sum())
    return largest, (
        f"{name}{list(index)} is {float(actual[index]):.6g}, exact {float(exact[index]):.6g}: "
        f"off by {largest:.3g}, {allowed:.3g} allowed; {wrong} of {ranked.size} values are"
    )
