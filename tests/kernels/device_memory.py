"""Launches on NumPy arrays in the emulator's memory, for the tests of single kernels."""

from dataclasses import replace

import numpy as np

from flashactor import emulator
from flashactor.arrays import ArrayView
from flashactor.executors.emulator import kernel_ptx


def poison(dtype):
    """A value that no test computes: NaN, or a large number."""
    return np.array(np.nan if np.dtype(dtype).kind != "i" else 1 << 30).astype(dtype)


def strided(array, pad=None):
    """The same values with gaps of poison between rows: no dimension but the last one is contiguous."""
    pad = 16 // array.itemsize if pad is None else pad
    base = np.full(
        (*(n + 1 for n in array.shape[:-1]), array.shape[-1] + pad), poison(array.dtype), array.dtype
    )
    view = base[tuple(slice(n) for n in array.shape)]
    view[...] = array
    return view


class Device:
    """Arrays in device memory: `view` places one, `run` launches and copies back."""

    def __init__(self):
        self.memory = emulator.Memory()
        self.outputs = []

    def view(self, array, name, *, out=False, read_only=True):
        """Place an array; `out` is one that the kernel has to write as a whole."""
        view = ArrayView.of(array, name)
        address = self.memory.add(view.to_numpy(), name, written=not out, read_only=read_only and not out)
        if out:
            self.outputs.append(name)
        return replace(view, pointer=address)

    def run(self, launch, *, races=True, report=False):
        """Launch under a random schedule, with races found; returns the memory lines of a report."""
        result = emulator.launch(
            kernel_ptx(launch.spec),
            launch.spec.entry,
            launch.grid,
            launch.block,
            [launch.params],
            shared=launch.shared_bytes,
            memory=self.memory,
            schedule="random",
            races=races,
            report=report,
        )
        self.memory.require_written(*self.outputs)
        self.memory.copy_back()
        return result.memory_lines


def wasted(lines):
    """The accesses of global memory that touch more sectors than their bytes need."""
    return [line for line in lines if line.space == "global" and line.transactions > line.ideal]
