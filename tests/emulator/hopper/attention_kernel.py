"""The attention kernel of this folder: its PTX, also with a line replaced, and its launch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

from flashactor import emulator
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.types import SmArch

FOLDER = Path(__file__).parent
DIM = 64
SHARED = 6 * 8192 + 128


@dataclass(frozen=True)
class Source:
    """What the compiler asks for."""

    source: str = "attention.cu"
    entry: str = "attention"
    arch: SmArch = SmArch.SM90A
    defines: tuple[tuple[str, str], ...] = (("EMULATED", "1"),)
    label: str = "the emulator's attention kernel"


@cache
def sound_ptx():
    """The kernel as it is."""
    return compile_ptx(Source(), root=FOLDER)


def faulty_ptx(replacements, folder):
    """The kernel with texts replaced, each of which occurs exactly once in it."""
    text = (FOLDER / "attention.cu").read_text()
    for old, new in replacements:
        assert text.count(old) == 1, f"{text.count(old)} times: {old}"
        text = text.replace(old, new)
    (folder / "attention.cu").write_text(text)
    return compile_ptx(Source(), root=folder)


def tensors(batch, heads, heads_kv, length, seed=1):
    """q, k, v [batch, length, heads, DIM] in bfloat16."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, length, h, DIM)).astype(ml_dtypes.bfloat16)
        for h in (heads, heads_kv, heads_kv)
    ]


def attend(ptx, q, k, v, **options):
    """Launch it; the result and what the launch says."""
    batch, length, heads, _ = q.shape
    out = np.zeros_like(q)
    memory = emulator.Memory()
    maps = []
    for name, x in zip("qkvo", (q, k, v, out), strict=True):
        address = memory.add(x, name, written=name != "o", read_only=name != "o")
        strides = tuple(x.strides[axis] for axis in (2, 1, 0))
        dims = tuple(x.shape[axis] for axis in (3, 2, 1, 0))
        box = (64, 1, 64, 1)
        maps.append(
            emulator.encode_tiled("bfloat16", address, dims, strides, box, swizzle=emulator.Swizzle.B128)
        )
    scale = np.float32(np.log2(np.e) / np.sqrt(DIM))
    arguments = [*maps, np.int32(heads // k.shape[2]), scale]
    grid = (length // 128, heads, batch)
    result = emulator.launch(ptx, "attention", grid, 384, arguments, shared=SHARED, memory=memory, **options)
    memory.copy_back()
    return out, result
