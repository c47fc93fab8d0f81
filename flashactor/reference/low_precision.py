"""The formula as a kernel evaluates it, to know the error that a type costs by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.forward import check_batched, forward_sequence
from flashactor.reference.params import AttentionParams
from flashactor.reference.quantization import numpy_dtype
from flashactor.types import DType


def forward_low_precision(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], params: AttentionParams, dtype_name: str
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Attention evaluated as on tensor cores: scores, sums and lse in float32, weights in the operands' type.

    What is rounded before it meets v are the unnormalised weights exp(score - row maximum). A kernel passes
    if its error is at most twice this function's, both against `forward`: the criterion of the FlashAttention
    test suite.

    Args:
        q: [batch, seqlen_q, heads_q, head_dim_qk]; rounded to the type unless it has it already.
        k: [batch, seqlen_k, heads_kv, head_dim_qk].
        v: [batch, seqlen_k, heads_kv, head_dim_v].
        params: as in `forward`. Scalar fp8 descales of q and k belong in softmax_scale, that of v on out.
        dtype_name: a type as `DType.parse` takes it, such as ``bf16`` or ``float8_e4m3fn``.

    Returns:
        out [batch, seqlen_q, heads_q, head_dim_v], rounded to the type, or for an fp8 type to bfloat16, and
        lse [batch, heads_q, seqlen_q] in float32.

    Raises:
        OperandError: the shapes contradict each other.
        RequestError: the name is none of the known types.
    """
    check_batched(q, k, v, params)
    kind = DType.parse(dtype_name)
    low = numpy_dtype(kind)
    out_type = numpy_dtype(DType.BF16) if kind.is_fp8 else low
    q, k, v = (x.astype(low, copy=False) for x in (q, k, v))
    batch, seqlen_q, heads_q, _ = q.shape
    out = np.zeros((batch, seqlen_q, heads_q, v.shape[3]), dtype=out_type)
    lse = np.zeros((batch, heads_q, seqlen_q), dtype=np.float32)
    for index in range(batch):
        exact, lse[index] = forward_sequence(
            q[index],
            k[index],
            v[index],
            params,
            index,
            compute=np.dtype(np.float32),
            weights_type=low,
        )
        out[index] = exact.astype(out_type)
    return out, lse
