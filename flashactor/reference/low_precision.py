"""The formula as a kernel evaluates it, to know the error that a type costs by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.reference.backward import Gradients, backward_batched
from flashactor.reference.forward import check_batched, forward_sequence
from flashactor.reference.params import AttentionParams
from flashactor.reference.quantization import numpy_dtype
from flashactor.types import DType

_FLOAT32 = np.dtype(np.float32)

# The largest power of two that weights from 0 to 1 can be multiplied by in e4m3, which ends at 448.
FP8_WEIGHTS_SCALE = 256.0


def forward_low_precision(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    params: AttentionParams,
    dtype_name: str,
    out_dtype_name: str | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Attention evaluated as on tensor cores: scores, sums and lse in float32, weights in the operands' type.

    What is rounded before it meets v are the unnormalised weights exp(score - row maximum), for fp8 operands
    of either type to e4m3 after a multiplication with 256, which the normalisation takes back. A kernel
    passes if its error is at most twice this function's, both against `forward`: the criterion of the
    FlashAttention test suite.

    Args:
        q: [batch, seqlen_q, heads_q, head_dim_qk]; rounded to the type unless it has it already. With an fp8
            type, arrays of the other fp8 type stay what they are.
        k: [batch, seqlen_k, heads_kv, head_dim_qk].
        v: [batch, seqlen_k, heads_kv, head_dim_v].
        params: as in `forward`. Scalar fp8 descales of q and k belong in softmax_scale, that of v on out.
        dtype_name: a type as `DType.parse` takes it, such as ``bf16`` or ``float8_e4m3fn``.
        out_dtype_name: type of out; when None the operands' type, or bfloat16 for an fp8 type.

    Returns:
        out [batch, seqlen_q, heads_q, head_dim_v], rounded to its type, and lse [batch, heads_q, seqlen_q] in
        float32.

    Raises:
        OperandError: the shapes contradict each other.
        RequestError: a name is none of the known types.
    """
    check_batched(q, k, v, params)
    kind = DType.parse(dtype_name)
    low = numpy_dtype(kind)
    out_kind = DType.BF16 if kind.is_fp8 else kind
    out_type = numpy_dtype(out_kind if out_dtype_name is None else DType.parse(out_dtype_name))
    q, k, v = (x if kind.is_fp8 and x.dtype.itemsize == 1 else x.astype(low, copy=False) for x in (q, k, v))
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
            compute=_FLOAT32,
            weights_type=numpy_dtype(DType.F8E4M3) if kind.is_fp8 else low,
            weights_scale=FP8_WEIGHTS_SCALE if kind.is_fp8 else 1.0,
        )
        out[index] = exact.astype(out_type)
    return out, lse


def backward_low_precision(
    dout: NDArray[Any],
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    params: AttentionParams,
    dtype_name: str,
    dlse: NDArray[Any] | None = None,
) -> Gradients:
    """Gradients evaluated as on tensor cores: scores and sums in float32, what is multiplied in 16 bits.

    Rounded to the type are the weights before they meet dout, the gradients of the scores before they meet k
    and q, and out before it meets dout (arXiv:2307.08691, section 3.1.2). A kernel passes if its error is at
    most twice this function's, both against `backward`.

    Args:
        dout: [batch, seqlen_q, heads_q, head_dim_v]; rounded to the type unless it has it already, as q, k
            and v are.
        q: [batch, seqlen_q, heads_q, head_dim_qk].
        k: [batch, seqlen_k, heads_kv, head_dim_qk].
        v: [batch, seqlen_k, heads_kv, head_dim_v].
        params: as in `forward`.
        dtype_name: a 16-bit type as `DType.parse` takes it, such as ``bf16``.
        dlse: gradient of lse, [batch, heads_q, seqlen_q], where the loss reads lse.

    Returns:
        dq, dk and dv rounded to the type; the gradients of sink logits and slopes rounded to float32.

    Raises:
        OperandError: the shapes contradict each other.
        RequestError: the name is none of the known types.
    """
    low = numpy_dtype(DType.parse(dtype_name))
    dout, q, k, v = (x.astype(low, copy=False) for x in (dout, q, k, v))
    exact = backward_batched(dout, q, k, v, params, dlse, compute=_FLOAT32, operand_type=low)
    sinks, slopes = exact.dsink_logits, exact.dalibi_slopes
    return Gradients(
        dq=exact.dq.astype(low),
        dk=exact.dk.astype(low),
        dv=exact.dv.astype(low),
        dsink_logits=None if sinks is None else sinks.astype(np.float32),
        dalibi_slopes=None if slopes is None else slopes.astype(np.float32),
    )
