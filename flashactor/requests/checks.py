"""Checks of a request's arrays, shared by the request types. Each returns the views that it checked."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import Any, TypedDict, Unpack

from flashactor.array_checks import check_array, check_contiguous, check_vector_access
from flashactor.arrays import ArrayView, Device
from flashactor.errors import EmptyBatchError, OperandError, SeqlenOverflowError, ZeroSeqlenError
from flashactor.requests.operands import Operands
from flashactor.types import DType, is_count

SIXTEEN_BIT = (DType.F16.numpy_name, DType.BF16.numpy_name)
EIGHT_BIT = (DType.F8E4M3.numpy_name, DType.F8E5M2.numpy_name)


class OptionalArrays(TypedDict):
    """The arguments of every ``from_arrays`` that may be None."""

    alibi_slopes: Any
    sink_logits: Any
    out: Any
    lse: Any
    workspace: Any


def view_operand(
    name: str, array: Any, *, rank: int, dtypes: Sequence[str], device: Device | None = None
) -> ArrayView:
    """An array that kernels load in vectors along its last dimension.

    Raises:
        OperandError: rank, dtype, device, strides or alignment are off.
    """
    view = check_array(name, ArrayView.of(array, name), rank=rank, dtypes=dtypes, device=device)
    return check_vector_access(name, view)


def view_qkv(q: Any, k: Any, v: Any, *, rank: int, dtypes: Sequence[str]) -> tuple[ArrayView, ...]:
    """q, k, v of one rank, dtype and device, with rows that kernels can load.

    Raises:
        OperandError: which argument is off, and how.
    """
    q_view = view_operand("q", q, rank=rank, dtypes=dtypes)
    # k and v of fp8 may differ from q in type (e4m3 with e5m2), 16-bit ones may not.
    kv_dtypes = EIGHT_BIT if q_view.dtype in EIGHT_BIT else (q_view.dtype,)
    k_view, v_view = (
        view_operand(name, array, rank=rank, dtypes=kv_dtypes, device=q_view.device)
        for name, array in (("k", k), ("v", v))
    )
    return q_view, k_view, v_view


def check_heads(q_heads: int, kv_heads: int) -> int:
    """The GQA ratio.

    Raises:
        OperandError: there is no head, or the query heads do not divide evenly.
    """
    if kv_heads == 0 or q_heads == 0 or q_heads % kv_heads:
        raise OperandError(
            field="heads",
            got=f"{q_heads} query heads with {kv_heads} key/value heads",
            expected="a positive multiple of the key/value heads",
            remedy="give q a number of heads that is a multiple of k's",
        )
    return q_heads // kv_heads


def require_batch(batch: int) -> None:
    """Raises EmptyBatchError unless there is a sequence."""
    if not is_count(batch, 1):
        raise EmptyBatchError(
            field="batch",
            got=batch,
            expected="at least one sequence",
            remedy="skip the request for an empty batch",
        )


def require_positive(name: str, value: int) -> None:
    """Raises ZeroSeqlenError unless a length is a positive integer."""
    if not is_count(value, 1):
        raise ZeroSeqlenError(
            field=name, got=value, expected="an integer of at least 1", remedy="skip empty sequences"
        )


LONGEST = 2**30
"""The most rows of a sequence: kernels count them, and distances between them, in 32 bits."""

LARGEST_SIZE = 2**62
"""The most bytes of an array, so that offsets in it are 64-bit integers."""


def require_length(name: str, value: int) -> None:
    """Raises ZeroSeqlenError, SeqlenOverflowError unless a length is an integer that kernels can count to."""
    require_positive(name, value)
    require_countable(name, value)


def require_countable(name: str, value: int) -> None:
    """Raises SeqlenOverflowError if an integer is longer than a sequence may be."""
    if operator.index(value) > LONGEST:
        raise SeqlenOverflowError(
            field=name,
            got=value,
            expected=f"at most {LONGEST}, which kernels can count to",
            remedy="split the sequence, and merge the states with MergeStatesRequest",
        )


def _check_size(lse_shape: tuple[int, ...], head_dim: int) -> None:
    """Raises OperandError where float32 results of a request would have more bytes than can be addressed."""
    if prod(lse_shape) * head_dim * 4 > LARGEST_SIZE:
        raise OperandError(
            field="q.shape",
            got=f"heads and rows {lse_shape}",
            expected=f"results of at most {LARGEST_SIZE} bytes in float32",
            remedy="split the batch",
        )


def check_dense(q: ArrayView, k: ArrayView, v: ArrayView) -> int:
    """Shapes ``[batch, seqlen, heads, head_dim]``: equal batch, k and v alike but for v's own head_dim.

    Returns the GQA ratio.

    Raises:
        OperandError, EmptyBatchError, ZeroSeqlenError: the first mismatch.
    """
    batch, seqlen_q, heads_q, head_dim = q.shape
    _, seqlen_k, heads_kv, _ = k.shape
    require_batch(batch)
    check_array("k", k, shape=(batch, seqlen_k, heads_kv, head_dim))
    check_array("v", v, shape=(batch, seqlen_k, heads_kv, v.shape[-1]))
    require_length("seqlen_q", seqlen_q)
    require_length("seqlen_k", seqlen_k)
    return check_heads(heads_q, heads_kv)


def operands(
    q: ArrayView,
    k: ArrayView,
    v: ArrayView,
    *,
    batch: int,
    heads_q: int,
    lse_shape: tuple[int, ...],
    computed: bool = False,
    **optional: Unpack[OptionalArrays],
) -> Operands:
    """The common operands with the optional ones checked against q.

    Args:
        q, k, v: checked views.
        batch, heads_q: extents.
        lse_shape: shape of lse.
        computed: whether out and lse are there already, as in a backward pass: then they are only read.
        optional: arrays, or None.

    Raises:
        OperandError: which argument is off, and how.
    """
    _check_size(lse_shape, max(q.shape[-1], v.shape[-1]))
    out_view = lse_view = slopes = logits = None
    out, lse = optional["out"], optional["lse"]
    alibi_slopes, sink_logits = optional["alibi_slopes"], optional["sink_logits"]
    for name, array in (("out", out), ("lse", lse)):
        if computed and array is None:
            raise OperandError(
                field=name,
                got="nothing",
                expected=f"the {name} of the forward pass",
                remedy=f"keep {name} of the forward pass's reply for the backward pass",
            )
    if out is not None:
        dtypes = SIXTEEN_BIT if q.dtype in EIGHT_BIT else (q.dtype,)
        out_view = view_result(
            "out", out, like=q, shape=(*q.shape[:-1], v.shape[-1]), dtypes=dtypes, computed=computed
        )
        check_vector_access("out", out_view)
    if lse is not None:
        lse_view = view_result("lse", lse, like=q, shape=lse_shape, dtypes=("float32",), computed=computed)
    if alibi_slopes is not None:
        slopes = ArrayView.of(alibi_slopes, "alibi_slopes")
        check_array("alibi_slopes", slopes, rank=(1, 2), dtypes=("float32",), device=q.device)
        shape = (heads_q,) if len(slopes.shape) == 1 else (batch, heads_q)
        check_array("alibi_slopes", slopes, shape=shape)
        check_contiguous("alibi_slopes", slopes)
    if sink_logits is not None:
        logits = ArrayView.of(sink_logits, "sink_logits")
        check_array("sink_logits", logits, shape=(heads_q,), dtypes=("float32",), device=q.device)
        check_contiguous("sink_logits", logits)
    return Operands(
        q=q,
        k=k,
        v=v,
        out=out_view,
        lse=lse_view,
        alibi_slopes=slopes,
        sink_logits=logits,
        workspace=_view_workspace(optional["workspace"], q),
    )


def view_result(
    name: str, array: Any, *, like: ArrayView, shape: Sequence[int], dtypes: Sequence[str], computed: bool
) -> ArrayView:
    """A view of an array that is read if it is ``computed``, else written."""
    if not computed:
        return writable_view(name, array, like=like, shape=shape, dtypes=dtypes)
    return check_array(name, ArrayView.of(array, name), shape=shape, dtypes=dtypes, device=like.device)


def _view_workspace(workspace: Any, q: ArrayView) -> ArrayView | None:
    if workspace is None:
        return None
    view = ArrayView.of(workspace, "workspace")
    check_array("workspace", view, rank=1, dtypes=("uint8",), device=q.device)
    require_writable("workspace", view)
    if view.size > 1 and view.strides != (1,):
        raise OperandError(
            field="workspace.strides",
            got=view.strides,
            expected="contiguous bytes",
            remedy="allocate the workspace as one array",
        )
    return check_vector_access("workspace", view)


def writable_view(
    name: str, array: Any, *, like: ArrayView, shape: Sequence[int] | None, dtypes: Sequence[str]
) -> ArrayView:
    """A view of an array that results are written into.

    Raises:
        OperandError: wrong shape, dtype or device, read-only memory, or elements that share memory.
    """
    view = check_array(name, ArrayView.of(array, name), shape=shape, dtypes=dtypes, device=like.device)
    return require_writable(name, view)


def require_writable(name: str, view: ArrayView) -> ArrayView:
    """Return ``view`` if results may be written into it.

    Raises:
        OperandError: read-only memory, or elements that share memory.
    """
    if any(n > 1 and stride == 0 for n, stride in zip(view.shape, view.strides, strict=True)):
        raise OperandError(
            field=f"{name}.strides",
            got=f"{view.strides}: a broadcast array",
            expected="one address for each element that is written",
            remedy=f"pass {name} as an array of its own",
        )
    if not view.writable:
        raise OperandError(
            field=name,
            got="a read-only array",
            expected="writable memory",
            remedy=f"allocate {name}, or leave it out and let the executor allocate it",
        )
    return view
