"""Streams of other libraries: the one that a library enqueues its work on, and the address of any."""

from __future__ import annotations

import sys
from collections.abc import Callable

from flashactor.errors import OperandError

LEGACY_DEFAULT_STREAM = 0
"""Handle of the stream that work goes to when nobody names one."""

PER_THREAD_DEFAULT_STREAM = 2
"""Handle that means another stream on each thread; no address that one thread can give to another."""


def current_stream(library: str, ordinal: int) -> int:
    """The handle of a library's current stream on a device, for the calling thread.

    Args:
        library: top-level module of the library.
        ordinal: the device.
    """
    return _CURRENT.get(library, _default)(ordinal)


def _default(ordinal: int) -> int:
    return LEGACY_DEFAULT_STREAM


def _torch(ordinal: int) -> int:
    stream: int = sys.modules["torch"].cuda.current_stream(ordinal).cuda_stream
    return stream


def _cupy(ordinal: int) -> int:
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(ordinal):
        stream: int = cupy.cuda.get_current_stream().ptr
    return stream


_CURRENT: dict[str, Callable[[int], int]] = {"torch": _torch, "cupy": _cupy}


def stream_address(stream: object) -> int:
    """The address of a CUDA stream: what the driver calls a ``CUstream``, as a number.

    Args:
        stream: the address itself; or an object with ``__cuda_stream__`` (cuda.core's protocol), a torch
            stream (``cuda_stream``), or a cupy stream (``ptr``).

    Raises:
        OperandError: it is none of these, has another version of the protocol, or is the per-thread default
            stream.
    """
    address = stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        version, address = _called(protocol, stream)
        if version != 0:
            raise _stream_error(f"version {version!r} of __cuda_stream__", "version 0")
    else:
        for attribute in ("cuda_stream", "ptr"):
            address = getattr(stream, attribute, address)
    if isinstance(address, bool) or not isinstance(address, int) or not 0 <= address < 2**64:
        raise _stream_error(repr(stream), "a stream's address, or an object with __cuda_stream__")
    if address == PER_THREAD_DEFAULT_STREAM:
        raise _stream_error("the per-thread default stream", "a stream that all threads mean the same by")
    return address


def _called(protocol: object, stream: object) -> tuple[object, object]:
    found = protocol() if callable(protocol) else protocol
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise _stream_error(f"{found!r} from __cuda_stream__ of {stream!r}", "(version, address)")
    return found[0], found[1]


def _stream_error(got: str, expected: str) -> OperandError:
    return OperandError(
        "stream", got, expected, "pass torch.cuda.current_stream(), for example, or its address"
    )
