"""What the cuda executor asks of arrays: their device, the streams behind them, room for outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from flashactor.allocation import allocate
from flashactor.arrays import ArrayView, Device
from flashactor.errors import OperandError, RequestError
from flashactor.requests import AttentionRequest
from flashactor.requests.operands import Operands
from flashactor.types import SmArch

LEGACY_DEFAULT_STREAM = 0
"""Handle of the stream that work goes to when nobody names one."""


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
    """Require a request for the device's architecture, or for any.

    Raises:
        RequestError: it names another.
    """
    if request.arch not in (None, arch):
        raise RequestError(
            field="arch",
            got=request.arch.target if request.arch else None,
            expected=f"{arch.target}, the device's",
            remedy="leave arch out of the request, or send it to an actor on such a device",
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
    """The streams, each once, on which the arrays' libraries enqueue work from this thread.

    A kernel must wait for them: the inputs may be unfinished, and a caching allocator may hand out memory
    for an output while earlier work of the same stream still uses it.
    """
    views = dict(named_views(operands)) | {"out": out, "lse": lse}
    return tuple(dict.fromkeys(_STREAMS.get(view.library, _unknown)(view) for view in views.values()))


def _unknown(view: ArrayView) -> int:
    return LEGACY_DEFAULT_STREAM


def _torch(view: ArrayView) -> int:
    stream: int = sys.modules["torch"].cuda.current_stream(view.device.ordinal).cuda_stream
    return stream


def _cupy(view: ArrayView) -> int:
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(view.device.ordinal):
        stream: int = cupy.cuda.get_current_stream().ptr
    return stream


def _jax(view: ArrayView) -> int:
    # XLA shows its streams to nobody; waiting on the host until the array is there is its public way.
    view.array.block_until_ready()
    return LEGACY_DEFAULT_STREAM


_STREAMS: dict[str, Callable[[ArrayView], int]] = {"torch": _torch, "cupy": _cupy, "jaxlib": _jax}
