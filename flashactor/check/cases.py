"""The cases of every kind of kernel, in one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashactor.check.attention_cases import combine_cases, forward_cases
from flashactor.check.backward_cases import backward_cases
from flashactor.check.case import Case
from flashactor.check.chunks import append_cases
from flashactor.check.fp8_cases import fp8_cases
from flashactor.check.merge_cases import merge_cases
from flashactor.kernels.spec import KernelSpec

CASES: dict[str, Callable[[Any], tuple[Case, ...]]] = {
    "fwd": forward_cases,
    "fwd_fp8": fp8_cases,
    "combine": combine_cases,
    "append": append_cases,
    "merge": merge_cases,
    "bwd_preprocess": backward_cases,
    "bwd_dkdv": backward_cases,
    "bwd_dq": backward_cases,
    "bwd_convert": backward_cases,
    "bwd_reduce": backward_cases,
}
"""By kind of kernel: a function from a specification of that kind."""


def cases_of(spec: KernelSpec) -> tuple[Case, ...]:
    """Everything that a kernel is tried on; each kind's cases have the same names for each kernel.

    Raises:
        KeyError: a kind of kernel that has no cases.
    """
    return CASES[spec.kind](spec)
