"""Runs PTX on the host, in NumPy, with every access checked. ``docs/emulator.md`` teaches how it works.

from flashactor import emulator

emulator.launch(ptx, "kernel", grid=8, block=128, args=[x, emulator.Output(y), np.int32(n)])
"""

from flashactor.emulator.arguments import Output
from flashactor.emulator.launch import SCHEDULES, EmulationResult, MemoryLine, launch
from flashactor.emulator.machine.arena import Memory
from flashactor.emulator.tensormap import Swizzle, TensorMap, encode_tiled

__all__ = [
    "SCHEDULES",
    "EmulationResult",
    "Memory",
    "MemoryLine",
    "Output",
    "Swizzle",
    "TensorMap",
    "encode_tiled",
    "launch",
]
