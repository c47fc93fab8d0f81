"""Ctrl-C: the first ends the work in order, the second at once, and neither shows a traceback."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
LINE = "flashactor: interrupted"


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Handle Ctrl-C so, if Python does; who started the process may have chosen otherwise."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _first)
    after: Callable[[int, FrameType | None], None] = signal.default_int_handler
    try:
        yield
    except KeyboardInterrupt:
        after = _after_the_line  # to the end: a thread may keep the process for a while
        raise
    finally:
        signal.signal(signal.SIGINT, after)


def _first(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _second)
    raise KeyboardInterrupt


def _second(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{LINE}\n".encode())
    os._exit(INTERRUPTED)


def _after_the_line(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
