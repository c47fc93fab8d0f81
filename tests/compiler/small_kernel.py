"""Small kernels in a folder of their own: the compiler needs no more of a specification than this."""

from dataclasses import dataclass

from flashactor.types import SmArch

KERNEL = """#include "common/twice.cuh"
extern "C" __global__ void small(float* x) {
  __shared__ float tile[32];
  tile[threadIdx.x] = twice(x[threadIdx.x]) * SCALE;
  __syncthreads();
  x[threadIdx.x] = tile[31 - threadIdx.x];
}
"""
TWICE = """#pragma once
__device__ inline float twice(float x) { return x + x; }
"""


@dataclass(frozen=True)
class SmallSpec:
    """Has the attributes that ``nvrtc.Compilable`` names."""

    arch: SmArch = SmArch.SM80
    source: str = "small/kernel.cu"
    defines: tuple[tuple[str, str], ...] = (("SCALE", "3.0f"),)
    entry: str = "small"
    label: str = "small kernel"


def write_sources(root, kernel=KERNEL):
    """The kernel and its header below ``root``, which is returned."""
    for name, text in {"small/kernel.cu": kernel, "common/twice.cuh": TWICE}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
