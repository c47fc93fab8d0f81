"""Who takes part in a measurement: our launches, and PyTorch's SDPA backends on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu_check.launches import prepare
from benchmarks.gpu_check.libraries import import_torch
from benchmarks.gpu_check.speed import OURS, Attention, Decode, Pass
from flashactor import Fa2BwdRequest, Fa2FwdFp8Request, Fa2FwdRequest, MaskKind, PagedAttentionRequest
from flashactor.executors.base import KernelSource
from flashactor.executors.cuda_driver import CudaDriver
from flashactor.requests import AttentionRequest

Run = Callable[[], object]
SetUp = Callable[[], Run]
"""Makes what is run again and again, outside of the measured time."""

FAST = "flashactor, not deterministic"
BF16 = "flashactor bf16"

BACKENDS = {"torch flash": "FLASH_ATTENTION", "torch cudnn": "CUDNN_ATTENTION"}
"""PyTorch's SDPA backends that ours is measured beside."""


class Ours:
    """Our contenders of one device.

    Attributes:
        device: PyTorch's name of it.
    """

    def __init__(self, driver: CudaDriver, stream: Any, kernels: KernelSource, device: str = "cuda") -> None:
        self._driver, self._stream, self._kernels = driver, stream, kernels
        self.device = device

    def attention(self, problem: Attention) -> dict[str, SetUp]:
        """Every contender of a problem, ours first."""
        torch = import_torch()
        shape = (problem.batch, problem.seqlen, problem.heads, problem.head_dim)
        q, k, v, dout = (torch.randn(shape, device=self.device, dtype=torch.bfloat16) for _ in range(4))
        mask = MaskKind.causal() if problem.causal else MaskKind.full()
        forward = Fa2FwdRequest.from_arrays(q, k, v, mask=mask)
        if problem.direction is Pass.FP8_FORWARD:
            eight_bit = (x.to(torch.float8_e4m3fn) for x in (q, k, v))
            fp8 = Fa2FwdFp8Request.from_arrays(*eight_bit, mask=mask)
            return {OURS: self._ready(fp8), BF16: self._ready(forward)}
        ours = {OURS: self._ready(forward)}
        if problem.direction is Pass.BACKWARD:
            ours = {OURS: self._backward(forward, dout, True), FAST: self._backward(forward, dout, False)}
        gradient = dout if problem.direction is Pass.BACKWARD else None
        theirs = {
            name: _sdpa(backend, problem.causal, (q, k, v), gradient) for name, backend in BACKENDS.items()
        }
        return ours | theirs

    def decode(self, problem: Decode) -> dict[str, SetUp]:
        """Our decode step, over pages in random order."""
        torch = import_torch()
        pages = problem.batch * problem.context // problem.page
        pool = (pages, problem.page, problem.heads_kv, problem.head_dim)
        k, v = (torch.randn(pool, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        query = (problem.batch, 1, problem.heads_q, problem.head_dim)
        table = torch.randperm(pages, device=self.device).to(torch.int32).view(problem.batch, -1)
        lengths = torch.full((problem.batch,), problem.context, device=self.device, dtype=torch.int32)
        q = torch.randn(query, device=self.device, dtype=torch.bfloat16)
        return {OURS: self._ready(PagedAttentionRequest.from_arrays(q, k, v, table, lengths))}

    def _backward(self, forward: Fa2FwdRequest, dout: Any, deterministic: bool) -> SetUp:
        """The gradients of a forward pass, which runs before."""

        def set_up() -> Run:
            done = prepare(forward, self._driver, self._kernels)
            done.run(self._driver, self._stream)
            operands = [done.arrays[name].array for name in ("q", "k", "v", "out", "lse")]
            request = Fa2BwdRequest.from_arrays(
                dout, *operands, mask=forward.mask, deterministic=deterministic
            )
            return self._ready(request)()

        return set_up

    def _ready(self, request: AttentionRequest) -> SetUp:
        """Launches the very plan that the actor would."""

        def set_up() -> Run:
            launches = prepare(request, self._driver, self._kernels)
            return lambda: launches.run(self._driver, self._stream)

        return set_up


def copy(device: str, size: int) -> dict[str, SetUp]:
    """A copy of some bytes on the device: the measure of what its memory gives."""
    torch = import_torch()
    source, target = (torch.empty(size, device=device, dtype=torch.int8) for _ in range(2))
    return {OURS: lambda: lambda: target.copy_(source)}


def _sdpa(backend: str, causal: bool, operands: tuple[Any, Any, Any], dout: Any | None) -> SetUp:
    """PyTorch's SDPA, on the same memory and one backend alone; with ``dout`` its backward pass."""

    def set_up() -> Run:
        torch = import_torch()
        attention = torch.nn.attention
        only = getattr(attention.SDPBackend, backend)
        heads_first = [x.transpose(1, 2).detach().requires_grad_(dout is not None) for x in operands]

        def forward() -> Any:
            with attention.sdpa_kernel(only):
                return torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=causal)

        if dout is None:
            return forward
        out, gradient = forward(), dout.transpose(1, 2)
        return lambda: torch.autograd.grad(out, heads_first, gradient, retain_graph=True)

    return set_up
