"""Attention written a second time, in PyTorch float64 and from the contract alone, with autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from flashactor.reference import AttentionParams, keep_mask

# Whether a key j at distance d = i + offset - j is visible, as the contract says it.
Sees = Callable[[int, int], bool]


@dataclass(frozen=True)
class Case:
    """A named problem: shapes, the parameters under test, and independently of them what a query sees."""

    name: str
    sees: Sees = lambda d, j: True
    batch: int = 2
    seqlen_q: int = 37
    seqlen_k: int = 53
    heads_q: int = 2
    heads_kv: int = 2
    head_dim: int = 16
    head_dim_v: int = 16
    slopes: str = ""
    sink_logits: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(7)
        q = rng.standard_normal((self.batch, self.seqlen_q, self.heads_q, self.head_dim))
        k = rng.standard_normal((self.batch, self.seqlen_k, self.heads_kv, self.head_dim))
        v = rng.standard_normal((self.batch, self.seqlen_k, self.heads_kv, self.head_dim_v))
        return q, k, v

    def params(self) -> AttentionParams:
        rng = np.random.default_rng(8)
        slopes = {
            "": None,
            "1d": rng.uniform(0.05, 0.6, self.heads_q).astype(np.float32),
            "2d": rng.uniform(0.05, 0.6, (self.batch, self.heads_q)).astype(np.float32),
        }
        return AttentionParams(
            softmax_scale=0.3,
            alibi_slopes=slopes[self.slopes],
            sink_logits=rng.standard_normal(self.heads_q) if self.sink_logits else None,
            **self.extra,
        )

    def mask(self) -> torch.Tensor:
        return mask(self.sees, self.seqlen_q, self.seqlen_k)


def mask(sees: Sees, seqlen_q: int, seqlen_k: int) -> torch.Tensor:
    """bool [seqlen_q, seqlen_k], one key at a time."""
    offset = seqlen_k - seqlen_q
    rows = [[sees(i + offset - j, j) for j in range(seqlen_k)] for i in range(seqlen_q)]
    return torch.tensor(rows, dtype=torch.bool).reshape(seqlen_q, seqlen_k)


def alibi_bias(slopes: torch.Tensor, seqlen_q: int, seqlen_k: int) -> torch.Tensor:
    """[batch or 1, heads, seqlen_q, seqlen_k] of -slope * |i + offset - j|."""
    i, j = torch.arange(seqlen_q)[:, None], torch.arange(seqlen_k)[None, :]
    distance = (i + (seqlen_k - seqlen_q) - j).abs().double()
    return -slopes.reshape(-1, slopes.shape[-1], 1, 1) * distance


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    *,
    softcap: float = 0.0,
    slopes: torch.Tensor | None = None,
    sink_logits: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [batch, seqlen_q, heads, head_dim_v] and lse [batch, heads, seqlen_q], everything materialised."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = scale * q @ k.transpose(2, 3)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        scores = scores + alibi_bias(slopes, q.shape[2], k.shape[2])
    # Empty rows see everything here and are cut off at the end, since softmax's gradient there is NaN.
    empty = ~mask.any(dim=1)
    scores = scores.masked_fill(~(mask | empty[:, None]), -torch.inf)
    lse = torch.logsumexp(scores, dim=-1).masked_fill(empty, -torch.inf)
    if sink_logits is not None:
        column = sink_logits.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    if keep is not None:
        weights = weights * keep / (1 - dropout_p)
    out = (weights @ v).masked_fill(empty[:, None], 0.0)
    return out.transpose(1, 2), lse


def attention_of(
    params: AttentionParams,
    mask: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slopes: torch.Tensor | None = None,
    sink_logits: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attention` with the scalars of ``params``; the mask and every tensor are given."""
    return attention(
        q,
        k,
        v,
        mask,
        params.softmax_scale,
        softcap=params.softcap,
        slopes=slopes,
        sink_logits=sink_logits,
        keep=keep,
        dropout_p=params.dropout_p,
    )


def kept(case: Case, seed: int, offset: int, p: float) -> torch.Tensor:
    """The library's own dropout mask, bool [batch, heads, seqlen_q, seqlen_k]."""
    rows, cols = np.arange(case.seqlen_q), np.arange(case.seqlen_k)
    masks = [
        [keep_mask(seed, offset, b, h, case.heads_q, rows, cols, p) for h in range(case.heads_q)]
        for b in range(case.batch)
    ]
    return torch.from_numpy(np.array(masks))


def leaf(x: np.ndarray | None) -> torch.Tensor | None:
    """A float64 tensor that collects a gradient, or None for None."""
    return None if x is None else torch.from_numpy(x.astype(np.float64)).requires_grad_()


CASES = [
    Case("full"),
    Case("full-square", seqlen_q=48, seqlen_k=48),
    Case("causal-square", lambda d, j: d >= 0, seqlen_k=37, extra={"window_right": 0}),
    Case("causal-fewer-queries", lambda d, j: d >= 0, extra={"window_right": 0}),
    Case("causal-more-queries-has-empty-rows", lambda d, j: d >= 0, seqlen_k=21, extra={"window_right": 0}),
    Case("one-query", lambda d, j: d >= 0, seqlen_q=1, extra={"window_right": 0}),
    Case("one-key", lambda d, j: d >= 0, seqlen_q=9, seqlen_k=1, extra={"window_right": 0}),
    Case(
        "sliding-causal-5",
        lambda d, j: 0 <= d < 5,
        extra={"window_left": 4, "window_right": 0},
    ),
    Case(
        "sliding-causal-1-sees-itself",
        lambda d, j: d == 0,
        seqlen_k=37,
        extra={"window_left": 0, "window_right": 0},
    ),
    Case("sliding-full-7", lambda d, j: abs(d) < 7, extra={"window_left": 6, "window_right": 6}),
    Case("window-left-3-right-9", lambda d, j: -9 <= d <= 3, extra={"window_left": 3, "window_right": 9}),
    Case("window-left-only", lambda d, j: d <= 4, extra={"window_left": 4}),
    Case("window-right-only", lambda d, j: -d <= 6, extra={"window_right": 6}),
    Case(
        "window-has-empty-rows",
        lambda d, j: abs(d) < 4,
        seqlen_k=11,
        extra={"window_left": 3, "window_right": 3},
    ),
    Case(
        "sinks-under-sliding-causal",
        lambda d, j: d >= 0 and (d < 5 or j < 4),
        seqlen_k=37,
        extra={"window_left": 4, "window_right": 0, "sink_tokens": 4},
    ),
    Case(
        "sinks-under-sliding-causal-more-queries",
        lambda d, j: d >= 0 and (d < 5 or j < 4),
        seqlen_k=20,
        extra={"window_left": 4, "window_right": 0, "sink_tokens": 4},
    ),
    Case(
        "sinks-under-sliding-full",
        lambda d, j: abs(d) < 3 or j < 19,
        seqlen_k=41,
        extra={"window_left": 2, "window_right": 2, "sink_tokens": 19},
    ),
    Case(
        "sinks-beyond-the-keys",
        lambda d, j: True,
        seqlen_k=9,
        extra={"window_left": 2, "window_right": 2, "sink_tokens": 100},
    ),
    Case("softcap", extra={"softcap": 0.8}),
    Case("softcap-causal", lambda d, j: d >= 0, extra={"softcap": 2.0, "window_right": 0}),
    Case("alibi-1d", slopes="1d"),
    Case("alibi-1d-causal", lambda d, j: d >= 0, slopes="1d", extra={"window_right": 0}),
    Case("alibi-2d", slopes="2d", heads_q=4),
    Case("alibi-after-softcap", slopes="2d", extra={"softcap": 0.7}),
    Case("sink-logits", sink_logits=True),
    Case(
        "sink-logits-with-empty-rows",
        lambda d, j: d >= 0,
        seqlen_k=21,
        sink_logits=True,
        extra={"window_right": 0},
    ),
    Case("gqa-4", heads_q=8, heads_kv=2),
    Case("mqa-causal", lambda d, j: d >= 0, heads_q=6, heads_kv=1, extra={"window_right": 0}),
    Case("head-dim-v-smaller", head_dim_v=8),
    Case("head-dim-v-larger", head_dim_v=40, head_dim=24),
    Case(
        "everything",
        lambda d, j: d >= 0 and (d < 9 or j < 3),
        heads_q=6,
        heads_kv=2,
        head_dim_v=24,
        slopes="2d",
        sink_logits=True,
        extra={"softcap": 1.5, "window_left": 8, "window_right": 0, "sink_tokens": 3},
    ),
]
