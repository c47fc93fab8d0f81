"""Real lengths, where NumPy is too slow for a reference: PyTorch's SDPA in float64 is the exact result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_check.correctness import TIMEOUT, Checked, insisting
from benchmarks.gpu_check.libraries import import_torch
from flashactor import Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind
from flashactor.errors import FlashAttnError
from flashactor.kernels.select import family_of
from flashactor.kernels.spec import DTYPES, KernelSpec, TiledSpec

HEAD_DIMS = (64, 128, 256)
"""The commonest."""


@dataclass(frozen=True, slots=True)
class LongCase:
    """Attention of grouped heads, over no whole number of tiles.

    As many keys as queries, because SDPA aligns its causal mask at the top left.
    """

    spec: TiledSpec
    causal: bool
    seqlen: int
    batch: int = 2
    heads_q: int = 8
    heads_kv: int = 2

    def __str__(self) -> str:
        return f"{self.spec.label}: {'causal' if self.causal else 'full'}, {self.seqlen} keys, beside SDPA"


def sdpa_cases(specs: Iterable[KernelSpec], *, seqlen: int = 2048) -> list[LongCase]:
    """Full and causal attention, for each kernel that its family takes for it and nothing else."""
    return [
        LongCase(spec, causal, seqlen + 9)
        for spec in specs
        if isinstance(spec, TiledSpec) and spec.dtype in DTYPES and spec.head_dim in HEAD_DIMS
        for causal in (False, True)
        if _takes(spec, causal)
    ]


def check_against_sdpa(actor: FlashAttnActor, cases: list[LongCase], device: str) -> Iterator[Checked]:
    """Compare with SDPA in float64: an error of at most twice that of SDPA in the kernel's own type."""
    for case in cases:
        yield _check(actor, case, device)


def _takes(spec: TiledSpec, causal: bool) -> bool:
    cell = Fa2FwdRequest(spec.arch, spec.dtype, spec.head_dim, mask=_mask(causal))
    return family_of(spec).kernel(cell, spec.arch) == spec


def _mask(causal: bool) -> MaskKind:
    return MaskKind.causal() if causal else MaskKind.full()


def _check(actor: FlashAttnActor, case: LongCase, device: str) -> Checked:
    torch = import_torch()
    dtype = getattr(torch, case.spec.dtype.numpy_name)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(case.batch, case.seqlen, heads, case.spec.head_dim, device=device, dtype=dtype)
        for heads in (case.heads_q, case.heads_kv, case.heads_kv)
    )
    try:
        request = insisting(case.spec, Fa2FwdRequest.from_arrays(q, k, v, mask=_mask(case.causal)))
        out: Any = actor.ask(FlashAttnMsg.forward(request)).result(TIMEOUT).out
    except FlashAttnError as failure:
        return Checked.failed(str(case), failure)
    exact = _sdpa(q.double(), k.double(), v.double(), case.causal)
    own = (_sdpa(q, k, v, case.causal).double() - exact).abs().max().item()
    error = (out.double() - exact).abs().nan_to_num(float("inf")).max().item()
    allowed = max(2.0 * own, torch.finfo(dtype).eps / 2.0 * exact.abs().max().item())
    problem = None
    if error > allowed:
        problem = f"out is off by {error:.3g}; {allowed:.3g} allowed, by SDPA's own error"
    return Checked(str(case), error / own if own else None, None, problem)


def _sdpa(q: Any, k: Any, v: Any, causal: bool) -> Any:
    attention = import_torch().nn.functional.scaled_dot_product_attention
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return attention(*heads_first, is_causal=causal, enable_gqa=True).transpose(1, 2)
