"""What an attention computation needs besides its arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from flashactor.errors import OperandError, RequestError


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """The scalars and per-head vectors of one attention computation.

    With ``offset = seqlen_k - seqlen_q`` and ``d = i + offset - j`` for query i and key j (bottom-right
    alignment), a key is visible iff ``d <= window_left`` and ``-d <= window_right``; a negative window is
    unlimited, so ``window_right=0`` is causal.

    Attributes:
        softmax_scale: factor on q·k.
        window_left: largest visible d, negative for unlimited.
        window_right: largest visible -d, negative for unlimited, 0 for causal.
        sink_tokens: keys j < sink_tokens are visible whatever the windows say, but never against causality
            (StreamingLLM, arXiv:2309.17453).
        softcap: c > 0 replaces a score s by c·tanh(s / c); 0 leaves it.
        alibi_slopes: [heads_q] or [batch, heads_q]; after the softcap a score loses slope·|d|
            (ALiBi, arXiv:2108.12409).
        sink_logits: [heads_q]; a learned logit that joins the softmax's denominator and nothing else.
        dropout_p: probability with which a weight is dropped, in [0, 1).
        dropout_seed: 64-bit Philox key.
        dropout_offset: its low 32 bits are the last word of the Philox counter.

    Raises:
        RequestError: dropout_p, softcap or sink_tokens is out of range.
        OperandError: alibi_slopes or sink_logits has the wrong rank.
    """

    softmax_scale: float
    window_left: int = -1
    window_right: int = -1
    sink_tokens: int = 0
    softcap: float = 0.0
    alibi_slopes: NDArray[Any] | None = None
    sink_logits: NDArray[Any] | None = None
    dropout_p: float = 0.0
    dropout_seed: int = 0
    dropout_offset: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout_p < 1.0:
            raise RequestError(
                field="dropout_p",
                got=self.dropout_p,
                expected="a probability in [0, 1)",
                remedy="pass the probability with which a weight is dropped",
            )
        if not self.softcap >= 0.0:
            raise RequestError(
                field="softcap",
                got=self.softcap,
                expected="a number that is not negative",
                remedy="pass 0 to leave the scores uncapped",
            )
        if self.sink_tokens < 0:
            raise RequestError(
                field="sink_tokens",
                got=self.sink_tokens,
                expected="a number of keys, 0 or more",
                remedy="pass 0 for no sink tokens",
            )
        if self.alibi_slopes is not None and self.alibi_slopes.ndim not in (1, 2):
            raise OperandError(
                field="alibi_slopes",
                got=f"shape {self.alibi_slopes.shape}",
                expected="[heads_q] or [batch, heads_q]",
                remedy="pass one slope per query head",
            )
        if self.sink_logits is not None and self.sink_logits.ndim != 1:
            raise OperandError(
                field="sink_logits",
                got=f"shape {self.sink_logits.shape}",
                expected="[heads_q]",
                remedy="pass one logit per query head",
            )

    @property
    def is_causal(self) -> bool:
        """Whether no query sees a later key."""
        return self.window_right == 0

    def slopes_of(self, batch_index: int) -> NDArray[Any] | None:
        """ALiBi slopes [heads_q] of one sequence, or None without ALiBi."""
        if self.alibi_slopes is None or self.alibi_slopes.ndim == 1:
            return self.alibi_slopes
        row: NDArray[Any] = self.alibi_slopes[batch_index]
        return row
