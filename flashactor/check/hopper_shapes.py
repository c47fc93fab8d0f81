"""The shapes for kernels that load by TMA and multiply by wgmma, in two tables.

Rows are dealt to warpgroups in whole queries, keys come in rings of stages whose phases turn, and boxes reach
over the ends of tensors, of sequences and of pages.
"""

from __future__ import annotations

from dataclasses import replace

from flashactor.check.layouts import HEADS_FIRST, MIXED
from flashactor.check.shapes import (
    CAUSAL,
    FULL,
    LONG,
    Shape,
    few_queries,
    sinks_ahead,
    window,
    window_and_sinks,
)
from flashactor.kernels.sm90 import CONSUMER_ROWS, HopperSpec
from flashactor.kernels.splits import INVARIANT_KEYS_PER_SPLIT, MIN_KEYS_PER_SPLIT
from flashactor.types import MaskKind


def hopper_shapes(spec: HopperSpec) -> tuple[Shape, ...]:
    """The shapes for a kernel; one that takes neither masks nor pages has fewer of them."""
    if spec.consumers == 1:
        return _decode_shapes(spec.tile.n, spec.stages)
    if spec.for_masks != spec:
        shapes = _prefill_shapes(spec.tile.m, spec.tile.n, spec.stages, FULL)
        return tuple(shape for shape in shapes if shape.mask == FULL and not shape.page)
    return _prefill_shapes(spec.tile.m, spec.tile.n, spec.stages, CAUSAL)


def _prefill_shapes(m: int, n: int, stages: int, mask: MaskKind) -> tuple[Shape, ...]:
    """Where ``mask`` is full, so is that of every shape which is not about a mask."""
    half = m // 2 + 3
    few = CONSUMER_ROWS + 6  # more than one consumer has, and all that a case needs
    every_key = mask if mask == FULL else MaskKind.sliding(LONG, LONG)
    return (
        Shape(name="one tile", q=(m,), k=(n,), mask=mask, heads=(2, 1), whole_tiles=True),
        # Its rows are not the last of the tensor, so threads store them, and not TMA.
        Shape(
            name="part of a tile",
            q=(m - 8,),
            k=(n,),
            mask=mask,
            heads=(1, 1),
            packed=True,
            whole_tiles=True,
        ),
        Shape(name="ragged ends", q=(m + 17,), k=(2 * n + 5,), mask=mask, heads=(1, 1)),
        # The first queries see no key, so out = 0 and lse = -inf, with a learned sink or without.
        Shape(
            name="more queries than keys",
            q=(2 * m + 9,),
            k=(n // 2 + 1,),
            heads=(1, 1),
            mask=CAUSAL,
            learned_sinks=True,
        ),
        Shape(name="grouped heads", q=(m // 4 - 8,), k=(2 * n + 7,), heads=(4, 1), mask=mask),
        # A consumer's 64 rows hold nine queries of seven heads, and one row is left.
        Shape(name="odd groups", q=(m // 7,), k=(n + 3,), heads=(7, 1), mask=mask, learned_sinks=True),
        # The next tile begins behind the rows that are used.
        Shape(name="pairs of odd groups", q=(m // 3 + 9,), k=(n - 5,), heads=(6, 2), mask=mask),
        Shape(name="more heads than rows", q=(2,), k=(9,), heads=(96, 1), mask=mask),
        # A single score far below or above zero: only its own maximum keeps it from 0 and from infinity.
        Shape(name="one key", q=(m + 1,), k=(1,), heads=(1, 1), page=0 if mask == FULL else 8, std=8.0),
        window(m, n),
        replace(window_and_sinks(n, (few // 2,), (2, 1)), page=256, heads_first=True),
        sinks_ahead(m, n),
        Shape(name="mixed strides", q=(few,) * 2, k=(n // 2 + 3,) * 2, layouts=MIXED, mask=mask),
        Shape(
            name="heads first",
            q=(few,) * 2,
            k=(n // 2 + 11,) * 2,
            layouts=HEADS_FIRST,
            unused=8,
            unused_v=8,
            mask=mask,
        ),
        Shape(
            name="smaller heads", q=(m - 7,), k=(2 * n - 3,), unused=24, unused_v=16, layouts=MIXED, mask=mask
        ),
        Shape(name="steep softmax", q=(m,), k=(2 * n + 1,), heads=(1, 1), mask=mask, std=4.0),
        # Boxes of queries and of keys reach into the next sequence, whatever that holds. A consumer's rows
        # are all there behind another sequence.
        Shape(
            name="packed",
            q=(20, few, 0, 1, 5),
            k=(0, n + 9, 7, n - 1, 30),
            heads=(1, 1),
            mask=mask,
            sink_tokens=0 if mask == FULL else 3,  # visible already, and not to rows before them
        ),
        Shape(
            name="used lengths",
            q=(m + 3, 40, 9),
            k=(2 * n, n, 11),
            used_q=(m - 5, 0, 9),
            used_k=(n + 7, 5, 0),
            heads=(1, 1),
            mask=mask,
        ),
        Shape(
            name="splits",
            q=(few,),
            k=(3 * MIN_KEYS_PER_SPLIT + 20,),
            heads=(1, 1),
            mask=mask,
            learned_sinks=True,
        ),
        Shape(
            name="empty splits",
            q=(few, 33),
            k=(2 * MIN_KEYS_PER_SPLIT + 20, 90),
            heads=(1, 1),
            mask=mask,
        ),
        # Packed and batch-invariant: single rows, too, go through a tile for many.
        Shape(
            name="fixed tile", q=(1, 1, 3), k=(1, n + 52, 100), heads=(1, 1), batch_invariant=True, mask=mask
        ),
        Shape(name="small pages", q=(few,) * 2, k=(n + 9, 30), heads=(1, 1), page=8),
        Shape(
            name="pages, heads first",
            q=(few, 3),
            k=(n - 5, 40),
            layouts=MIXED,
            page=16,
            heads_first=True,
            mask=CAUSAL,
        ),
        Shape(name="large pages", q=(half,), k=(263,), page=256, heads=(1, 1), mask=CAUSAL),
        Shape(name="pages outside of the pool", q=(few,), k=(3 * n,), page=64, guard=True, heads=(1, 1)),
        Shape(
            name="phases",
            q=(few,),
            k=((2 * stages + 1) * n - 5,),
            heads=(1, 1),
            mask=mask,
            batch_invariant=True,  # its keys are not cut into splits
        ),
        Shape(
            name="several key blocks",
            q=(half,),
            k=((stages + 1) * n - 5,),
            heads=(1, 1),
            mask=mask,
            every_schedule=True,
        ),
        # The barriers of queries turn, and results leave the memory that they then come to.
        Shape(
            name="resident blocks",
            q=(m + 1,),
            k=(n // 2 + 3,),
            heads=(3, 1),
            mask=every_key,
            resident=2,
        ),
        Shape(
            name="one resident block",
            q=(m + 1,),
            k=(n // 2 + 3,),
            heads=(1, 1),
            mask=every_key,
            resident=1,
            every_schedule=True,
        ),
    )


def _decode_shapes(n: int, stages: int) -> tuple[Shape, ...]:
    return (
        Shape(name="one tile", q=(CONSUMER_ROWS,), k=(n,), whole_tiles=True),
        # Its rows are not the last of the tensor, so threads store them, and not TMA.
        Shape(
            name="part of a tile",
            q=(CONSUMER_ROWS - 8,),
            k=(n,),
            heads=(1, 1),
            packed=True,
            whole_tiles=True,
        ),
        Shape(name="ragged ends", q=(9,) * 2, k=(2 * n + 5,) * 2, mask=CAUSAL),
        Shape(name="more queries than keys", q=(20,), k=(7,), mask=CAUSAL, learned_sinks=True),
        Shape(name="grouped heads", q=(4,), k=(n + 9,), heads=(16, 2), mask=CAUSAL),
        # 64 rows hold nine queries of seven heads, and one row is left.
        Shape(name="odd groups", q=(9,), k=(2 * n - 1,), heads=(7, 1), mask=CAUSAL, learned_sinks=True),
        Shape(name="pairs of odd groups", q=(2,), k=(n + 1,), heads=(6, 2)),
        Shape(name="as many heads as rows", q=(1,), k=(n + 1,), heads=(64, 1)),
        Shape(name="one key", q=(1,) * 2, k=(1,) * 2, std=8.0),
        Shape(name="window", q=(5,), k=(4 * n + 9,), mask=MaskKind.sliding(n // 2, 2)),
        replace(window_and_sinks(n, (3,), (4, 2)), page=256, heads_first=True),
        *few_queries(n),
        Shape(
            name="splits",
            q=(2, 3),
            k=(3 * MIN_KEYS_PER_SPLIT + 20, 90),
            heads=(2, 1),
            mask=CAUSAL,
            learned_sinks=True,
            page=64,
            heads_first=True,
            unused=8,
            unused_v=8,
        ),
        Shape(
            name="fixed splits",
            q=(1,),
            k=(INVARIANT_KEYS_PER_SPLIT + 52,),
            heads=(2, 1),
            batch_invariant=True,
        ),
        Shape(name="small pages", q=(1,) * 2, k=(2 * n + 9, 30), heads=(8, 2), page=8, mask=CAUSAL),
        Shape(
            name="pages, heads first",
            q=(3, 1),
            k=(n + 5, 2 * n),
            heads=(4, 2),
            layouts=MIXED,
            page=16,
            heads_first=True,
            mask=CAUSAL,
        ),
        Shape(name="large pages", q=(2,), k=(263,), page=256),
        Shape(name="pages outside of the pool", q=(4,), k=(3 * n,), page=64, guard=True, mask=CAUSAL),
        Shape(
            name="phases",
            q=(1,),
            k=((2 * stages + 1) * n - 5,),
            heads=(2, 1),
            batch_invariant=True,  # its keys are not cut into splits
        ),
        Shape(
            name="several key blocks",
            q=(3,),
            k=((stages + 1) * n - 5,),
            heads=(2, 1),
            mask=CAUSAL,
            batch_invariant=True,
            every_schedule=True,
        ),
        # The barriers of queries turn, and results leave the memory that they then come to.
        Shape(name="resident blocks", q=(5,), k=(2 * n - 7,), heads=(3, 3), mask=CAUSAL, resident=2),
        Shape(
            name="one resident block",
            q=(2,),
            k=(n + 3,),
            heads=(2, 2),
            mask=CAUSAL,
            resident=1,
            every_schedule=True,
        ),
    )
