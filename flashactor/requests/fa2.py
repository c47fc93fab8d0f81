"""FlashAttention-2 requests: dense batches, forward and backward, on every architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

from flashactor.arrays import ArrayView, check_array
from flashactor.requests import checks
from flashactor.requests.base import AttentionRequest, RequestOptions, merge_fields
from flashactor.requests.dense import DenseFwdRequest, dense_operands
from flashactor.requests.operands import Gradients, Operands
from flashactor.types import Direction


@dataclass(frozen=True)
class Fa2FwdRequest(DenseFwdRequest):
    """A FlashAttention-2 forward pass (Dao 2023, arXiv:2307.08691)."""


@dataclass(frozen=True)
class Fa2BwdRequest(AttentionRequest):
    """A FlashAttention-2 backward pass: dq, dk and dv (arXiv:2307.08691, algorithm 2).

    Attributes:
        deterministic: whether equal inputs give equal bits.
        gradients: the incoming gradients; None for a bare cell.
    """

    deterministic: bool = field(default=True, kw_only=True)
    gradients: Gradients | None = field(default=None, kw_only=True)

    DIRECTION: ClassVar[Direction] = Direction.BACKWARD

    @classmethod
    def from_arrays(
        cls,
        dout: Any,
        q: Any,
        k: Any,
        v: Any,
        out: Any,
        lse: Any,
        *,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        dlse: Any = None,
        dq: Any = None,
        dk: Any = None,
        dv: Any = None,
        deterministic: bool = True,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request for the gradients of a forward pass that gave ``out`` and ``lse``.

        Args:
            dout: gradient of out, ``[batch, seqlen_q, heads_q, head_dim]``.
            q, k, v, out, lse, alibi_slopes, sink_logits: as in the forward pass.
            dlse: gradient of lse, float32 ``[batch, heads_q, seqlen_q]``, when the loss uses it.
            dq, dk, dv: like q, k, v; written in place, allocated when absent.
            deterministic: whether equal inputs give equal bits.
            options: the fields of the forward request.

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        views = dense_operands(cls, q, k, v, alibi_slopes, sink_logits, out, lse)
        gradients = view_gradients(views, dout, dlse, dq, dk, dv)
        return cls(**merge_fields(views, options), gradients=gradients, deterministic=deterministic)


def view_gradients(views: Operands, dout: Any, dlse: Any, dq: Any, dk: Any, dv: Any) -> Gradients:
    """The gradients checked against the operands that they belong to.

    Raises:
        OperandError: which array is off, and how.
    """
    q = views.q
    dout_view = ArrayView.of(dout, "dout")
    check_array("dout", dout_view, shape=q.shape, dtypes=(q.dtype,), device=q.device)
    dlse_view = None
    if dlse is not None:
        dlse_view = ArrayView.of(dlse, "dlse")
        shape = views.lse.shape if views.lse is not None else None
        check_array("dlse", dlse_view, shape=shape, dtypes=("float32",), device=q.device)
    outputs = {
        name: None
        if array is None
        else checks.writable_view(name, array, like=like, shape=like.shape, dtypes=(q.dtype,))
        for name, array, like in (("dq", dq, q), ("dk", dk, views.k), ("dv", dv, views.v))
    }
    return Gradients(dout=dout_view, dlse=dlse_view, **outputs)
