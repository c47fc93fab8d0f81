"""How long FlashAttention-4 takes to fill its kernel cache with forward kernels, and to use it again.

    pip install --pre flash-attn-4 torch triton numpy  # in an environment of its own; needs no GPU
    python -m benchmarks.peer_caches.fa4_cache --kernels 32 --jobs 2 --cache DIR  # cold; again: warm

A torch for processors does; one for GPUs brings triton itself, and takes longer to import. The cache is the
package's own, which it keeps on the disk only when asked to. The kernels are compiled in the way that the
package documents for machines without a GPU: from torch's fake tensors.

Prints one JSON document. first_kernel_seconds start where the process starts, so the imports are in them. A
kernel is there when the package holds its function; the cubin in it goes to a GPU with the first call, which
is not measured. What all of it takes is for the caller to measure: benchmarks.cubin_cache does.
"""

import importlib
import os
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peer_caches.measuring import get_all, now, run_peer

HEAD_DIMS = (128, 64, 32, 16, 256, 96, 192, 48, 80)
DTYPES = ("bfloat16", "float16")
# What the CuTe compiler and the package's choice of a kernel call an architecture.
ARCHITECTURES = (("sm_80", 80), ("sm_90a", 90))
BATCH, ROWS, HEADS = 2, 1024, 8  # of the fake tensors; no kernel depends on these
SETTINGS = {
    "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
    "FLASH_ATTENTION_NUM_SMS": "132",  # which it would ask a GPU for
    "CUTE_DSL_ARCH": ARCHITECTURES[0][0],  # likewise, until the first kernel says its own
    "CUTE_DSL_DISABLE_FILE_CACHING": "1",  # a second cache, outside the folder
}


class Kernel(NamedTuple):
    """One specialisation of the forward kernel.

    Attributes:
        target: the compiler's name of the architecture.
        capability: its compute capability, by which the package chooses the kernel.
        dtype: torch's name of the element type of Q, K, V and O.
        head_dim: elements of a head.
        causal: whether a query sees only the keys up to its own place.
    """

    target: str
    capability: int
    dtype: str
    head_dim: int
    causal: bool


def all_kernels() -> Iterator[Kernel]:
    """Every specialisation; the first serves what ours does: causal, bf16, head_dim 128, sm_80."""
    for head_dim, dtype, causal, (target, capability) in product(
        HEAD_DIMS, DTYPES, (True, False), ARCHITECTURES
    ):
        yield Kernel(target, capability, dtype, head_dim, causal)


def get(kernel: Kernel) -> float:
    """Have the package make the kernel or load it from its cache; when it was there."""
    warnings.filterwarnings("ignore", module="cutlass|torch")
    torch: Any = importlib.import_module("torch")
    fake: Any = importlib.import_module("torch._subclasses.fake_tensor")
    attention: Any = importlib.import_module("flash_attn.cute.interface")
    compiler: Any = importlib.import_module("cutlass.cutlass_dsl").CuTeDSL
    # The compiler reads its environment once, so kernels for two architectures need this.
    compiler._get_dsl().envar.arch = kernel.target
    with fake.FakeTensorMode():
        shape = (BATCH, ROWS, HEADS, kernel.head_dim)
        q, k, v = (torch.empty(shape, dtype=getattr(torch, kernel.dtype), device="cuda") for _ in range(3))
        attention._flash_attn_fwd(q, k, v, causal=kernel.causal, return_lse=True, _arch=kernel.capability)
    return now()


def kernel_files(cache: Path) -> dict[Path, int]:
    """The compiled kernels of a cache, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.o")}


def fill(kernels: list[Kernel], jobs: int, cache: Path) -> tuple[bool, float]:
    """Get all kernels: whether the cache had them, and when the first was there."""
    os.environ.update(SETTINGS, FLASH_ATTENTION_CUTE_DSL_CACHE_DIR=str(cache))
    before = kernel_files(cache)
    there = get_all(get, kernels, jobs)
    after = kernel_files(cache)
    # A kernel that the cache cannot give or take is compiled without a word.
    if (before and after != before) or len(after) < len(kernels):
        raise SystemExit(f"{len(before)} kernels in {cache} became {len(after)}: give an empty folder")
    return bool(before), min(there)


if __name__ == "__main__":
    run_peer("flash-attn-4", __doc__, all_kernels, fill)
