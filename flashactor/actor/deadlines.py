"""One thread for the deadlines of all actors of a process: they hold even while an actor is busy."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from time import perf_counter
from typing import Protocol

from flashactor.actor.blocking import serve_all
from flashactor.telemetry.bound_log import LastingLogger

log = LastingLogger("flashactor.actor")

LEAST_SWEEP = 1024
"""Entries below which settled ones are left in the heap until their time comes."""


class Timed(Protocol):
    """What a deadline ends."""

    @property
    def settled(self) -> bool:
        """Whether it has ended by itself, so that its deadline means nothing any more."""

    def expire(self) -> None:
        """Its time is over. Must be quick; called on the thread of the deadlines."""


class Deadlines:
    """Calls ``expire`` of what is not settled at its time. Its thread starts with the first deadline."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child, where the lock may be held by a thread of the parent."""
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Timed]] = []
        self._numbers = itertools.count()
        self._sweep_at = LEAST_SWEEP
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, timed: Timed) -> None:
        """Have something expire at a time of ``perf_counter``.

        Raises:
            RuntimeError: there is no thread yet, and none can be started.
        """
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), timed))
            if len(self._heap) >= self._sweep_at:
                # Most are settled long before their time; without this the heap would hold all of a minute.
                self._heap = [entry for entry in self._heap if not entry[2].settled]
                heapq.heapify(self._heap)
                self._sweep_at = max(LEAST_SWEEP, 2 * len(self._heap))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="flashactor-deadlines", daemon=True)
                thread.start()
                self._thread = thread
            elif self._heap and self._heap[0][2] is timed:
                self._changed.notify()

    def _run(self) -> None:
        serve_all()
        while True:
            with self._changed:
                while not (wait := self._next()) <= 0.0:
                    self._changed.wait(None if wait == float("inf") else wait)
                timed = heapq.heappop(self._heap)[2]
            try:
                timed.expire()
            except Exception:
                log.exception("a deadline failed")
            del timed  # this thread may now wait for hours

    def _next(self) -> float:
        return self._heap[0][0] - perf_counter() if self._heap else float("inf")


deadlines = Deadlines()


def _forget() -> None:
    """In a forked child, whose actors have ended with their threads."""
    deadlines.forget()


os.register_at_fork(after_in_child=_forget)
