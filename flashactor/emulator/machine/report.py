"""Counters of how memory is accessed: bank conflicts and coalescing, by PTX line. A report, not a fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashactor.emulator.machine.window import Mask, Window

Array = NDArray[Any]
BANKS, SECTOR = 32, 32


@dataclass(slots=True)
class LineReport:
    """Accesses of one instruction.

    Attributes:
        requests: warp instructions.
        transactions: wavefronts in shared memory, 32-byte sectors in global memory.
        ideal: what as many bytes need at least.
    """

    requests: int = 0
    transactions: int = 0
    ideal: int = 0


@dataclass(slots=True)
class Report:
    """Counters of a launch; empty where they were not asked for.

    Attributes:
        is_enabled: whether to count.
        shared_lines, global_lines: by index of the instruction.
    """

    is_enabled: bool
    shared_lines: dict[int, LineReport] = field(default_factory=dict)
    global_lines: dict[int, LineReport] = field(default_factory=dict)

    def shared(self, w: Window, m: Mask, i: int, address: Array, size: int) -> None:
        """Loads and stores of shared memory: 32 banks of 4 bytes, 128 bytes at a time."""
        if not self.is_enabled:
            return
        warps = w.active(m, w.lanes) // 32
        lanes = w.active(m, w.lane)
        # 16-byte accesses go by quarters of a warp, 8-byte ones by halves.
        phase = warps * 4 + (lanes * max(size, 4) // 128 if size > 4 else 0)
        self._count(self.shared_lines, i, np.unique(warps).size, phase, address, max(1, size // 4))

    def matrices(self, w: Window, i: int, rows: Array) -> None:
        """ldmatrix and stmatrix: eight rows of 16 bytes at a time."""
        if not self.is_enabled:
            return
        count, width = rows.shape
        phase = np.repeat(np.arange(count * width // 8), 8)
        self._count(self.shared_lines, i, count, phase, rows.reshape(-1), 4)

    def _count(
        self, lines: dict[int, LineReport], i: int, requests: int, phase: Array, address: Array, words: int
    ) -> None:
        word = (address[:, None] // 4 + np.arange(words)).reshape(-1)
        which = np.repeat(phase, words)
        pairs = np.unique(np.stack([which, word], 1), axis=0)
        keys, counts = np.unique(pairs[:, 0] * BANKS + pairs[:, 1] % BANKS, return_counts=True)
        phases, starts = np.unique(keys // BANKS, return_index=True)
        line = lines.setdefault(i, LineReport())
        line.requests += requests
        line.transactions += int(np.maximum.reduceat(counts, starts).sum())
        _, distinct = np.unique(pairs[:, 0], return_counts=True)
        line.ideal += int((-(-distinct // BANKS)).sum())
        assert phases.size == distinct.size

    def global_(self, w: Window, m: Mask, i: int, address: Array, size: int) -> None:
        """Loads and stores of global memory, in sectors of 32 bytes."""
        if not self.is_enabled:
            return
        warps = w.active(m, w.lanes) // 32
        sectors = np.unique(np.stack([warps, address // SECTOR], 1), axis=0)
        places = np.unique(np.stack([warps, address], 1), axis=0)
        _, distinct = np.unique(places[:, 0], return_counts=True)
        line = self.global_lines.setdefault(i, LineReport())
        line.requests += distinct.size
        line.transactions += len(sectors)
        line.ideal += int((-(-distinct * size // SECTOR)).sum())
