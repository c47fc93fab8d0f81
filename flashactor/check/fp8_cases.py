"""Forward passes of fp8 operands."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.check.case import Case
from flashactor.check.hopper_shapes import hopper_shapes
from flashactor.check.layouts import MIXED
from flashactor.check.shapes import Shape, shapes_of
from flashactor.check.values import descales, score_options, sequences, sink_logits, unwritten_outputs
from flashactor.kernels.sm80_fp8 import ROW_ELEMENTS, Fp8ForwardSpec
from flashactor.kernels.sm90_fp8 import HopperFp8Spec
from flashactor.requests import Fa2FwdFp8Request, Fa3FwdFp8Request
from flashactor.types import DType, PersistentMode


def fp8_cases(spec: Fp8ForwardSpec | HopperFp8Spec) -> tuple[Case, ...]:
    """Attention of every shape that is dense: fp8 requests are."""
    every = hopper_shapes(spec) if isinstance(spec, HopperFp8Spec) else shapes_of(spec.tile)
    shapes = [shape for shape in every if not (shape.varlen or shape.page)]
    return tuple(
        Case(
            spec,
            shape.name,
            partial(fp8_request, spec, shape, index),
            whole_tiles=shape.whole_tiles,
            every_schedule=shape.every_schedule,
        )
        for index, shape in enumerate(shapes)
    )


def fp8_request(spec: Fp8ForwardSpec | HopperFp8Spec, shape: Shape, index: int) -> Fa2FwdFp8Request:
    """A request of a shape for a kernel; types of out and forms of scales take turns by the index."""
    rng = np.random.default_rng(index)
    heads_q, heads_kv = shape.heads
    unused = ROW_ELEMENTS if shape.unused else 0
    head_dim, head_dim_v = spec.head_dim - unused, spec.head_dim_v - unused
    k_dtype = spec.k_dtype if isinstance(spec, Fp8ForwardSpec) else spec.dtype
    make = partial(sequences, rng, packed=False)
    q_layout, k_layout, v_layout, out_layout = shape.layouts
    options: dict[str, Any] = {
        "mask": shape.mask,
        "sink_tokens": shape.sink_tokens,
        "batch_invariant": shape.batch_invariant,
        **descales(rng, index, heads_kv),
        **score_options(rng, spec.scores, index, batch=len(shape.q), heads=heads_q),
        **unwritten_outputs(
            (len(shape.q), shape.q[0]),
            heads_q,
            head_dim_v,
            (DType.BF16, DType.F16)[index % 2],
            layout=out_layout,
            strided_lse=shape.layouts == MIXED,
        ),
    }
    if shape.learned_sinks:
        options["sink_logits"] = sink_logits(rng, heads_q)
    request = Fa2FwdFp8Request
    if shape.resident:
        request, options["persistent"] = Fa3FwdFp8Request, PersistentMode.persistent(shape.resident)
    return request.from_arrays(
        make(shape.q, heads_q, head_dim, spec.dtype, layout=q_layout, std=shape.std),
        make(shape.k, heads_kv, head_dim, k_dtype, layout=k_layout, std=shape.std),
        make(shape.k, heads_kv, head_dim_v, spec.v_dtype, layout=v_layout),
        q_scale=_q_scale(rng, index, heads_q),
        **options,
    )


def _q_scale(rng: np.random.Generator, index: int, heads_q: int) -> float | NDArray[np.float32]:
    """A number, or one for each head: heads that share a tile have scales of their own."""
    return 1.25 if index % 3 == 0 else rng.uniform(0.5, 1.5, heads_q).astype(np.float32)
