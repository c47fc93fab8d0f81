"""What one check of one kernel found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        check: the thing, the same words for every kernel.
        ok: whether it is as it should be.
        detail: what was found, and if it is not ok what should have been.
        out_error_ratio: of an emulated case, the worst error of ``out`` over the low-precision formula's.
        lse_error: of an emulated case, the worst absolute error of the log-sum-exp.
    """

    check: str
    ok: bool
    detail: str
    out_error_ratio: float | None = None
    lse_error: float | None = None
