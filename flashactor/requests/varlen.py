"""Requests over sequences of different lengths, packed along one dimension and found by cu_seqlens."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

from flashactor.array_checks import check_array
from flashactor.arrays import ArrayView
from flashactor.errors import SeqlenOverflowError
from flashactor.requests import checks
from flashactor.requests.base import AttentionRequest, RequestOptions, merge_fields, require_type
from flashactor.requests.fa2 import GRADIENTS, view_gradients
from flashactor.requests.lengths import longest_of, view_offsets
from flashactor.requests.operands import Gradients, Operands, SequenceOffsets
from flashactor.types import Direction, is_count, settle_counts


@dataclass(frozen=True, slots=True)
class CumulativeSeqlens:
    """Extent of a packed batch.

    Attributes:
        batch_size: number of sequences.
        max_seqlen_q, max_seqlen_kv: longest sequence on either side; they size the grid.
        total_q_tokens, total_kv_tokens: rows of q, and of k and v.

    Raises:
        EmptyBatchError: no sequence; ZeroSeqlenError: a longest length of 0;
        SeqlenOverflowError: a longest length above 2**30, or more tokens than ``batch_size`` sequences of the
        longest length hold.
    """

    batch_size: int
    max_seqlen_q: int
    max_seqlen_kv: int
    total_q_tokens: int
    total_kv_tokens: int

    def __post_init__(self) -> None:
        checks.require_batch(self.batch_size)
        checks.require_length("max_seqlen_q", self.max_seqlen_q)
        checks.require_length("max_seqlen_kv", self.max_seqlen_kv)
        settle_counts(self, "batch_size", "max_seqlen_q", "max_seqlen_kv")
        if self.batch_size * max(self.max_seqlen_q, self.max_seqlen_kv) > checks.LARGEST_SIZE:
            raise SeqlenOverflowError(
                field="batch_size",
                got=self.batch_size,
                expected=f"at most {checks.LARGEST_SIZE} tokens in all",
                remedy="split the batch",
            )
        for name, total, longest in (
            ("total_q_tokens", self.total_q_tokens, self.max_seqlen_q),
            ("total_kv_tokens", self.total_kv_tokens, self.max_seqlen_kv),
        ):
            if not is_count(total, 0) or operator.index(total) > self.batch_size * longest:
                raise SeqlenOverflowError(
                    field=name,
                    got=total,
                    expected=f"0 to {self.batch_size * longest}, batch_size times the longest length",
                    remedy="pass the longest length of the batch",
                )
        settle_counts(self, "total_q_tokens", "total_kv_tokens")


@dataclass(frozen=True)
class PackedRequest(AttentionRequest):
    """What the two directions over packed sequences share.

    Attributes:
        seqlens: extent of the batch.
        offsets: the cu_seqlens arrays; None for a bare cell.
    """

    seqlens: CumulativeSeqlens = field(kw_only=True)
    offsets: SequenceOffsets | None = field(default=None, kw_only=True)

    VARLEN: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_type("seqlens", self.seqlens, CumulativeSeqlens)
        super().__post_init__()


@dataclass(frozen=True)
class VarlenFwdRequest(PackedRequest):
    """A forward pass over packed sequences."""

    @classmethod
    def from_arrays(
        cls,
        q: Any,
        k: Any,
        v: Any,
        cu_seqlens_q: Any,
        cu_seqlens_k: Any,
        *,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        seqused_q: Any = None,
        seqused_k: Any = None,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        workspace: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request for the attention of packed sequences.

        Args:
            q: ``[total_q, heads_q, head_dim]``.
            k, v: ``[total_k, heads_kv, head_dim]``; v's head_dim, which is out's, may be another.
            cu_seqlens_q, cu_seqlens_k: int32 ``[batch + 1]``; sequence b is rows cu[b] to cu[b + 1].
            max_seqlen_q, max_seqlen_k: longest sequence; needed only when the offsets are on a device.
            seqused_q, seqused_k: int32 ``[batch]``; sequence b has only its first seqused_q[b] queries and
                seqused_k[b] keys. The rows behind them are no padding: there out is 0 and lse -inf, and no
                gradient comes from or goes to them. Rows after the last offset are not written.
            alibi_slopes: float32 ``[heads_q]`` or ``[batch, heads_q]``.
            sink_logits: float32 ``[heads_q]``.
            out: ``[total_q, heads_q, head_dim_v]``; lse: float32 ``[heads_q, total_q]``; allocated when
                absent.
            workspace: contiguous uint8 ``[bytes]``, 16-byte aligned: scratch for kernels that need some.
            options: the fields of the request: mask, softmax_scale, softcap, dropout_p, arch, ...

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        views, offsets, seqlens = _packed_operands(
            cls,
            q,
            k,
            v,
            (cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k),
            (max_seqlen_q, max_seqlen_k),
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
            out=out,
            lse=lse,
            workspace=workspace,
        )
        return cls(**merge_fields(views, options), seqlens=seqlens, offsets=offsets)


@dataclass(frozen=True)
class VarlenBwdRequest(PackedRequest):
    """A backward pass over packed sequences.

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
        cu_seqlens_q: Any,
        cu_seqlens_k: Any,
        *,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        seqused_q: Any = None,
        seqused_k: Any = None,
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
        """A request for the gradients of a packed forward pass that gave ``out`` and ``lse``.

        Args:
            dout: gradient of out, ``[total_q, heads_q, head_dim_v]``.
            dlse: gradient of lse, float32 ``[heads_q, total_q]``, when the loss uses it.
            dq, dk, dv: like q, k, v; written in place, allocated when absent.
            dsink_logits: float32 ``[heads_q]``; dalibi_slopes: float32, shape of the slopes; likewise. Both
                are computed whenever sink_logits and alibi_slopes are there.
            The rest as in VarlenFwdRequest.from_arrays.

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        views, offsets, seqlens = _packed_operands(
            cls,
            q,
            k,
            v,
            (cu_seqlens_q, cu_seqlens_k, seqused_q, seqused_k),
            (max_seqlen_q, max_seqlen_k),
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
            out=out,
            lse=lse,
            workspace=workspace,
        )
        gradients = view_gradients(
            views, dout, dlse, dq=dq, dk=dk, dv=dv, dsink_logits=dsink_logits, dalibi_slopes=dalibi_slopes
        )
        return cls(
            **merge_fields(views, options),
            seqlens=seqlens,
            offsets=offsets,
            gradients=gradients,
            deterministic=deterministic,
        )


def _packed_operands(
    request_type: type[PackedRequest],
    q: Any,
    k: Any,
    v: Any,
    lengths: tuple[Any, Any, Any, Any],
    longest: tuple[int | None, int | None],
    **optional: Unpack[checks.OptionalArrays],
) -> tuple[Operands, SequenceOffsets, CumulativeSeqlens]:
    q_view, k_view, v_view = checks.view_qkv(q, k, v, rank=3, dtypes=checks.SIXTEEN_BIT)
    total_q, heads_q, head_dim = q_view.shape
    total_k, heads_kv, _ = k_view.shape
    check_array("k", k_view, shape=(total_k, heads_kv, head_dim))
    check_array("v", v_view, shape=(total_k, heads_kv, v_view.shape[-1]))
    checks.check_heads(heads_q, heads_kv)
    offsets, batch = view_offsets(*lengths, q=q_view, k=k_view)
    seqlens = CumulativeSeqlens(
        batch_size=batch,
        max_seqlen_q=longest_of(offsets.cu_seqlens_q, "max_seqlen_q", longest[0]),
        max_seqlen_kv=longest_of(offsets.cu_seqlens_k, "max_seqlen_k", longest[1]),
        total_q_tokens=_packed_tokens(offsets.cu_seqlens_q, total_q),
        total_kv_tokens=_packed_tokens(offsets.cu_seqlens_k, total_k),
    )
    views = checks.operands(
        q_view,
        k_view,
        v_view,
        batch=batch,
        heads_q=heads_q,
        lse_shape=(heads_q, total_q),
        computed=request_type.DIRECTION is Direction.BACKWARD,
        **optional,
    )
    return views, offsets, seqlens


def _packed_tokens(offsets: ArrayView, rows: int) -> int:
    """Tokens that belong to a sequence: rows after the last offset are padding."""
    return int(offsets.to_numpy()[-1]) if offsets.on_host else rows
