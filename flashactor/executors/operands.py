"""What executors of kernels ask of arrays: their device, the streams behind them, room for outputs."""

from __future__ import annotations

from collections.abc import Iterator

from flashactor.allocation import allocate
from flashactor.arrays import ArrayView, Device
from flashactor.errors import OperandError, RequestError
from flashactor.requests import AttentionRequest
from flashactor.requests.operands import Operands
from flashactor.types import SmArch


def named_views(operands: Operands) -> Iterator[tuple[str, ArrayView]]:
    """The arrays that a kernel touches, with the argument's name of each."""
    for name in ("q", "k", "v", "out", "lse", "alibi_slopes", "sink_logits"):
        view = getattr(operands, name)
        if view is not None:
            yield name, view


def check_device(operands: Operands, ordinal: int) -> None:
    """Require all arrays on one CUDA device.

    Raises:
        OperandError: the first array elsewhere.
    """
    wanted = Device("cuda", ordinal)
    for name, view in named_views(operands):
        if view.device == wanted:
            continue
        remedy = f"move {name} to the device, or start the actor with executor='reference'"
        if not view.on_host:
            remedy = f"move {name} to {wanted}, or give its device an executor of its own"
        raise OperandError(field=f"{name}.device", got=view.device, expected=str(wanted), remedy=remedy)


def check_arch(request: AttentionRequest, arch: SmArch) -> None:
    """Require a request for an executor's architecture, or for any.

    Raises:
        RequestError: it names another.
    """
    if request.arch not in (None, arch):
        raise RequestError(
            field="arch",
            got=request.arch.target if request.arch else None,
            expected=f"{arch.target}, the executor's",
            remedy="leave arch out of the request, or send it to an actor for that architecture",
        )


def forward_outputs(operands: Operands) -> tuple[ArrayView, ArrayView]:
    """out ``[batch, seqlen_q, heads, head_dim]`` and lse ``[batch, heads, seqlen_q]``: the caller's, or new.

    Raises:
        OperandError: the inputs' library cannot be asked for arrays.
    """
    q, out, lse = operands.q, operands.out, operands.lse
    batch, seqlen_q, heads, _ = q.shape
    if out is None:
        out = ArrayView.of(allocate(q, q.shape, q.dtype), "out")
    if lse is None:
        lse = ArrayView.of(allocate(q, (batch, heads, seqlen_q), "float32"), "lse")
    return out, lse


def producer_streams(operands: Operands, out: ArrayView, lse: ArrayView) -> tuple[int, ...]:
    """The streams, each once, whose work a kernel must wait for.

    The inputs may be unfinished, and a caching allocator may hand out memory for an output while earlier
    work of the same stream still uses it.
    """
    views = (dict(named_views(operands)) | {"out": out, "lse": lse}).values()
    for view in views:
        if view.library == "jaxlib":
            # XLA shows its streams to nobody; waiting on the host until the array is there is its public way.
            view.array.block_until_ready()
    return tuple(dict.fromkeys(view.stream for view in views))
