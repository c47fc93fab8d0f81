"""Times kernels on the device with CUDA events, contenders in turn, with a cold L2 before each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu_check.libraries import import_torch
from benchmarks.gpu_check.speed import OURS, Measurement, Problem
from flashactor import Fa2FwdRequest, MaskKind
from flashactor.cache import CubinCache
from flashactor.executors.cuda import DEFAULT_SHARED_BYTES
from flashactor.executors.cuda_driver import CudaDriver
from flashactor.executors.operands import forward_outputs
from flashactor.kernels.launch import plan_forward
from flashactor.kernels.select import choose_kernel

Run = Callable[[], object]

FLUSH_BYTES = 512 << 20
"""Memory overwritten before each run: several times the largest L2, and long enough to hide host latency."""

BACKENDS = {"torch flash": "FLASH_ATTENTION", "torch cudnn": "CUDNN_ATTENTION"}
"""PyTorch's SDPA backends that ours is measured beside."""

WARM_UPS = 5


def measure(problems: list[Problem], cache: CubinCache, repeats: int) -> Iterator[Measurement]:
    """Time each problem with every contender; needs PyTorch with CUDA."""
    torch = import_torch()
    driver = CudaDriver(0)
    driver.activate()
    stream = driver.create_stream()
    with torch.cuda.stream(torch.cuda.ExternalStream(int(stream.handle))):
        for problem in problems:
            yield _measure(problem, driver, stream, cache, repeats)


def _measure(
    problem: Problem, driver: CudaDriver, stream: Any, cache: CubinCache, repeats: int
) -> Measurement:
    torch = import_torch()
    shape = (problem.batch, problem.seqlen, problem.heads, problem.head_dim)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    contenders: dict[str, Run] = {OURS: _ours(problem, driver, stream, cache, q, k, v)}
    contenders |= {name: _sdpa(backend, problem.causal, q, k, v) for name, backend in BACKENDS.items()}
    unavailable = {}
    for name, run in contenders.items():
        try:
            for _ in range(WARM_UPS):
                run()
        except RuntimeError as error:  # PyTorch's word for a backend that does not take the problem
            unavailable[name] = str(error).strip().splitlines()[0]
    running = {name: run for name, run in contenders.items() if name not in unavailable}
    return Measurement.of(problem, _time_in_turn(running, repeats), unavailable)


def _ours(
    problem: Problem, driver: CudaDriver, stream: Any, cache: CubinCache, q: Any, k: Any, v: Any
) -> Run:
    """Launches the very plan that the actor would."""
    mask = MaskKind.causal() if problem.causal else MaskKind.full()
    request = Fa2FwdRequest.from_arrays(q, k, v, mask=mask)
    operands = request.require_operands()
    spec = choose_kernel(request, driver.arch)
    out, lse = forward_outputs(operands)
    plan = plan_forward(spec, operands.q, operands.k, operands.v, out, lse, request.scale)
    kernel = driver.load(cache.get_or_compile(spec).cubin, spec.entry)
    if plan.shared_bytes > DEFAULT_SHARED_BYTES:
        driver.allow_shared_memory(kernel, plan.shared_bytes)

    def run() -> object:
        driver.launch(stream, kernel, plan)
        return operands, out, lse  # so that the closure keeps the arrays

    return run


def _sdpa(backend: str, causal: bool, q: Any, k: Any, v: Any) -> Run:
    """PyTorch's SDPA, on the same memory and one backend alone."""
    nn = import_torch().nn
    only = getattr(nn.attention.SDPBackend, backend)
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]

    def run() -> object:
        with nn.attention.sdpa_kernel(only):
            return nn.functional.scaled_dot_product_attention(*heads_first, is_causal=causal)

    return run


def _time_in_turn(contenders: dict[str, Run], repeats: int) -> dict[str, list[float]]:
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
