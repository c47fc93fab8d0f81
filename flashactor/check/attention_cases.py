"""Forward passes on which forward kernels, and the kernel that merges their splits, are tried."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from flashactor.check.case import Case
from flashactor.check.chunks import Chunk, chunk_request
from flashactor.check.hopper_shapes import hopper_shapes
from flashactor.check.layouts import HEADS_FIRST, MIXED, placed
from flashactor.check.pages import PAGE_SIZES, out_of_the_pool, page_table, poison_unused
from flashactor.check.shapes import CAUSAL, Shape, shapes_of
from flashactor.check.values import (
    descales,
    int32,
    normal,
    offsets_of,
    poison_behind,
    rows_of,
    score_options,
    sequences,
    sink_logits,
    unwritten_outputs,
)
from flashactor.kernels.combine import CombineSpec
from flashactor.kernels.sm80 import ForwardSpec, forward_spec
from flashactor.kernels.sm90 import CONSUMER_ROWS, HopperSpec
from flashactor.requests import (
    AttentionRequest,
    Fa2FwdRequest,
    Fa3FwdRequest,
    PagedAttentionRequest,
    VarlenFwdRequest,
)
from flashactor.types import DType, PersistentMode


def forward_cases(spec: ForwardSpec | HopperSpec) -> tuple[Case, ...]:
    """Attention of every shape, with what the kernel was compiled for, each time in another form."""
    shapes = hopper_shapes(spec) if isinstance(spec, HopperSpec) else _shapes(spec)
    cases = tuple(_case(spec, spec, shape, index) for index, shape in enumerate(shapes))
    if isinstance(spec, HopperSpec) and spec.for_masks != spec:
        return cases  # a chunk is causal
    return *cases, Case(spec, "appended keys", partial(_appended, spec))


def _shapes(spec: ForwardSpec) -> list[Shape]:
    """Those of the kernel's tile, in pages of every kind if it reads such."""
    shapes = shapes_of(spec.tile)
    if not spec.paged:
        return list(shapes)
    paged = [shape for shape in shapes if not shape.used_q]
    return [
        replace(
            shape, page=PAGE_SIZES[index % len(PAGE_SIZES)], heads_first=index % 2 == 1, guard=index % 4 == 2
        )
        for index, shape in enumerate(paged)
    ]


def combine_cases(spec: CombineSpec) -> tuple[Case, ...]:
    """Requests of few queries and many keys, which are cut into splits."""
    narrow, wide = (forward_spec(spec.arch, spec.dtype, head_dim, decode=True) for head_dim in (64, 256))
    keys = 700
    shapes = (
        (
            narrow,
            Shape(name="two splits", q=(2,), k=(keys,), heads=(4, 2), whole_tiles=True, every_schedule=True),
        ),
        (wide, Shape(name="smaller heads", q=(1,), k=(keys,), unused=24, unused_v=24)),
        (narrow, Shape(name="many splits", q=(1,), k=(4 * keys,), heads=(2, 1), learned_sinks=True)),
        (narrow, Shape(name="empty splits", q=(1, 2, 1), k=(4 * keys, 90, 1), heads=(2, 1))),
        (narrow, Shape(name="rows without keys", q=(5, 7), k=(keys, 3), mask=CAUSAL, learned_sinks=True)),
        (narrow, Shape(name="fixed splits", q=(2,), k=(3 * keys,), batch_invariant=True)),
        (narrow, Shape(name="mixed strides", q=(3,) * 2, k=(keys,) * 2, layouts=MIXED, mask=CAUSAL)),
        (narrow, Shape(name="heads first", q=(2,) * 2, k=(keys,) * 2, layouts=HEADS_FIRST)),
    )
    return tuple(_case(spec, main, shape, index) for index, (main, shape) in enumerate(shapes))


def forward_request(spec: ForwardSpec | HopperSpec, shape: Shape, index: int) -> AttentionRequest:
    """A request of a shape for a kernel.

    Args:
        spec: the kernel.
        shape: the shape.
        index: of the shape; what the kernel can do in several forms takes turns by it.
    """
    rng = np.random.default_rng(index)
    packed = shape.varlen
    head_dims = _head_dims(spec, shape)
    q_layout, k_layout, v_layout, out_layout = shape.layouts
    heads_q, heads_kv = shape.heads
    q = sequences(
        rng, shape.q, heads_q, head_dims[0], spec.dtype, packed=packed, layout=q_layout, std=shape.std
    )
    options: dict[str, Any] = {
        "mask": shape.mask,
        "sink_tokens": shape.sink_tokens,
        "batch_invariant": shape.batch_invariant,
        **score_options(rng, spec.scores, index, batch=len(shape.q), heads=heads_q),
        **unwritten_outputs(
            rows_of(shape.q, packed=packed),
            heads_q,
            head_dims[1],
            spec.dtype,
            layout=out_layout,
            strided_lse=shape.layouts == MIXED,
        ),
    }
    if shape.learned_sinks:
        options["sink_logits"] = sink_logits(rng, heads_q)
    if shape.page:
        offsets = offsets_of(shape.q) if packed else None
        caches = _paged_caches(spec, shape, index, rng, head_dims)
        return PagedAttentionRequest.from_arrays(q, **caches, cu_seqlens_q=offsets, **options)
    k, v = (
        sequences(rng, shape.k, heads_kv, head_dim, spec.dtype, packed=packed, layout=layout, std=std)
        for head_dim, layout, std in zip(head_dims, (k_layout, v_layout), (shape.std, 1.0), strict=True)
    )
    if shape.resident:
        return Fa3FwdRequest.from_arrays(
            q, k, v, persistent=PersistentMode.persistent(shape.resident), **options
        )
    if not packed:
        return Fa2FwdRequest.from_arrays(q, k, v, **options)
    if shape.used_q and shape.used_k:
        poison_behind(q, shape.q, shape.used_q)
        poison_behind(k, shape.k, shape.used_k)
        poison_behind(v, shape.k, shape.used_k)
    return VarlenFwdRequest.from_arrays(
        q,
        k,
        v,
        offsets_of(shape.q),
        offsets_of(shape.k),
        seqused_q=int32(shape.used_q),
        seqused_k=int32(shape.used_k),
        **options,
    )


def _case(
    spec: ForwardSpec | HopperSpec | CombineSpec, main: ForwardSpec | HopperSpec, shape: Shape, index: int
) -> Case:
    return Case(
        spec,
        shape.name,
        partial(forward_request, main, shape, index),
        whole_tiles=shape.whole_tiles,
        every_schedule=shape.every_schedule,
    )


def _has_fp8_cache(spec: ForwardSpec | HopperSpec) -> bool:
    return isinstance(spec, ForwardSpec) and spec.fp8_kv


def _head_dims(spec: ForwardSpec | HopperSpec, shape: Shape) -> tuple[int, int]:
    unused = shape.unused, shape.unused_v
    if _has_fp8_cache(spec) and any(unused):
        unused = 16, 16  # rows of 8-bit elements, too, are multiples of 16 bytes
    return spec.head_dim - unused[0], spec.head_dim_v - unused[1]


def _paged_caches(
    spec: ForwardSpec | HopperSpec,
    shape: Shape,
    index: int,
    rng: np.random.Generator,
    head_dims: tuple[int, int],
) -> dict[str, Any]:
    """The arguments of a paged request that say where keys are."""
    page, hnd, fp8 = shape.page, shape.heads_first, _has_fp8_cache(spec)
    table, pool = page_table(shape.k, page, rng)
    dtype = (DType.F8E4M3, DType.F8E5M2)[index % 2] if fp8 else spec.dtype
    caches = []
    for head_dim, layout, std in zip(head_dims, shape.layouts[1:3], (shape.std, 1.0), strict=True):
        values = normal(rng, (pool, page, shape.heads[1], head_dim), dtype, std)
        poison_unused(values, table, shape.k)
        caches.append(placed(values.swapaxes(1, 2) if hnd else values, layout))
    return {
        "k_cache": caches[0],
        "v_cache": caches[1],
        "page_table": out_of_the_pool(table, shape.k, page, pool) if shape.guard else table,
        "seq_lens": int32(shape.k),
        "layout": "HND" if hnd else "NHD",
        "guard": shape.guard,
        **(descales(rng, index, shape.heads[1]) if fp8 else {}),
    }


def _appended(spec: ForwardSpec | HopperSpec) -> AttentionRequest:
    """A chunk that joins a cache: in one run of rows where the kernel takes one, else in pages."""
    n = spec.tile.n
    if isinstance(spec, HopperSpec):
        paged = spec.consumers == 1
        tokens = 3 if paged else CONSUMER_ROWS // 2 + 1
    else:
        paged = spec.paged and not spec.fp8_kv
        tokens = 3 if spec.tile.key_warps > 1 else spec.tile.m // 2 + 1
    chunk = Chunk(
        name="appended keys",
        tokens=tokens,
        prefixes=(n + 3, 0),
        heads=(4, 2),
        head_dims=spec.head_dims,
        page=32 if paged else 0,
        rotary_dim=32,
    )
    cache = DType.F8E4M3 if _has_fp8_cache(spec) else spec.dtype
    return chunk_request(chunk, 0, spec.dtype, cache, scores=spec.scores)
