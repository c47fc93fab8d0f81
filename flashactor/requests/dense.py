"""Requests over dense batches, ``[batch, seqlen, heads, head_dim]``: the part that generations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, Unpack

from flashactor.requests import checks
from flashactor.requests.base import AttentionRequest, RequestOptions, merge_fields
from flashactor.requests.operands import Operands
from flashactor.types import Direction


@dataclass(frozen=True)
class DenseFwdRequest(AttentionRequest):
    """A forward pass over a batch of equally long sequences."""

    @classmethod
    def from_arrays(
        cls,
        q: Any,
        k: Any,
        v: Any,
        *,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        workspace: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request for the attention of arrays, with everything inferred from them.

        Args:
            q: ``[batch, seqlen_q, heads_q, head_dim]``.
            k, v: ``[batch, seqlen_k, heads_kv, head_dim]``, heads_q a multiple of heads_kv; v's head_dim,
                which is out's, may be another than that of q and k.
            alibi_slopes: float32 ``[heads_q]`` or ``[batch, heads_q]``; they switch the bias on.
            sink_logits: float32 ``[heads_q]``, logits that join the softmax's denominator only.
            out: ``[batch, seqlen_q, heads_q, head_dim_v]``, written in place; else q's library allocates it.
            lse: float32 ``[batch, heads_q, seqlen_q]``, likewise.
            workspace: contiguous uint8 ``[bytes]``, 16-byte aligned: scratch for kernels that need some.
            options: the fields of the request: mask, softmax_scale, softcap, dropout_p, arch, ...

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        views = dense_operands(
            cls,
            q,
            k,
            v,
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
            out=out,
            lse=lse,
            workspace=workspace,
        )
        return cls(**merge_fields(views, options))


def dense_operands(
    request_type: type[AttentionRequest],
    q: Any,
    k: Any,
    v: Any,
    **optional: Unpack[checks.OptionalArrays],
) -> Operands:
    """Checked views of a dense batch.

    Raises:
        OperandError, EmptyBatchError, ZeroSeqlenError: which array is off, and how.
    """
    dtypes = checks.EIGHT_BIT if request_type.TAKES_FP8 else checks.SIXTEEN_BIT
    q_view, k_view, v_view = checks.view_qkv(q, k, v, rank=4, dtypes=dtypes)
    checks.check_dense(q_view, k_view, v_view)
    batch, seqlen_q, heads_q, _ = q_view.shape
    return checks.operands(
        q_view,
        k_view,
        v_view,
        computed=request_type.DIRECTION is Direction.BACKWARD,
        batch=batch,
        heads_q=heads_q,
        lse_shape=(batch, heads_q, seqlen_q),
        **optional,
    )
