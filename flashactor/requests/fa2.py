"""FlashAttention-2 requests: dense batches, forward and backward, on every architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

from flashactor.array_checks import check_array, check_vector_access
from flashactor.arrays import ArrayView
from flashactor.errors import OperandError
from flashactor.requests import checks
from flashactor.requests.base import AttentionRequest, RequestOptions, merge_fields, require_type
from flashactor.requests.dense import DenseFwdRequest, dense_operands
from flashactor.requests.operands import Gradients, Operands
from flashactor.types import Direction

GRADIENTS = ("dq", "dk", "dv", "dsink_logits", "dalibi_slopes")
"""What a backward pass computes."""


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
    WRITES: ClassVar[tuple[str, ...]] = (*GRADIENTS, "workspace")

    def __post_init__(self) -> None:
        require_type("deterministic", self.deterministic, bool)
        super().__post_init__()

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
        dsink_logits: Any = None,
        dalibi_slopes: Any = None,
        workspace: Any = None,
        deterministic: bool = True,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request for the gradients of a forward pass that gave ``out`` and ``lse``.

        Args:
            dout: gradient of out, ``[batch, seqlen_q, heads_q, head_dim_v]``.
            q, k, v, out, lse, alibi_slopes, sink_logits, workspace: as in the forward pass.
            dlse: gradient of lse, float32 ``[batch, heads_q, seqlen_q]``, when the loss uses it.
            dq, dk, dv: like q, k, v; written in place, allocated when absent.
            dsink_logits: float32 ``[heads_q]``; dalibi_slopes: float32, shape of the slopes; likewise. Both
                are computed whenever sink_logits and alibi_slopes are there.
            deterministic: whether equal inputs give equal bits.
            options: the fields of the forward request.

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
        gradients = view_gradients(
            views, dout, dlse, dq=dq, dk=dk, dv=dv, dsink_logits=dsink_logits, dalibi_slopes=dalibi_slopes
        )
        return cls(**merge_fields(views, options), gradients=gradients, deterministic=deterministic)


def view_gradients(views: Operands, dout: Any, dlse: Any, **outputs: Any) -> Gradients:
    """The gradients checked against the operands that they belong to.

    Args:
        views: the operands.
        dout, dlse: the incoming gradients, dlse or None.
        outputs: arrays for dq, dk, dv, dsink_logits and dalibi_slopes, or None.

    Raises:
        OperandError: which array is off, and how.
    """
    q = views.q
    dout_view = ArrayView.of(dout, "dout")
    shape = (*q.shape[:-1], views.v.shape[-1])
    check_array("dout", dout_view, shape=shape, dtypes=(q.dtype,), device=q.device)
    check_vector_access("dout", dout_view)
    dlse_view = None
    if dlse is not None:
        dlse_view = ArrayView.of(dlse, "dlse")
        lse_shape = views.lse.shape if views.lse is not None else None
        check_array("dlse", dlse_view, shape=lse_shape, dtypes=("float32",), device=q.device)
    checked = {name: _view_output(name, array, views) for name, array in outputs.items() if array is not None}
    return Gradients(dout=dout_view, dlse=dlse_view, **checked)


def _view_output(name: str, array: Any, views: Operands) -> ArrayView:
    """Memory for the gradient of the operand that is called like it, without the d."""
    operand: ArrayView | None = getattr(views, name[1:])
    if operand is None:
        raise OperandError(
            field=name,
            got="an array",
            expected=f"none, for the request has no {name[1:]}",
            remedy=f"pass {name[1:]}, or drop {name}",
        )
    view = checks.writable_view(name, array, like=operand, shape=operand.shape, dtypes=(operand.dtype,))
    return check_vector_access(name, view) if len(operand.shape) > 2 else view
