"""Visibility against the contract's wording, one key at a time."""

import numpy as np
import pytest
from torch_attention import CASES, Case, mask

from flashactor.reference import AttentionParams, visible
from flashactor.reference.masks import visible_span
from flashactor.types import MaskKind


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(7, 7), (5, 12), (12, 5), (1, 9), (9, 1), (0, 4), (4, 0)])
def test_visible(case: Case, seqlen_q: int, seqlen_k: int) -> None:
    seen = visible(seqlen_q, seqlen_k, case.params())
    assert seen.dtype == np.bool_
    np.testing.assert_array_equal(seen, mask(case.sees, seqlen_q, seqlen_k).numpy())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(40, 40), (25, 60), (60, 25)])
def test_the_span_of_some_rows_holds_every_key_they_see(case: Case, seqlen_q: int, seqlen_k: int) -> None:
    params = case.params()
    seen = visible(seqlen_q, seqlen_k, params)
    for start in range(0, seqlen_q, 5):
        span = visible_span(slice(start, start + 5), seqlen_q, seqlen_k, params)
        assert 0 <= span.start <= span.stop <= seqlen_k
        outside = seen[start : start + 5].copy()
        outside[:, span] = False
        assert not outside.any()


def test_the_span_of_a_window_is_short() -> None:
    params = AttentionParams(1.0, window_left=9, window_right=0)
    assert visible_span(slice(100, 116), 1000, 1000, params) == slice(91, 116)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (MaskKind.full(), ["1111", "1111"]),
        (MaskKind.causal(), ["1110", "1111"]),
        (MaskKind.sliding_causal(2), ["0110", "0011"]),
        (MaskKind.sliding_full(2), ["0111", "0011"]),
    ],
    ids=str,
)
def test_the_windows_of_mask_kinds(kind: MaskKind, expected: list[str]) -> None:
    params = AttentionParams(1.0, window_left=kind.window_left, window_right=kind.window_right)
    assert ["".join(str(int(x)) for x in row) for row in visible(2, 4, params)] == expected
