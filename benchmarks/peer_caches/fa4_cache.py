"""How long FlashAttention-4 takes to fill its kernel cache with forward kernels, and to use it again.

    pip install --pre flash-attn-4 torch triton numpy       # in an environment of its own; needs no GPU
    python fa4_cache.py --kernels 32 --jobs 2 --cache DIR   # an empty DIR: cold; the same once more: warm

A torch for processors does; one for GPUs brings triton itself, and takes longer to import. The cache is the
package's own, which it keeps on the disk only when asked to. The kernels are compiled in the way that the
package documents for machines without a GPU: from torch's fake tensors.

Prints one JSON document. Every figure starts where the process starts, so the imports are in it, and those of
every worker with --jobs. For one job, (wall_seconds - first_kernel_seconds) / (kernels - 1) is a kernel by
itself. CPU seconds are user and system time, of the workers too. A kernel is there when the package holds its
function; the cubin in it goes to a GPU with the first call, which is not measured.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

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
    """Every specialisation; the first is flashactor's first: causal, bf16, head_dim 128, sm_80."""
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
    return _now()


def kernel_files(cache: Path) -> dict[Path, int]:
    """The compiled kernels of a cache, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.o")}


def measure(kernels: list[Kernel], jobs: int, cache: Path) -> dict[str, Any]:
    """Get all kernels, each from the next process that is free, and take the figures."""
    started = _process_start()
    os.environ.update(SETTINGS, FLASH_ATTENTION_CUTE_DSL_CACHE_DIR=str(cache))
    before = kernel_files(cache)
    if jobs == 1:
        there = [get(kernel) for kernel in kernels]
    else:
        pool = multiprocessing.get_context("spawn").Pool(jobs)
        there = list(pool.imap_unordered(get, kernels))
        pool.close()
        pool.join()
    wall = _now() - started
    after = kernel_files(cache)
    # A kernel that the cache cannot give or take is compiled without a word.
    if (before and after != before) or len(after) < len(kernels):
        raise SystemExit(f"{len(before)} kernels in {cache} became {len(after)}: give an empty folder")
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "peer": "flash-attn-4",
        "version": version("flash-attn-4"),
        "kernels": len(kernels),
        "jobs": jobs,
        "state": "warm" if before else "cold",
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(sum(used.ru_utime + used.ru_stime for used in usage), 3),
        "first_kernel_seconds": round(min(there) - started, 3),
        "bytes": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()),
    }


def _now() -> float:
    """Seconds since the system started: a clock that every process shares."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _process_start() -> float:
    """When this process started, on the clock of ``_now``; to a hundredth of a second."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=int, default=32, metavar="N", help="how many kernels to get")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes side by side")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="the cache's folder")
    options = parser.parse_args()
    kernels = list(islice(all_kernels(), max(0, options.kernels)))
    if not 1 <= options.kernels <= len(kernels) or options.jobs < 1:
        parser.error(f"there are {len(list(all_kernels()))} kernels, and it takes one job or more")
    print(json.dumps(measure(kernels, options.jobs, options.cache.resolve()), indent=2))


if __name__ == "__main__":
    main()
