"""stdout and stderr whose readers may go away, and which take any text: printing never changes the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from flashactor.errors import OutputError


class LastingStream:
    """A text stream that goes on into nothing once its reader is gone.

    Attributes:
        is_read: whether text still goes where it was sent.
    """

    def __init__(self, stream: TextIO, *, required: bool) -> None:
        """Nothing is written yet.

        Args:
            stream: where text goes.
            required: whether text that cannot be written for another reason, such as a full disk, is an
                error; what is said on stderr is lost in silence.
        """
        self.is_read = True
        self._stream = stream
        self._required = required
        with suppress(AttributeError):
            cast(Any, stream).reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or drop the text.

        Raises:
            OutputError: it cannot be written, though there is a reader.
        """
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush; raises as ``write``."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        """Point the file descriptor away: what is buffered has to go somewhere, at exit at the latest."""
        self.is_read = False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._required and not isinstance(error, BrokenPipeError):
            raise OutputError(
                field="stdout",
                got=error.strerror or error,
                expected="a place that takes the output",
                remedy="free some space, or send the output elsewhere",
            ) from error


@contextmanager
def lasting_streams() -> Iterator[None]:
    """``sys.stdout`` and ``sys.stderr`` as lasting streams; what the caller had closed goes nowhere."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = cast(TextIO, LastingStream(before[0] or nowhere, required=True))
        sys.stderr = cast(TextIO, LastingStream(before[1] or nowhere, required=False))
        try:
            yield
        finally:
            with suppress(OutputError):
                sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
