"""Pairs of attention states on which the kernel that merges them is tried."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from flashactor.check.case import Case
from flashactor.check.layouts import UNWRITTEN, Layout, placed, unwritten_lse
from flashactor.check.values import normal
from flashactor.kernels.merge import MergeSpec
from flashactor.requests import MergeStatesRequest
from flashactor.types import DType

CONTIGUOUS, PADDED, HEADS_FIRST = Layout.CONTIGUOUS, Layout.PADDED, Layout.HEADS_FIRST


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Two states.

    Attributes:
        name: what they are there to find.
        rows: ``(batch, seqlen)``, or ``(total,)`` where they are packed.
        heads, head_dim: of the outputs.
        layouts: of out_a, out_b and out.
        spread: standard deviation of lse: far apart, one state is all that counts.
        unseen: of three rows one has no key in a, one none in b, one none in either.
    """

    name: str
    rows: tuple[int, ...]
    heads: int = 2
    head_dim: int = 64
    layouts: tuple[Layout, Layout, Layout] = (CONTIGUOUS, CONTIGUOUS, CONTIGUOUS)
    spread: float = 1.0
    unseen: bool = False
    whole_tiles: bool = False
    every_schedule: bool = False


STATES = (
    States(name="whole rows", rows=(2, 16), whole_tiles=True),
    States(name="every schedule", rows=(1, 9), every_schedule=True),
    States(name="ragged ends", rows=(3, 37), heads=3, head_dim=128),
    States(name="packed", rows=(41,), heads=5, head_dim=96),
    States(name="unseen keys", rows=(2, 33), unseen=True),
    States(name="far apart", rows=(1, 20), spread=300.0),
    States(name="smallest heads", rows=(1, 130), heads=1, head_dim=8),
    States(name="odd heads", rows=(2, 7), head_dim=40),
    States(name="largest heads", rows=(1, 11), heads=3, head_dim=256),
    States(name="mixed strides", rows=(2, 19), layouts=(HEADS_FIRST, PADDED, HEADS_FIRST)),
    States(name="packed strides", rows=(23,), layouts=(PADDED, HEADS_FIRST, PADDED), unseen=True),
)


def merge_cases(spec: MergeSpec) -> tuple[Case, ...]:
    """The same states for each kernel."""
    return tuple(
        Case(
            spec,
            states.name,
            partial(merge_request, states, index, spec.dtype),
            whole_tiles=states.whole_tiles,
            every_schedule=states.every_schedule,
        )
        for index, states in enumerate(STATES)
    )


def merge_request(states: States, index: int, dtype: DType) -> MergeStatesRequest:
    """The request that merges two states."""
    rng = np.random.default_rng(index)
    shape = (*states.rows, states.heads, states.head_dim)
    lse_shape = (*states.rows[:-1], states.heads, states.rows[-1])
    outs = [normal(rng, shape, dtype) for _ in range(2)]
    lses = [(states.spread * rng.standard_normal(lse_shape)).astype(np.float32) for _ in range(2)]
    if states.unseen:
        for turn, (out, lse) in enumerate(zip(outs, lses, strict=True)):
            unseen = np.isin(np.arange(states.rows[-1]) % 4, (turn, 2))
            lse[..., unseen] = -np.inf
            out[..., unseen, :, :] = np.nan  # counts nothing, whatever it is
    a, b, target = states.layouts
    strided = target is not CONTIGUOUS
    lse_a = unwritten_lse(lse_shape, strided=strided)
    lse_a[...] = lses[0]
    return MergeStatesRequest.from_arrays(
        placed(outs[0], a),
        lse_a,
        placed(outs[1], b),
        lses[1],
        out=placed(np.full(shape, UNWRITTEN, np.float32).astype(outs[0].dtype), target),
        lse=unwritten_lse(lse_shape, strided=strided),
    )
