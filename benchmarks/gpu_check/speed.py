"""What is measured: the problems, their operations and bytes, the medians of their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Generic, TypeVar

OURS = "flashactor"
TOKENS = 16 * 1024
"""batch x seqlen of every attention problem, as in FlashAttention's own benchmark."""

MODEL_WIDTH = 2048
"""heads x head_dim of every attention problem, likewise."""

CACHED_TOKENS = 256 * 1024
"""batch x context of every decode step: 1 GiB of keys and values, several times the largest L2."""


class Pass(Enum):
    """What is computed; the value is the word of reports."""

    FORWARD = "forward"
    BACKWARD = "backward"
    FP8_FORWARD = "fp8 forward"


@dataclass(frozen=True, slots=True)
class Attention:
    """A row of a table: bf16 (or e4m3), as many keys as queries, as many key heads as query heads."""

    direction: Pass
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
    def mask(self) -> str:
        """In one word."""
        return "causal" if self.causal else "full"

    @property
    def flops(self) -> int:
        """Floating-point operations of the products: two forward, five backward; half under a causal mask.

        This is how FlashAttention's publications count, so that figures compare.
        """
        products = 5 if self.direction is Pass.BACKWARD else 2
        full = products * 2 * self.batch * self.heads * self.seqlen**2 * self.head_dim
        return full // 2 if self.causal else full

    def __str__(self) -> str:
        return f"speed of {self.direction.value}, d={self.head_dim} {self.mask}, seqlen {self.seqlen}"


@dataclass(frozen=True, slots=True)
class Decode:
    """A decode step: one query token a sequence over a bf16 cache, 8 query heads a key head.

    Attributes:
        page: keys of a page; 0 where those of a sequence follow each other.
    """

    context: int
    page: int = 64
    heads_q: int = 64
    heads_kv: int = 8
    head_dim: int = 128

    @property
    def batch(self) -> int:
        """Sequences."""
        return CACHED_TOKENS // self.context

    @property
    def bytes(self) -> int:
        """Bytes that must be read: keys and values. Queries and outputs are less than a thousandth."""
        return 2 * self.batch * self.context * self.heads_kv * self.head_dim * 2

    def __str__(self) -> str:
        return f"speed of decoding, context {self.context}, {self.keys}"

    @property
    def keys(self) -> str:
        """How keys lie, in a few words."""
        return f"pages of {self.page}" if self.page else "rows"


def attention_problems(direction: Pass, *, quick: bool) -> list[Attention]:
    """The rows of a table."""
    head_dims = (128,) if quick else (64, 128, 256)
    seqlens = (1024, 16384) if quick else (1024, 2048, 4096, 8192, 16384)
    return [
        Attention(direction, head_dim, causal, seqlen)
        for head_dim in head_dims
        for causal in (False, True)
        for seqlen in seqlens
    ]


def decode_problems(*, quick: bool) -> list[Decode]:
    """The rows of the table of decode steps."""
    contexts, others = ((4, 128), (0,)) if quick else ((4, 8, 16, 32, 64, 128), (0, 16, 256))
    return [*(Decode(context * 1024) for context in contexts), *(Decode(32 * 1024, page) for page in others)]


Problem = TypeVar("Problem", Attention, Decode)


@dataclass(frozen=True, slots=True)
class Measurement(Generic[Problem]):
    """Median times of one problem, all taken in turn in one run.

    Attributes:
        milliseconds: contender -> median time.
        unavailable: contender -> why it did not run.
    """

    problem: Problem
    milliseconds: Mapping[str, float]
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        problem: Problem,
        times: Mapping[str, Sequence[float]],
        unavailable: Mapping[str, str] | None = None,
    ) -> Measurement[Problem]:
        """The medians of repeated times."""
        return cls(problem, {name: median(each) for name, each in times.items()}, dict(unavailable or {}))

    def ratio(self, contender: str) -> float | None:
        """Our speed as a multiple of a contender's; None if either did not run."""
        ours, theirs = self.milliseconds.get(OURS), self.milliseconds.get(contender)
        return None if ours is None or theirs is None else theirs / ours


def tflops(measurement: Measurement[Attention], contender: str) -> float | None:
    """Achieved TFLOP/s; None if the contender did not run."""
    time = measurement.milliseconds.get(contender)
    return None if time is None else measurement.problem.flops / time / 1e9


def gigabytes_per_second(measurement: Measurement[Decode]) -> float | None:
    """How fast our kernel reads keys and values; None if it did not run."""
    time = measurement.milliseconds.get(OURS)
    return None if time is None else measurement.problem.bytes / time / 1e6
