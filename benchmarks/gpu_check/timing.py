"""Times contenders on the device with CUDA events, in turn, with a cold L2 before each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.gpu_check.contenders import Ours, copy
from benchmarks.gpu_check.libraries import import_torch
from benchmarks.gpu_check.peers import Run, SetUp
from benchmarks.gpu_check.speed import OURS, Measurement, Problem
from flashactor.executors.base import KernelSource
from flashactor.executors.cuda_driver import CudaDriver

FLUSH_BYTES = 512 << 20
"""Memory overwritten before each run: several times the largest L2, and long enough to hide host latency."""

COPY_BYTES = 1 << 30
WARM_UPS = 5


@contextmanager
def our_side(driver: CudaDriver, kernels: KernelSource) -> Iterator[Ours]:
    """Our contenders, on a stream that is PyTorch's current one too. Needs PyTorch with CUDA."""
    torch = import_torch()
    driver.activate()
    stream = driver.create_stream()
    with torch.cuda.stream(torch.cuda.ExternalStream(int(stream.handle))):
        yield Ours(driver, stream, kernels)
        torch.cuda.synchronize()


def measure(
    problems: Sequence[Problem], contenders: Callable[[Problem], Mapping[str, SetUp]], repeats: int
) -> Iterator[Measurement[Problem]]:
    """Time each problem with every contender; one that cannot run is left out, with its reason."""
    for problem in problems:
        running, unavailable = set_up(contenders(problem))
        yield Measurement.of(problem, _time_in_turn(running, repeats), unavailable)


def copy_bandwidth(device: str, repeats: int) -> float:
    """GB/s of a copy on the device, bytes read and bytes written together."""
    running, _ = set_up(copy(device, COPY_BYTES))
    times = sorted(_time_in_turn(running, repeats)[OURS])
    return 2 * COPY_BYTES / times[len(times) // 2] / 1e6


def set_up(contenders: Mapping[str, SetUp]) -> tuple[dict[str, Run], dict[str, str]]:
    """(contenders that have run a few times, why the others did not)."""
    running, unavailable = {}, {}
    for name, make in contenders.items():
        try:
            run = make()
            for _ in range(WARM_UPS):
                run()
            running[name] = run
        except Exception as error:  # others have many words for what they do not take
            unavailable[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return running, unavailable


def _time_in_turn(contenders: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every repeat; in turn, so that the clock's drift reaches all contenders alike."""
    torch = import_torch()
    flush = torch.empty(FLUSH_BYTES, device="cuda", dtype=torch.int8)
    marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            begin.record()
            run()
            end.record()
            marks[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: [begin.elapsed_time(end) for begin, end in pairs] for name, pairs in marks.items()}
