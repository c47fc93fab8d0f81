"""A mock that completes on a thread of its own, in the order of the launches: what a device's stream does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from flashactor.executors.base import Done, Executor, Outcome, Outputs, Work


class StreamMock(Executor):
    """Answers what is submitted with what a function returns for it, from another thread."""

    name = "stream-mock"

    def __init__(self, script: Callable[[Work], Outputs]) -> None:
        self._script = script
        self._abandoned = False
        self._launched: queue.SimpleQueue[tuple[Work, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._complete, name="stream-mock", daemon=True)
        self._thread.start()

    def _complete(self) -> None:
        while (launched := self._launched.get()) is not None:
            work, done = launched
            if not self._abandoned:
                done(Outcome(outputs=self._script(work)))

    def submit(self, work: Work, done: Done) -> None:
        """Leave the work to the thread."""
        self._launched.put((work, done))

    def close(self) -> None:
        """Wait for the thread."""
        self._launched.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """Leave the thread to itself; it ends without an answer to anybody."""
        self._abandoned = True
        self._launched.put(None)
