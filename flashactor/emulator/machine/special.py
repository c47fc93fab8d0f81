"""Special registers (PTX ISA, chapter 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from flashactor.emulator.machine.machine import Machine
    from flashactor.emulator.machine.window import Window

Array = NDArray[Any]
CLOCKS = ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo")


def special_register(machine: Machine, name: str, w: Window) -> Array:
    """A special register in a window (PTX ISA, chapter 10)."""
    if name in CLOCKS:
        return np.full(w.shape, machine.steps, np.int64)
    thread = machine.thread_of[w.lanes].reshape(w.shape)
    number = machine.block_numbers[w.block].reshape(w.shape)
    lane = w.lane.reshape(w.shape).astype(np.int64)
    base, _, axis = name.partition(".")
    index = "xyz".find(axis) if axis else -1
    if base in ("%tid", "%ctaid", "%clusterid") and index >= 0:
        linear, extents = (thread, machine.block_shape) if base == "%tid" else (number, machine.grid)
        below = int(np.prod(extents[:index]))
        return np.asarray(linear // below % extents[index])
    if index >= 0 and base in ("%ntid", "%nctaid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"):
        extents = {
            "%ntid": machine.block_shape,
            "%cluster_ctaid": (0, 0, 0),
            "%cluster_nctaid": (1, 1, 1),
        }.get(base, machine.grid)
        return np.full(w.shape, extents[index])
    masks = {
        "%lanemask_eq": 1 << lane,
        "%lanemask_lt": (1 << lane) - 1,
        "%lanemask_le": (2 << lane) - 1,
        "%lanemask_gt": 0xFFFFFFFF & ~((2 << lane) - 1),
        "%lanemask_ge": 0xFFFFFFFF & ~((1 << lane) - 1),
    }
    constants = {
        "%nwarpid": machine.warps_per_block,
        "%nsmid": max(1, machine.blocks),
        "%gridid": 1,
        "%cluster_ctarank": 0,
        "%cluster_nctarank": 1,
        "%is_explicit_cluster": 0,
        "%dynamic_smem_size": machine.shared_bytes - machine.kernel.entry.dynamic_offset,
        "%total_smem_size": machine.shared_bytes,
    }
    if name in masks:
        return np.asarray(masks[name])
    if name == "%laneid":
        return lane
    if name == "%warpid":
        return np.asarray(thread // 32)
    if name == "%smid":
        return w.block.reshape(w.shape)
    return np.full(w.shape, constants[name])
