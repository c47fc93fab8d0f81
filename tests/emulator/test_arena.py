"""Device memory of the emulator: arrays with gaps take the memory of their elements."""

from pathlib import Path

import numpy as np

from flashactor.emulator import Memory


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_gap_of_gigabytes_takes_no_memory_also_when_the_buffer_grows():
    gap = 2**32
    before = resident_bytes()
    far, farther = (
        np.lib.stride_tricks.as_strided(np.zeros(gap + 8, np.uint8), (2, 8), (gap, 1)) for _ in range(2)
    )
    far[...] = np.arange(16).reshape(2, 8)
    memory = Memory()
    memory.add(far, "far")
    length = len(memory.buffer)
    memory.add(farther, "farther", written=False)
    assert len(memory.buffer) > length > gap
    far[...] = 0
    memory.copy_back()
    assert far.tolist() == np.arange(16).reshape(2, 8).tolist()
    assert resident_bytes() - before < 2**28


def test_growing_keeps_contents_and_what_may_be_touched():
    first = np.arange(1000, dtype=np.int32)
    memory = Memory()
    address = memory.add(first, "first", read_only=True)
    start = address - memory.allocations[0].address + memory.allocations[0].start
    held = memory.buffer[start : start + 4000].copy(), memory.shadow[start : start + 4000].copy()
    length = len(memory.buffer)
    memory.add(np.zeros(10 * length, np.uint8), "second")
    assert len(memory.buffer) > length
    np.testing.assert_array_equal(memory.buffer[start : start + 4000], held[0])
    np.testing.assert_array_equal(memory.shadow[start : start + 4000], held[1])
    assert (held[0].view(np.int32) == first).all()
    assert held[1].all()
