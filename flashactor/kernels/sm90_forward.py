"""Forward passes on the wgmma family: how a request is cut into tiles of warpgroups, and its main launch."""

from __future__ import annotations

from functools import partial

from flashactor.arrays import ArrayView
from flashactor.kernels.backward import BackwardRequest
from flashactor.kernels.forward import ForwardFamily, ForwardShape, Keys, count_splits
from flashactor.kernels.launch import KernelLaunch, TensorMap, check_blocks, launch
from flashactor.kernels.params import Value
from flashactor.kernels.problem import Arrays, Extent, scores_of
from flashactor.kernels.sm90 import CONSUMER_ROWS, FAMILY, HOPPER_PARAMS, HopperSpec, hopper_spec
from flashactor.kernels.sm90_fp8 import hopper_fp8_reasons, hopper_fp8_spec
from flashactor.requests import AttentionRequest, Fa3FwdRequest, MergeStatesRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.requests.scaled import CachedKvRequest
from flashactor.types import SmArch

ALIGNMENT = 16
"""Of strides in tensor maps, in bytes."""

BLOCKS_PER_SM = 1
"""Thread blocks that the registers of a multiprocessor hold, of every tile."""

_PADDING = {name: 0 for name, _ in HOPPER_PARAMS.fields if name.startswith("padding_")}
"""Values of fields that mean nothing."""

L2_KEY_BYTES = 32 << 20
"""Keys and values that L2 (50 MB) holds beside queries and results."""


def forward_kernel(request: AttentionRequest, arch: SmArch, *, decode: bool = False) -> HopperSpec:
    """The main kernel of a request, also of a bare cell."""
    if isinstance(request, Fa2FwdFp8Request):
        return hopper_fp8_spec(
            request.head_dim,
            request.head_dim_v,
            v_dtype=request.v_dtype,
            scores=scores_of(request),
            decode=decode,
        )
    mask = request.mask
    full = mask.window_left < 0 and mask.window_right < 0 and not request.paged
    return hopper_spec(
        request.dtype,
        request.head_dim,
        request.head_dim_v,
        scores=scores_of(request),
        full=full,
        decode=decode,
    )


def _cut(request: AttentionRequest, arch: SmArch, extent: Extent) -> ForwardShape:
    pack = packed_heads(extent.gqa_ratio)
    decode = extent.longest_may_decide(request) and extent.seqlen_q * pack <= consumer_rows(pack)
    spec = forward_kernel(request, arch, decode=decode)
    if not decode and extent.seqlen_q >= spec.tile.m:
        pack = 1  # whole tiles of one head: nothing to gain
    q_tiles = -(-extent.seqlen_q * pack // (spec.consumers * consumer_rows(pack)))
    tiles = extent.batch * (extent.heads_q // pack) * q_tiles
    splits = count_splits(request, arch, extent, spec.tile.n, tiles, BLOCKS_PER_SM, decode=decode)
    return ForwardShape(spec, extent, pack, q_tiles, *splits)


def packed_heads(ratio: int) -> int:
    """Query heads that share a tile: all of a key/value head's, or the most that divide them and fit."""
    return next(pack for pack in range(min(ratio, CONSUMER_ROWS), 0, -1) if ratio % pack == 0)


def consumer_rows(pack: int) -> int:
    """Rows of a consumer that are used: whole queries of ``pack`` heads."""
    return CONSUMER_ROWS // pack * pack


def _launch(
    request: AttentionRequest, shape: ForwardShape, keys: Keys, arrays: Arrays, values: dict[str, Value]
) -> KernelLaunch:
    assert isinstance(shape.spec, HopperSpec)
    spec, pack = shape.spec, shape.pack
    check_blocks(spec, shape.tiles)
    rows = consumer_rows(pack)
    box_rows = _box_rows(spec.tile.n, keys)
    values |= {
        "tiles": shape.tiles,
        "lines": shape.lines,
        "lines_together": _lines_together(shape, request),
        "box_rows": box_rows,
        "consumer_rows": rows,
        **_PADDING,
    }
    q, map_of = arrays["q"], partial(tensor_map, spec.slab_bytes)
    maps = (
        map_of(q, pack, rows // pack),
        # No map describes what has no elements; nothing is copied then.
        *(
            map_of(view if view.size else q, 1, box_rows, heads_first=keys.heads_first)
            for view in (keys.k, keys.v)
        ),
        map_of(arrays["out"], pack, rows // pack),
    )
    blocks = shape.tiles if shape.extent.rows else 0  # no map describes queries without elements
    if isinstance(request, Fa3FwdRequest) and request.persistent.num_sms is not None:
        blocks = min(blocks, request.persistent.num_sms)
    return launch(spec, blocks, HOPPER_PARAMS.pack(values), maps)


def tensor_map(
    slab_bytes: int, view: ArrayView, heads: int, rows: int, *, heads_first: bool = False
) -> TensorMap:
    """The map of ``[batch, row, head, dim]``, of packed ``[row, head, dim]``, or of pages.

    Args:
        slab_bytes: of a row of the box.
        view: the array.
        heads, rows: of the box.
        heads_first: whether the dimensions are ``[page, head, row, dim]``.
    """
    size, shape, strides = view.itemsize, view.shape, view.strides
    if len(shape) == 3:
        shape, strides = (1, *shape), (0, *strides)
    order = (1, 2, 0) if heads_first else (2, 1, 0)
    dims = (shape[3], *[shape[axis] for axis in order])
    # The stride of a single element means nothing, and may be what no map can have.
    steps, step = [], -(-shape[3] * size // ALIGNMENT) * ALIGNMENT
    for axis in order:
        step = strides[axis] * size if shape[axis] > 1 else step
        steps.append(step)
        step *= shape[axis]
    return TensorMap(
        view.pointer,
        view.dtype if size == 2 else "uint8",
        dims,
        tuple(steps),
        (slab_bytes // size, heads, rows, 1),
    )


def _box_rows(tile_n: int, keys: Keys) -> int:
    """Keys of a box: those of a block, or the most that lie in one page wherever a block begins."""
    if keys.pages is None:
        return tile_n
    page = keys.k.shape[2 if keys.heads_first else 1]
    return min(page, tile_n & -tile_n)


def _lines_together(shape: ForwardShape, request: AttentionRequest) -> int:
    """Lines whose keys and values L2 holds together; the heads of a group read the same."""
    extent = shape.extent
    line_bytes = extent.seqlen_k * (request.head_dim + request.head_dim_v) * request.dtype.size_in_bytes
    groups = max(1, L2_KEY_BYTES // max(1, line_bytes))
    return min(shape.lines, groups * (extent.gqa_ratio // shape.pack) * shape.num_splits)


def _reasons(request: AttentionRequest, arch: SmArch) -> tuple[str, ...]:
    """What the family lacks."""
    if arch is not SmArch.SM90A:
        return (f"wgmma exists on {SmArch.SM90A.target} alone",)
    if isinstance(request, BackwardRequest | MergeStatesRequest):
        return ("has forward kernels only",)
    reasons = []
    if request.dropout_p:
        reasons.append("has no dropout")
    if isinstance(request, Fa2FwdFp8Request):
        reasons += hopper_fp8_reasons(request, arch)
    if isinstance(request, CachedKvRequest) and request.kv_dtype.is_fp8:
        reasons.append("does not convert fp8 caches to 16 bits")
    arrays = request.arrays()
    keys = ("k_cache", "v_cache") if "k_cache" in arrays else ("k", "v")
    for name in ("q", *keys, "out"):  # those that have tensor maps
        strides = _strides(arrays[name]) if name in arrays else ()
        if 0 in strides:
            reasons.append(f"reads by TMA, which cannot repeat an axis, and {name} has a stride of 0")
        if min(strides, default=0) < 0:
            reasons.append(f"copies by TMA, which takes no negative strides, and {name} has one")
    return tuple(reasons)


def _strides(view: ArrayView) -> tuple[int, ...]:
    """Those that mean something: not of a single element, nor of what has none."""
    if not view.size:
        return ()
    return tuple(stride for extent, stride in zip(view.shape, view.strides, strict=True) if extent > 1)


SM90 = ForwardFamily(FAMILY, _reasons, forward_kernel, _cut, _launch)
"""Hopper."""
