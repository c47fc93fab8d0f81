"""Real lengths, where NumPy is too slow for a reference: PyTorch's SDPA in float64 is the exact result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.gpu_check.cases import QUICK_HEAD_DIMS
from benchmarks.gpu_check.correctness import TIMEOUT, Checked
from benchmarks.gpu_check.libraries import import_torch
from flashactor import Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind
from flashactor.check.cases import Case, Shape
from flashactor.errors import FlashAttnError
from flashactor.kernels.spec import KernelSpec


def sdpa_cases(specs: Iterable[KernelSpec], *, seqlen: int = 2048) -> list[Case]:
    """One long case for each kernel of the commonest head dims: grouped heads, no whole number of tiles.

    As many keys as queries, because SDPA aligns its causal mask at the top left.
    """
    shape = Shape("SDPA", 2, seqlen + 9, seqlen + 9, 8, 2)
    return [Case(spec, shape) for spec in specs if spec.head_dim in QUICK_HEAD_DIMS]


def check_against_sdpa(actor: FlashAttnActor, cases: list[Case], device: str) -> Iterator[Checked]:
    """Compare with SDPA in float64: an error of at most twice that of SDPA in the kernel's own type."""
    for case in cases:
        yield _check(actor, case, device)


def _check(actor: FlashAttnActor, case: Case, device: str) -> Checked:
    torch = import_torch()
    s, d, causal = case.shape, case.head_dim, case.spec.causal
    dtype = getattr(torch, case.spec.dtype.numpy_name)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(s.batch, seqlen, heads, d, device=device, dtype=dtype)
        for seqlen, heads in ((s.seqlen_q, s.heads_q), (s.seqlen_k, s.heads_kv), (s.seqlen_k, s.heads_kv))
    )
    mask = MaskKind.causal() if causal else MaskKind.full()
    try:
        request = Fa2FwdRequest.from_arrays(q, k, v, mask=mask)
        out: Any = actor.ask(FlashAttnMsg.forward(request)).result(TIMEOUT).out
    except FlashAttnError as failure:
        return Checked(str(case), float("inf"), 0.0, f"{type(failure).__name__}: {failure}")
    exact = _sdpa(q.double(), k.double(), v.double(), causal)
    own = (_sdpa(q, k, v, causal).double() - exact).abs().max().item()
    error = (out.double() - exact).abs().nan_to_num(float("inf")).max().item()
    allowed = max(2.0 * own, torch.finfo(dtype).eps / 2.0 * exact.abs().max().item())
    problem = None
    if error > allowed:
        problem = f"out is off by {error:.3g}; {allowed:.3g} allowed, by SDPA's own error"
    return Checked(str(case), error / allowed, 0.0, problem)


def _sdpa(q: Any, k: Any, v: Any, causal: bool) -> Any:
    attention = import_torch().nn.functional.scaled_dot_product_attention
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return attention(*heads_first, is_causal=causal, enable_gqa=True).transpose(1, 2)
