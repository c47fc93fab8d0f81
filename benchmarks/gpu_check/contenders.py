"""Who takes part in a measurement: our launches, PyTorch's SDPA backends, FlashAttention's packages."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_check import peers
from benchmarks.gpu_check.launches import prepare
from benchmarks.gpu_check.libraries import import_torch
from benchmarks.gpu_check.peers import Run, SetUp
from benchmarks.gpu_check.speed import OURS, Attention, Decode, Pass
from flashactor import (
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    Fa3FwdRequest,
    MaskKind,
    PagedAttentionRequest,
    PersistentMode,
    SmArch,
)
from flashactor.executors.base import KernelSource
from flashactor.executors.cuda_driver import CudaDriver
from flashactor.kernels.sm80 import FAMILY
from flashactor.kernels.splits import MULTIPROCESSORS
from flashactor.requests import AttentionRequest

FAST = "flashactor, not deterministic"
BF16 = "flashactor bf16"
PERSISTENT = "flashactor, persistent"
MMA = f"flashactor {FAMILY}"
"""The family that every architecture runs, where another one comes first."""

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
            eight_bit = tuple(x.to(torch.float8_e4m3fn) for x in (q, k, v))
            ours = self._forward(Fa2FwdFp8Request, Fa3FwdFp8Request, eight_bit, mask)
            return ours | {BF16: self._ready(forward)} | peers.attention(problem.causal, eight_bit)
        if problem.direction is Pass.BACKWARD:
            ours = {OURS: self._backward(forward, dout, True), FAST: self._backward(forward, dout, False)}
            return ours | _backends(problem.causal, (q, k, v), dout)
        ours = self._forward(Fa2FwdRequest, Fa3FwdRequest, (q, k, v), mask)
        theirs = _backends(problem.causal, (q, k, v), None)
        return ours | theirs | peers.attention(problem.causal, (q, k, v))

    def decode(self, problem: Decode) -> dict[str, SetUp]:
        """A decode step, over pages in random order or over rows that follow each other."""
        torch = import_torch()
        rows = (problem.batch, problem.context)
        if problem.page:
            rows = (problem.batch * problem.context // problem.page, problem.page)
        pool = (*rows, problem.heads_kv, problem.head_dim)
        k, v = (torch.randn(pool, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        query = (problem.batch, 1, problem.heads_q, problem.head_dim)
        q = torch.randn(query, device=self.device, dtype=torch.bfloat16)
        lengths = torch.full((problem.batch,), problem.context, device=self.device, dtype=torch.int32)
        if not problem.page:
            ours = self._ready(Fa2FwdRequest.from_arrays(q, k, v))
            return {OURS: ours} | peers.decode(q, k, v, lengths, None)
        table = torch.randperm(rows[0], device=self.device).to(torch.int32).view(problem.batch, -1)
        ours = self._ready(PagedAttentionRequest.from_arrays(q, k, v, table, lengths))
        return {OURS: ours} | peers.decode(q, k, v, lengths, table)

    def _forward(
        self,
        fa2: type[Fa2FwdRequest | Fa2FwdFp8Request],
        fa3: type[Fa3FwdRequest | Fa3FwdFp8Request],
        operands: tuple[Any, ...],
        mask: MaskKind,
    ) -> dict[str, SetUp]:
        """The first family that takes it; on Hopper with persistent blocks, too, and the other family's."""
        arch = self._driver.arch
        if arch is not SmArch.SM90A:
            return {OURS: self._ready(fa2.from_arrays(*operands, mask=mask))}
        resident = PersistentMode.persistent(MULTIPROCESSORS[arch])
        return {
            OURS: self._ready(fa3.from_arrays(*operands, mask=mask)),
            PERSISTENT: self._ready(fa3.from_arrays(*operands, mask=mask, persistent=resident)),
            MMA: self._ready(fa2.from_arrays(*operands, mask=mask, implementation=FAMILY)),
        }

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


def _backends(causal: bool, operands: tuple[Any, Any, Any], dout: Any | None) -> dict[str, SetUp]:
    """PyTorch's SDPA, a contender for each backend."""
    return {name: _sdpa(backend, causal, operands, dout) for name, backend in BACKENDS.items()}


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
