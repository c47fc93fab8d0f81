"""Backward passes on which the kernels of the backward pass are tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.check.case import Case
from flashactor.check.layouts import MIXED, UNWRITTEN, Layout, placed
from flashactor.check.oracle import expected_of
from flashactor.check.shapes import Shape, shapes_of
from flashactor.check.values import (
    int32,
    offsets_of,
    rows_of,
    score_options,
    sequences,
    sink_logits,
    unwritten_outputs,
)
from flashactor.kernels.backward_spec import (
    STAT_ROWS,
    ConvertSpec,
    DkdvSpec,
    DqSpec,
    PreprocessSpec,
    ReduceSpec,
)
from flashactor.kernels.spec import Scores, Tile
from flashactor.requests import Fa2BwdRequest, Fa2FwdRequest, VarlenBwdRequest, VarlenFwdRequest
from flashactor.types import DType

BackwardSpec = PreprocessSpec | DkdvSpec | DqSpec | ConvertSpec | ReduceSpec

OF_SPLITS = ("splits", "fixed splits")
"""Shapes that say nothing here: no kernel of a backward pass shares keys with another."""


def backward_cases(spec: BackwardSpec) -> tuple[Case, ...]:
    """The gradients of every shape, for one of the kernels that compute them."""
    problem = Problem.of(spec)
    shapes = [shape for shape in shapes_of(problem.tile) if shape.name not in OF_SPLITS]
    if isinstance(spec, ReduceSpec):
        shapes = [replace(shape, learned_sinks=True) for shape in shapes]
    return tuple(
        Case(
            spec,
            shape.name,
            partial(backward_request, problem, shape, index),
            whole_tiles=shape.whole_tiles,
            every_schedule=shape.every_schedule,
            # Atomic additions come in any order.
            deterministic=problem.deterministic,
        )
        for index, shape in enumerate(shapes)
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """What a kernel fixes of a backward pass that runs it.

    Attributes:
        tile: queries and keys that whole tiles have.
        dtype: element type.
        head_dims: of q and k, and of v.
        scores: what happens to scores.
        deterministic: as of a request.
    """

    tile: Tile
    dtype: DType
    head_dims: tuple[int, int]
    scores: Scores = Scores.PLAIN
    deterministic: bool = True

    @classmethod
    def of(cls, spec: BackwardSpec) -> Problem:
        """The problem for a kernel."""
        if isinstance(spec, DqSpec | DkdvSpec):
            adds_dq = isinstance(spec, DkdvSpec) and spec.adds_dq
            head_dims = spec.head_dim, spec.head_dim_v
            return cls(spec.tile, spec.dtype, head_dims, spec.scores, deterministic=not adds_dq)
        if isinstance(spec, ConvertSpec):
            tile = Tile(spec.tile.m, 64, spec.tile.warps)
            return cls(tile, spec.dtype, (spec.head_dim,) * 2, deterministic=False)
        scores = Scores.MODIFIED if isinstance(spec, ReduceSpec) else Scores.PLAIN
        return cls(Tile(STAT_ROWS, 64, 4), spec.dtype, (64, 64), scores)


def backward_request(problem: Problem, shape: Shape, index: int) -> Fa2BwdRequest | VarlenBwdRequest:
    """The gradients of a forward pass, whose out and lse are as a kernel would round them.

    Args:
        problem: what the kernel fixes.
        shape: the rest.
        index: of the shape; what the kernels can do in several forms takes turns by it.
    """
    rng = np.random.default_rng(index)
    packed, dtype, (heads_q, heads_kv) = shape.varlen, problem.dtype, shape.heads
    head_dim, head_dim_v = problem.head_dims[0] - shape.unused, problem.head_dims[1] - shape.unused_v
    make = partial(sequences, rng, dtype=dtype, packed=packed)
    q_layout, k_layout, v_layout, out_layout = shape.layouts
    q = make(shape.q, heads_q, head_dim, layout=q_layout, std=shape.std)
    k = make(shape.k, heads_kv, head_dim, layout=k_layout, std=shape.std)
    v = make(shape.k, heads_kv, head_dim_v, layout=v_layout)
    dout = make(shape.q, heads_q, head_dim_v, layout=q_layout)
    options: dict[str, Any] = {
        "mask": shape.mask,
        "sink_tokens": shape.sink_tokens,
        **score_options(rng, problem.scores, index, batch=len(shape.q), heads=heads_q),
    }
    if shape.learned_sinks:
        options["sink_logits"] = sink_logits(rng, heads_q)
    lengths: dict[str, Any] = {}
    if packed:
        lengths = {
            "cu_seqlens_q": offsets_of(shape.q),
            "cu_seqlens_k": offsets_of(shape.k),
            "seqused_q": int32(shape.used_q),
            "seqused_k": int32(shape.used_k),
        }
    room = unwritten_outputs(
        rows_of(shape.q, packed=packed),
        heads_q,
        head_dim_v,
        dtype,
        layout=out_layout,
        strided_lse=shape.layouts == MIXED,
    )
    forward = VarlenFwdRequest if packed else Fa2FwdRequest
    expected = expected_of(forward.from_arrays(q, k, v, **lengths, **room, **options))
    room["out"][...] = expected["out"].low
    room["lse"][...] = expected["lse"].exact
    if packed:  # what belongs to no sequence is not read
        room["out"][sum(shape.q) :] = room["lse"][:, sum(shape.q) :] = np.nan
    gradients = {
        "dq": _unwritten(q, k_layout),
        "dk": _unwritten(k, v_layout),
        "dv": _unwritten(v, q_layout),
        **{
            f"d{name}": np.full_like(options[name], UNWRITTEN)
            for name in ("sink_logits", "alibi_slopes")
            if name in options
        },
    }
    if index % 2:
        gradients["dlse"] = rng.standard_normal(room["lse"].shape).astype(np.float32)
    request = VarlenBwdRequest if packed else Fa2BwdRequest
    return request.from_arrays(
        dout,
        q,
        k,
        v,
        **room,
        **lengths,
        **gradients,
        **options,
        deterministic=problem.deterministic,
    )


def _unwritten(like: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Room for the gradient of an array."""
    return placed(np.full(like.shape, UNWRITTEN, np.float32).astype(like.dtype), layout)
