"""The shapes on which kernels go wrong, the values that they are tried with, and the verdict on results."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashactor import reference
from flashactor.check.judge import Verdict, judge
from flashactor.kernels.spec import KernelSpec
from flashactor.reference import AttentionParams


class Layout(Enum):
    """Where the elements of a ``[batch, seqlen, heads, head_dim]`` array lie in memory."""

    CONTIGUOUS = "contiguous"
    PADDED = "padded"
    """Rows of head_dim + 8 elements, of which the last 8 belong to nobody."""
    HEADS_FIRST = "heads first"
    """``[batch, heads, seqlen, head_dim]`` in memory, as PyTorch's SDPA keeps it."""


Layouts = tuple[Layout, Layout, Layout, Layout]
"""Of q, k, v and out."""

CONTIGUOUS: Layouts = (Layout.CONTIGUOUS,) * 4
HEADS_FIRST: Layouts = (Layout.HEADS_FIRST,) * 4
MIXED: Layouts = (Layout.HEADS_FIRST, Layout.PADDED, Layout.CONTIGUOUS, Layout.PADDED)
"""No array's strides serve for another's. Here lse is strided as well."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Extent and memory of one request, but for what the kernel fixes.

    Attributes:
        name: what the shape is there to find.
        layouts: of q, k, v and out.
        std: standard deviation of q and k; more makes the softmax steeper.
        unused: elements by which head_dim is below the padded one of the kernel.
    """

    name: str
    batch: int
    seqlen_q: int
    seqlen_k: int
    heads_q: int = 2
    heads_kv: int = 2
    layouts: Layouts = CONTIGUOUS
    std: float = 1.0
    unused: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one shape."""

    spec: KernelSpec
    shape: Shape

    @property
    def head_dim(self) -> int:
        """Elements of one head in the arrays."""
        return self.spec.head_dim - self.shape.unused

    def __str__(self) -> str:
        mask = "causal" if self.spec.causal else "full"
        s = self.shape
        return (
            f"{self.spec.dtype.tag} d={self.head_dim} {mask}, {s.name}: batch {s.batch}, "
            f"{s.seqlen_q} x {s.seqlen_k}, heads {s.heads_q}/{s.heads_kv}"
        )


def shapes(tile_m: int, tile_n: int) -> tuple[Shape, ...]:
    """The shapes for a kernel with tiles of ``tile_m`` queries and ``tile_n`` keys."""
    return (
        Shape("one tile", 1, tile_m, tile_n),
        Shape("whole tiles", 2, 2 * tile_m, 3 * tile_n),
        Shape("ragged ends", 2, tile_m + 17, 2 * tile_n + 5),
        Shape("square", 1, tile_m + 33, tile_m + 33),
        Shape("fewer queries than keys", 1, tile_m // 2 + 3, 4 * tile_n + 7),
        # Causal: the first queries see no key, so out = 0 and lse = -inf.
        Shape("more queries than keys", 1, 2 * tile_m + 9, tile_n // 2 + 1),
        Shape("one query", 2, 1, 3 * tile_n + 1),
        # A single score far below or above zero: only its own maximum keeps it from 0 and from infinity.
        Shape("one key", 1, tile_m + 1, 1, std=8.0),
        Shape("one of each", 3, 1, 1),
        Shape("grouped heads", 1, tile_m + 1, tile_n + 1, heads_q=8, heads_kv=2),
        Shape("one key head", 1, tile_m - 1, tile_n - 1, heads_q=6, heads_kv=1),
        Shape("mixed strides", 2, tile_m + 5, tile_n + 3, heads_q=4, layouts=MIXED),
        Shape("heads first", 2, tile_m + 5, tile_n + 3, heads_q=4, layouts=HEADS_FIRST),
        Shape("head_dim of 8 less", 2, tile_m + 9, tile_n + 11, heads_q=4, unused=8),
        Shape("head_dim of 24 less", 1, tile_m - 7, 2 * tile_n - 3, unused=24),
        Shape("steep softmax", 1, tile_m, 2 * tile_n + 1, std=4.0),
        # Small, for it runs under every schedule: the loop over key blocks from its start to its end.
        Shape("several key blocks", 1, tile_m // 2 + 3, 3 * tile_n - 5, heads_q=1, heads_kv=1),
    )


QUICK_SHAPES = (
    "ragged ends",
    "more queries than keys",
    "grouped heads",
    "mixed strides",
    "head_dim of 24 less",
)
"""The shapes that find most, for where time is short."""


def memory_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The contiguous array that holds a ``[batch, seqlen, heads, head_dim]`` array of a layout."""
    batch, seqlen, heads, head_dim = shape
    if layout is Layout.PADDED:
        return batch, seqlen, heads, head_dim + 8
    if layout is Layout.HEADS_FIRST:
        return batch, heads, seqlen, head_dim
    return shape


def as_logical(memory: Any, shape: tuple[int, ...], layout: Layout) -> Any:
    """The ``[batch, seqlen, heads, head_dim]`` view of such memory."""
    if layout is Layout.PADDED:
        return memory[..., : shape[3]]
    if layout is Layout.HEADS_FIRST:
        return memory.swapaxes(1, 2)
    return memory


Values = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def random_values(case: Case, seed: int = 0) -> Values:
    """q, k and v of a case, in the kernel's type."""
    rng = np.random.default_rng(seed)
    s, d = case.shape, case.head_dim
    name = case.spec.dtype.numpy_name
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    q = s.std * rng.standard_normal((s.batch, s.seqlen_q, s.heads_q, d))
    k = s.std * rng.standard_normal((s.batch, s.seqlen_k, s.heads_kv, d))
    v = rng.standard_normal((s.batch, s.seqlen_k, s.heads_kv, d))
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)


def verdict(case: Case, values: Values, out: NDArray[Any], lse: NDArray[Any]) -> Verdict:
    """How far a result is from the reference."""
    q, k, v = values
    params = AttentionParams(case.head_dim**-0.5, window_right=0 if case.spec.causal else -1)
    exact, exact_lse = reference.forward(q, k, v, params)
    low, _ = reference.forward_low_precision(q, k, v, params, case.spec.dtype.tag)
    return judge(out, lse, exact, exact_lse, low)
