"""The extents, masks and memory orders on which attention kernels go wrong, in two tables."""

from __future__ import annotations

from dataclasses import dataclass

from flashactor.check.layouts import CONTIGUOUS, HEADS_FIRST, MIXED, Layouts
from flashactor.kernels.spec import Tile
from flashactor.kernels.splits import INVARIANT_KEYS_PER_SPLIT
from flashactor.types import MaskKind

FULL, CAUSAL = MaskKind.full(), MaskKind.causal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A problem, but for what the kernel fixes.

    Attributes:
        name: what the shape is there to find.
        q, k: queries and keys of each sequence; where they are not all alike, sequences are packed.
        heads: of queries, and of keys and values.
        mask, sink_tokens: as of a request.
        learned_sinks: whether there are sink logits.
        used_q, used_k: how many of them count; None for all.
        packed: whether sequences are packed although all are alike.
        layouts: of q, k, v and out.
        std: standard deviation of q and k; more makes the softmax steeper.
        unused, unused_v: elements by which the head_dims are below the padded ones of the kernel.
        batch_invariant: as of a request.
        page: keys of a page, where keys lie in such; else 0.
        heads_first: whether heads come before the keys of a page.
        guard: whether some pages lie outside of the pool.
        resident: thread blocks that take all tiles; 0 for one block a tile.
        whole_tiles: whether memory access is wasteless here: whole tiles in contiguous memory.
        every_schedule: whether it is small enough to run under every schedule.
    """

    name: str
    q: tuple[int, ...]
    k: tuple[int, ...]
    heads: tuple[int, int] = (2, 2)
    mask: MaskKind = FULL
    sink_tokens: int = 0
    learned_sinks: bool = False
    used_q: tuple[int, ...] | None = None
    used_k: tuple[int, ...] | None = None
    packed: bool = False
    layouts: Layouts = CONTIGUOUS
    std: float = 1.0
    unused: int = 0
    unused_v: int = 0
    batch_invariant: bool = False
    page: int = 0
    heads_first: bool = False
    guard: bool = False
    resident: int = 0
    whole_tiles: bool = False
    every_schedule: bool = False

    @property
    def varlen(self) -> bool:
        """Whether the sequences must be packed; pages hold sequences of any lengths of keys."""
        ragged = len(set(self.q)) > 1 or (len(set(self.k)) > 1 and not self.page)
        return self.packed or ragged or self.used_q is not None


LONG = 1100
"""Keys that are cut into splits, whatever the tile."""


def shapes_of(tile: Tile) -> tuple[Shape, ...]:
    """The shapes for a kernel with a tile: the same names for each, in the same order."""
    return _decode_shapes(tile.n) if tile.key_warps > 1 else _prefill_shapes(tile.m, tile.n)


def _prefill_shapes(m: int, n: int) -> tuple[Shape, ...]:
    half = m // 2 + 3
    return (
        Shape(name="one tile", q=(m,), k=(n,), whole_tiles=True),
        Shape(name="ragged ends", q=(m + 17,) * 2, k=(2 * n + 5,) * 2, mask=CAUSAL),
        # The first queries see no key, so out = 0 and lse = -inf, with a learned sink or without.
        Shape(
            name="more queries than keys", q=(2 * m + 9,), k=(n // 2 + 1,), mask=CAUSAL, learned_sinks=True
        ),
        Shape(name="grouped heads", q=(half,), k=(3 * n + 7,), heads=(4, 2), mask=CAUSAL),
        Shape(name="one key head", q=(m // 4 + 5,), k=(2 * n - 1,), heads=(6, 1)),
        # A single score far below or above zero: only its own maximum keeps it from 0 and from infinity.
        Shape(name="one key", q=(m + 1,), k=(1,), std=8.0),
        window(m, n),
        window_and_sinks(n, (half,), (2, 1)),
        sinks_ahead(m, n),
        Shape(name="mixed strides", q=(m + 5,) * 2, k=(n + 3,) * 2, layouts=MIXED, mask=CAUSAL),
        Shape(name="heads first", q=(m + 9,) * 2, k=(n + 11,) * 2, layouts=HEADS_FIRST, unused=8, unused_v=8),
        Shape(name="smaller heads", q=(m - 7,), k=(2 * n - 3,), unused=24, unused_v=16, layouts=MIXED),
        Shape(name="steep softmax", q=(m,), k=(2 * n + 1,), mask=CAUSAL, std=4.0),
        Shape(
            name="packed",
            q=(m + 3, 0, 20, 1, 5),
            k=(n + 9, 7, 0, 2 * n + 1, 30),
            heads=(2, 1),
            mask=CAUSAL,
            sink_tokens=3,  # visible already, and not to rows before them
        ),
        Shape(
            name="used lengths",
            q=(m + 3, 40, 9),
            k=(2 * n, n, 11),
            used_q=(m - 5, 0, 9),
            used_k=(n + 7, 5, 0),
            heads=(1, 1),
            mask=MaskKind.sliding(20, 5),
        ),
        Shape(name="splits", q=(40, 33), k=(LONG, 90), heads=(1, 1), mask=CAUSAL, learned_sinks=True),
        # Packed and batch-invariant: single rows, too, go through a tile for many.
        Shape(
            name="fixed splits",
            q=(1, 1, 3),
            k=(1, INVARIANT_KEYS_PER_SPLIT + 52, 100),
            heads=(1, 1),
            batch_invariant=True,
        ),
        Shape(
            name="several key blocks",
            q=(half,),
            k=(3 * n - 5,),
            heads=(1, 1),
            mask=CAUSAL,
            every_schedule=True,
        ),
    )


def _decode_shapes(n: int) -> tuple[Shape, ...]:
    return (
        Shape(name="one tile", q=(16,), k=(n,), whole_tiles=True),
        Shape(name="ragged ends", q=(9,) * 2, k=(2 * n + 5,) * 2, mask=CAUSAL),
        Shape(name="more queries than keys", q=(20,), k=(7,), mask=CAUSAL, learned_sinks=True),
        Shape(name="grouped heads", q=(4,), k=(n + 9,), heads=(16, 2), mask=CAUSAL),
        Shape(name="one key head", q=(1,), k=(2 * n - 1,), heads=(7, 1)),
        Shape(name="one key", q=(1,) * 2, k=(1,) * 2, std=8.0),
        Shape(name="window", q=(5,), k=(4 * n + 9,), mask=MaskKind.sliding(n // 2, 2)),
        window_and_sinks(n, (3,), (4, 2)),
        *few_queries(n),
        Shape(name="splits", q=(2, 3), k=(LONG, 90), heads=(4, 2), mask=CAUSAL, learned_sinks=True),
        Shape(
            name="fixed splits",
            q=(1,),
            k=(INVARIANT_KEYS_PER_SPLIT + 52,),
            heads=(4, 2),
            batch_invariant=True,
        ),
        Shape(
            name="several key blocks", q=(3,), k=(3 * n - 5,), heads=(4, 2), mask=CAUSAL, every_schedule=True
        ),
    )


def window(m: int, n: int) -> Shape:
    """The right end of the first row lies behind the last key: some blocks are cut on the left alone."""
    mask = MaskKind.sliding(n // 2, 2 * n)
    return Shape(name="window", q=(m + 33,), k=(4 * n + 9,), heads=(1, 1), mask=mask)


def window_and_sinks(n: int, q: tuple[int, ...], heads: tuple[int, int]) -> Shape:
    """Blocks between the sinks and the window that no row sees."""
    return Shape(
        name="window and sinks",
        q=q,
        k=(5 * n + 9,),
        heads=heads,
        mask=MaskKind.sliding_causal(n),
        sink_tokens=5,
        learned_sinks=True,
    )


def sinks_ahead(m: int, n: int) -> Shape:
    """Sinks reach into a second block, and to the first queries lie ahead of the window."""
    return Shape(
        name="sinks ahead",
        q=(m + 33,),
        k=(2 * n + 9,),
        heads=(1, 1),
        mask=MaskKind.sliding(n // 4, 3),
        sink_tokens=n + 6,
    )


def few_queries(n: int) -> tuple[Shape, ...]:
    """Those with few queries that are the same for every family, of blocks of ``n`` keys."""
    return (
        Shape(
            name="sinks ahead",
            q=(16,),
            k=(n + 8,),
            mask=MaskKind.sliding(n // 4, 3),
            sink_tokens=n + 6,
        ),
        Shape(name="mixed strides", q=(3,) * 2, k=(n + 3,) * 2, heads=(4, 2), layouts=MIXED, mask=CAUSAL),
        Shape(name="heads first", q=(5,) * 2, k=(n + 11,) * 2, layouts=HEADS_FIRST, unused=8, unused_v=8),
        Shape(
            name="smaller heads", q=(2,), k=(2 * n - 3,), heads=(8, 2), unused=24, unused_v=16, layouts=MIXED
        ),
        Shape(name="steep softmax", q=(3,), k=(2 * n + 1,), mask=CAUSAL, std=4.0),
        Shape(
            name="packed",
            q=(3, 0, 1, 1, 5),
            k=(n + 9, 7, 0, 2 * n + 1, 2),
            heads=(4, 2),
            mask=CAUSAL,
            sink_tokens=2,
        ),
        Shape(
            name="used lengths",
            q=(7, 4, 9),
            k=(2 * n, n, 11),
            used_q=(5, 0, 9),
            used_k=(n + 7, 5, 0),
            mask=MaskKind.sliding(20, 5),
        ),
    )
