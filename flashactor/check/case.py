"""What a kernel is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashactor.kernels.spec import KernelSpec
from flashactor.requests import AttentionRequest


@dataclass(frozen=True, slots=True)
class Case:
    """A request on which a kernel is tried.

    Attributes:
        spec: the kernel; the request's plan must contain it.
        name: what the case is there to find, the same words for every kernel of a kind.
        request: makes the request, each time with arrays of its own and the same values.
        whole_tiles: whether every access to memory should be without waste.
        every_schedule: whether the case is small enough to run under every schedule.
        deterministic: whether all schedules must give the same bits.
    """

    spec: KernelSpec
    name: str
    request: Callable[[], AttentionRequest]
    whole_tiles: bool = False
    every_schedule: bool = False
    deterministic: bool = True

    def __str__(self) -> str:
        return f"{self.spec.label}: {self.name}"
