"""A process that starts workers which want kernels of one folder for ever, and are killed at any moment.

It has one thread and has imported everything, so a worker is a fork of it and begins within milliseconds.
Arguments: the test's folder, the number of kernels, the most bytes (0: unlimited). It starts one worker for
each line that it reads, and writes the worker's process id.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from cache_tools import fake_compile, fake_cubin, small_spec, use_fake_compiler

from flashactor.cache import CubinCache


def report(path, line):
    """Add a line to a file that many processes write: one write, so that it stays whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def work(folder, count, max_bytes):
    """Ask for kernels in another order each time, and check every byte."""
    chance = random.Random(os.getpid())

    def compile_(spec, *, root=None):
        report(folder / "log", f"begin {spec.label} {os.getpid()}")
        time.sleep(chance.uniform(0.001, 0.008))
        kernel = fake_compile(spec)
        report(folder / "log", f"end {spec.label} {os.getpid()}")
        return kernel

    use_fake_compiler(compile_)
    while True:
        cache = CubinCache(folder / "cache", root=folder / "sources", max_bytes=max_bytes or None)
        for number in chance.sample(range(count), min(count, 20)):
            spec = small_spec(number)
            kernel = cache.get_or_compile(spec)
            if kernel.cubin != fake_cubin(spec):
                report(folder / "faults", f"{spec.label}: other bytes, from {kernel.source}")
        counts = cache.counts()
        report(folder / "done", f"{os.getpid()} {counts.damaged} {counts.disk_hits} {counts.not_stored}")


def serve(folder, count, max_bytes):
    """Start a worker for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead leave at once
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                work(folder, count, max_bytes)
            except BaseException:
                report(folder / "faults", traceback.format_exc())
            os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    warm = Path(sys.argv[1]) / "imports"
    use_fake_compiler()
    for _ in range(2):
        CubinCache(warm, root=Path(sys.argv[1]) / "sources").get_or_compile(small_spec(0))
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
