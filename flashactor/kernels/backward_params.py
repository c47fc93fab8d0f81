"""The parameter structs of the backward kernels: the mirror of kernels_cu/common/bwd_params.cuh."""

from __future__ import annotations

from flashactor.kernels.params import PROBLEM, StructLayout, of_type, strides

BWD_PARAMS = StructLayout(
    (
        *PROBLEM,
        *of_type("pointer", "q k v dout out lse dlse dq dk dv"),
        *of_type("pointer", "row_lse row_term dq_accumulator dsink_partials dslopes_partials"),
        *strides(("q", "k", "v", "dout", "out", "dq", "dk", "dv")),
        *strides(("lse", "dlse"), "batch head row"),
        *of_type("i64", "stat_rows"),
        *of_type("int", "tiles padded_head_dim"),
        *of_type("float", "softmax_scale"),
        *of_type("int", "unused"),
    )
)
"""``BwdParams``."""

REDUCE_PARAMS = StructLayout(
    (
        *of_type("pointer", "partials sums"),
        *strides(("sums",), "batch head"),
        *of_type("int", "batch heads tiles sums_batch"),
    )
)
"""``ReduceParams``."""
