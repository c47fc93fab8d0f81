"""What the scripts of peers share: their options, their processes and their clock. It needs no package."""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

Kernel = TypeVar("Kernel")
Answer = TypeVar("Answer")


def now() -> float:
    """Seconds since the system started: a clock that every process shares."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def get_all(get: Callable[[Kernel], Answer], kernels: list[Kernel], jobs: int) -> list[Answer]:
    """What ``get`` gives for each kernel, each from the next process that is free."""
    if jobs == 1:
        return [get(kernel) for kernel in kernels]
    pool = multiprocessing.get_context("spawn").Pool(jobs)
    answers = list(pool.imap_unordered(get, kernels))
    pool.close()
    pool.join()
    return answers


def run_peer(
    peer: str,
    description: str | None,
    all_kernels: Callable[[], Iterator[Kernel]],
    fill: Callable[[list[Kernel], int, Path], tuple[bool, float]],
) -> None:
    """Read the options, get the kernels and print the figures.

    Args:
        peer: the package's name.
        description: of the script.
        all_kernels: every kernel that can be asked for.
        fill: gets kernels with so many jobs and a cache folder: whether they were there before, and the time
            at which the first one was got.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=int, default=32, metavar="N", help="how many kernels to get")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes side by side")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="the cache's folder")
    options = parser.parse_args()
    kernels = list(islice(all_kernels(), max(0, options.kernels)))
    if not 1 <= options.kernels <= len(kernels) or options.jobs < 1:
        parser.error(f"there are {len(list(all_kernels()))} kernels, and it takes one job or more")
    cache = options.cache.resolve()
    warm, first = fill(kernels, options.jobs, cache)
    figures: dict[str, Any] = {
        "peer": peer,
        "version": version(peer),
        "kernels": len(kernels),
        "jobs": options.jobs,
        "state": "warm" if warm else "cold",
        "first_kernel_seconds": round(first - _process_start(), 3),
        "bytes": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()),
    }
    print(json.dumps(figures, indent=2))


def _process_start() -> float:
    """When this process started, on the clock of ``now``; to a hundredth of a second."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")
