"""What executors of kernels ask of arrays: their device, the streams behind them, room for outputs and
scratch memory."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from flashactor.allocation import allocate
from flashactor.arrays import ITEM_SIZES, ArrayView, Device
from flashactor.errors import MissingOperandsError, OperandError, RequestError
from flashactor.executors.base import Outputs
from flashactor.kernels.problem import Arrays
from flashactor.requests import AttentionRequest, Fa2BwdRequest, MergeStatesRequest, VarlenBwdRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.types import SmArch

WRITTEN_IN_PLACE = ("k_cache", "v_cache")
"""Arrays of a ChunkedPrefillRequest that are read and written."""


def check_device(arrays: Arrays, ordinal: int) -> None:
    """Require all arrays on one CUDA device.

    Raises:
        OperandError: the first array elsewhere.
    """
    wanted = Device("cuda", ordinal)
    for name, view in arrays.items():
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


def require_arrays(request: AttentionRequest) -> dict[str, ArrayView]:
    """The arrays of a request, by their arguments' names.

    Raises:
        MissingOperandsError: a bare cell.
    """
    arrays = request.arrays()
    if not arrays:
        raise MissingOperandsError(
            field="operands",
            got=f"a bare {type(request).__name__}",
            expected="arrays, on an executor that computes",
            remedy=f"make it with {type(request).__name__}.from_arrays(...), or plan with explain()",
        )
    return arrays


def with_outputs(request: AttentionRequest, arrays: dict[str, ArrayView]) -> dict[str, ArrayView]:
    """The arrays and every output of a request: the caller's, or new ones of the inputs' library.

    Raises:
        OperandError: the inputs' library cannot be asked for arrays.
    """
    found = dict(arrays)
    like = next(iter(arrays.values()))
    for name, (shape, dtype) in _output_shapes(request, arrays).items():
        if name not in found:
            found[name] = ArrayView.of(allocate(like, shape, dtype), name)
    return found


def allocated_bytes(request: AttentionRequest, arrays: Arrays, workspace_size: int) -> int:
    """Bytes that a launch allocates: of the outputs and of the workspace that the caller did not provide."""
    outputs = _output_shapes(request, arrays)
    lacking = sum(
        prod(shape) * ITEM_SIZES[dtype] for name, (shape, dtype) in outputs.items() if name not in arrays
    )
    return lacking + (0 if "workspace" in arrays else workspace_size)


def output_names(request: AttentionRequest, arrays: Arrays) -> tuple[str, ...]:
    """The names of a request's outputs."""
    return tuple(_output_shapes(request, arrays))


def outputs_of(request: AttentionRequest, arrays: Arrays) -> Outputs:
    """The outputs among the arrays, as the caller gets them."""
    return Outputs(**{name: arrays[name].array for name in _output_shapes(request, arrays)})


def workspace_view(arrays: Arrays, size: int) -> ArrayView | None:
    """Scratch memory of some bytes: the caller's, or new; None where none is needed.

    Raises:
        OperandError: the caller's is too small.
    """
    given = arrays.get("workspace")
    if size == 0:
        return given
    if given is None:
        like = next(iter(arrays.values()))
        return ArrayView.of(allocate(like, (size,), "uint8"), "workspace")
    if given.size < size:
        raise OperandError(
            field="workspace",
            got=f"{given.size} bytes",
            expected=f"at least {size}",
            remedy="allocate what flashactor.workspace_size(request, arch) says",
        )
    return given


def _output_shapes(request: AttentionRequest, arrays: Arrays) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and element type of every output, by name."""
    if isinstance(request, MergeStatesRequest):
        like, lse = arrays["out_a"], arrays["lse_a"]
        return {"out": (like.shape, like.dtype), "lse": (lse.shape, "float32")}
    q = arrays["q"]
    if isinstance(request, Fa2BwdRequest | VarlenBwdRequest):
        shapes = {f"d{name}": (arrays[name].shape, arrays[name].dtype) for name in "qkv"}
        for name in ("sink_logits", "alibi_slopes"):
            if name in arrays:
                shapes[f"d{name}"] = (arrays[name].shape, "float32")
        return shapes
    dtype = request.out_dtype.numpy_name if isinstance(request, Fa2FwdFp8Request) else q.dtype
    *rows, heads, _ = q.shape
    lse_shape = (rows[0], heads, rows[1]) if len(rows) == 2 else (heads, rows[0])
    return {"out": ((*rows, heads, request.head_dim_v), dtype), "lse": (lse_shape, "float32")}


def producer_streams(views: Iterable[ArrayView]) -> tuple[int, ...]:
    """The streams, each once, whose work a kernel must wait for.

    The inputs may be unfinished, and a caching allocator may hand out memory for an output while earlier
    work of the same stream still uses it.
    """
    found = list(views)
    for view in found:
        if view.library == "jaxlib":
            # XLA shows its streams to nobody; waiting on the host until the array is there is its public way.
            view.array.block_until_ready()
    return tuple(dict.fromkeys(view.stream for view in found))
