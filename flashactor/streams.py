"""The stream that an array library enqueues its work on, as seen by the thread that asks."""

from __future__ import annotations

import sys
from collections.abc import Callable

LEGACY_DEFAULT_STREAM = 0
"""Handle of the stream that work goes to when nobody names one."""


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
