"""What exactly is launched for a request: grid, block, shared memory and parameter bytes. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashactor.arrays import ArrayView
from flashactor.errors import LaunchError
from flashactor.kernels.params import FWD_PARAMS
from flashactor.kernels.spec import KernelSpec

MAX_GRID_X = 2**31 - 1


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything that a launch needs but the stream.

    Attributes:
        spec: the kernel.
        grid, block: extents in blocks and in threads.
        shared_bytes: dynamic shared memory of a block.
        params: bytes of the kernel's one by-value parameter.
    """

    spec: KernelSpec
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    params: bytes


def plan_forward(
    spec: KernelSpec,
    q: ArrayView,
    k: ArrayView,
    v: ArrayView,
    out: ArrayView,
    lse: ArrayView,
    softmax_scale: float,
) -> LaunchPlan:
    """The launch of a dense forward pass.

    The grid has one dimension, so that neither heads nor batch meet the limit of the others (65535): block
    ``(batch * heads_q + head) * q_tiles + tile`` computes one tile of queries of one head.

    Args:
        spec: a forward kernel for these operands.
        q, out: ``[batch, seqlen_q, heads_q, head_dim]``.
        k, v: ``[batch, seqlen_k, heads_kv, head_dim]``.
        lse: ``[batch, heads_q, seqlen_q]``.
        softmax_scale: factor of the scores.

    Raises:
        LaunchError: more blocks than a grid can have.
    """
    batch, seqlen_q, heads_q, head_dim = q.shape
    seqlen_k, heads_kv = k.shape[1:3]
    q_tiles = -(-seqlen_q // spec.tile_m)
    blocks = batch * heads_q * q_tiles
    if blocks > MAX_GRID_X:
        raise LaunchError(
            field="grid",
            got=f"{blocks} blocks for q of shape {q.shape}",
            expected=f"at most {MAX_GRID_X}",
            remedy="split the batch over several requests",
        )
    values: dict[str, int | float] = {
        "seqlen_q": seqlen_q,
        "seqlen_k": seqlen_k,
        "heads_q": heads_q,
        "gqa_ratio": heads_q // heads_kv,
        "head_dim": head_dim,
        "q_tiles": q_tiles,
        "scale_log2": softmax_scale * math.log2(math.e),
        "reserved": 0,
    }
    for name, view in (("q", q), ("k", k), ("v", v), ("out", out)):
        values[name] = view.pointer
        for axis, stride in zip(("batch", "row", "head"), view.strides, strict=False):
            values[f"{name}_stride_{axis}"] = stride
    values["lse"] = lse.pointer
    for axis, stride in zip(("batch", "head", "row"), lse.strides, strict=True):
        values[f"lse_stride_{axis}"] = stride
    return LaunchPlan(
        spec=spec,
        grid=(blocks, 1, 1),
        block=(spec.threads, 1, 1),
        shared_bytes=spec.shared_bytes,
        params=FWD_PARAMS.pack(values),
    )
