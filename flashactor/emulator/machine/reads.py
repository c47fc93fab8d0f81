"""Which shared memory asynchronous operations still read, so that nobody writes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.window import Mask, Window

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine

Array = NDArray[Any]


class PendingReads:
    """Counts the readers of each 16-byte chunk of shared memory, of one kind of operation."""

    def __init__(self, machine: Machine, reader: str, remedy: str) -> None:
        self._m = machine
        self._reader, self._remedy = reader, remedy
        self._count = np.zeros(len(machine.shared) >> 4, np.int32)

    def begin(self, chunks: Array) -> None:
        """An operation reads chunks, given by their first bytes."""
        self._count[chunks >> 4] += 1
        self._m.in_flight_reads += 1

    def end(self, chunks: Array) -> None:
        """It has read them."""
        self._count[chunks >> 4] -= 1
        self._m.in_flight_reads -= 1

    def require_none(self, w: Window, m: Mask, i: int, index: Array) -> None:
        """Refuse to write where an operation may still read."""
        touched = self._count[index >> 4] > 0
        if touched.any():
            at = int(np.argmax(touched))
            self._m.fault_async(
                w, m, i, at, int(index[at] % self._m.shared_stride),
                f"a write to shared memory that {self._reader} reading", self._remedy,
            )  # fmt: skip
