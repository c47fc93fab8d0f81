"""The forward pass beside PyTorch's SDPA backends: the problems, their operations, the medians."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

OURS = "flashactor"
TOKENS = 16 * 1024
"""batch x seqlen of every problem, as in FlashAttention's own benchmark."""

MODEL_WIDTH = 2048
"""heads x head_dim of every problem, likewise."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table: bf16, as many keys as queries, as many key heads as query heads."""

    head_dim: int
    causal: bool
    seqlen: int

    @property
    def batch(self) -> int:
        """Sequences."""
        return TOKENS // self.seqlen

    @property
    def heads(self) -> int:
        """Heads of q, k and v."""
        return MODEL_WIDTH // self.head_dim

    @property
    def flops(self) -> int:
        """Floating-point operations of the two products; half of the full ones under a causal mask.

        This is how FlashAttention's publications count, so that figures compare.
        """
        full = 4 * self.batch * self.heads * self.seqlen**2 * self.head_dim
        return full // 2 if self.causal else full

    def __str__(self) -> str:
        return f"d={self.head_dim} {'causal' if self.causal else 'full'} seqlen {self.seqlen}"


def problems(*, quick: bool) -> list[Problem]:
    """The rows of the table."""
    head_dims = (128,) if quick else (64, 128, 256)
    seqlens = (1024, 16384) if quick else (1024, 2048, 4096, 8192, 16384)
    return [
        Problem(head_dim, causal, seqlen)
        for head_dim in head_dims
        for causal in (False, True)
        for seqlen in seqlens
    ]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Median times of one problem, all taken in turn in one run.

    Attributes:
        milliseconds: contender -> median time.
        unavailable: contender -> why it did not run.
    """

    problem: Problem
    milliseconds: dict[str, float]
    unavailable: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, problem: Problem, times: dict[str, list[float]], unavailable: dict[str, str] | None = None
    ) -> Measurement:
        """The medians of repeated times."""
        return cls(problem, {name: median(each) for name, each in times.items()}, dict(unavailable or {}))

    def tflops(self, contender: str) -> float | None:
        """Achieved TFLOP/s; None if the contender did not run."""
        time = self.milliseconds.get(contender)
        return None if time is None else self.problem.flops / time / 1e9

    def ratio(self, contender: str) -> float | None:
        """Our speed as a multiple of a contender's; None if either did not run."""
        ours, theirs = self.milliseconds.get(OURS), self.milliseconds.get(contender)
        return None if ours is None or theirs is None else theirs / ours
