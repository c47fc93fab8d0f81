"""A kernel of your own in the emulator, without a GPU: first right, then with a barrier missing.

Any PTX will do: of NVRTC as here, of `nvcc --ptx`, or of a compiler that writes PTX itself.
"""

from __future__ import annotations

import numpy as np
from cuda.bindings import nvrtc

from flashactor import emulator
from flashactor.errors import EmulationError

SOURCE = """
// Sums 256 numbers per block: each warp its own, then the first warp the eight partial sums.
extern "C" __global__ void block_sums(const float* x, float* sums, int n) {
  __shared__ float partial[8];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float value = i < n ? x[i] : 0.f;
  for (int step = 16; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0.f;
    for (int warp = 0; warp < 8; ++warp) total += partial[warp];
    sums[blockIdx.x] = total;
  }
}
"""


def to_ptx(source: str) -> str:
    """Compile CUDA C++ to PTX, with line information for the emulator's messages."""
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"block_sums.cu", 0, [], [])
    flags = [b"-arch=compute_80", b"--generate-line-info"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise SystemExit(f"NVRTC: {status}")
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = bytearray(size)
    nvrtc.nvrtcGetPTX(program, text)
    nvrtc.nvrtcDestroyProgram(program)
    return text.decode().rstrip("\0")


def run(ptx: str, x: np.ndarray) -> np.ndarray:
    """The sums of every 256 numbers, computed by the kernel under every schedule, with race checks."""
    blocks = -(-x.size // 256)
    sums = np.empty(blocks, np.float32)
    arguments = [x, emulator.Output(sums), np.int32(x.size)]
    result = emulator.launch(ptx, "block_sums", blocks, 256, arguments, schedule="all", races=True)
    print(f"ran under {', '.join(result.schedules)}: {result.warp_instructions} warp instructions")
    return sums


def main() -> None:
    """Run it right, then wrong."""
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    x.flags.writeable = False  # the kernel must not write its input either
    sums = run(to_ptx(SOURCE), x)
    padded = np.zeros(1024)
    padded[: x.size] = x
    print(f"largest error: {np.abs(sums - padded.reshape(4, 256).sum(1)).max():.1e}")

    try:
        run(to_ptx(SOURCE.replace("__syncthreads();", "")), x)
    except EmulationError as error:
        print(f"without the barrier: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
