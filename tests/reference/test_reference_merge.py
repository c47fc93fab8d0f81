"""Two states over parts of the keys are one state over all of them."""

import ml_dtypes
import numpy as np
import pytest

from flashactor.errors import OperandError
from flashactor.reference import AttentionParams, forward, forward_varlen, merge_states

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
PARAMS = AttentionParams(0.3)


def arrays(*lead: int, seqlen_k: int = 20) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(71)
    q = rng.standard_normal((*lead, 7, 4, 16))
    return q, rng.standard_normal((*lead, seqlen_k, 2, 16)), rng.standard_normal((*lead, seqlen_k, 2, 24))


@pytest.mark.parametrize("cut", [0, 1, 9, 19, 20])
@pytest.mark.parametrize("magnitude", [1.0, 300.0], ids=["", "one-state-outweighs-the-other"])
def test_any_cut_of_the_keys_gives_the_whole(cut: int, magnitude: float) -> None:
    q, k, v = arrays(2)
    q *= magnitude
    merged = merge_states(
        *forward(q, k[:, :cut], v[:, :cut], PARAMS), *forward(q, k[:, cut:], v[:, cut:], PARAMS)
    )
    for got, expected in zip(merged, forward(q, k, v, PARAMS), strict=True):
        np.testing.assert_allclose(got, expected, **TIGHT)


def test_packed_states() -> None:
    q, k, v = arrays()
    bounds_q, bounds_k = np.array([0, 3, 7]), np.array([0, 8, 20])
    first, second = (
        forward_varlen(q, k[part], v[part], bounds_q, bounds_of_half, PARAMS)
        for part, bounds_of_half in (
            (np.r_[0:4, 8:14], np.array([0, 4, 10])),
            (np.r_[4:8, 14:20], np.array([0, 4, 10])),
        )
    )
    merged = merge_states(*first, *second)
    for got, expected in zip(merged, forward_varlen(q, k, v, bounds_q, bounds_k, PARAMS), strict=True):
        np.testing.assert_allclose(got, expected, **TIGHT)


def test_a_state_that_saw_nothing_counts_nothing_whatever_it_holds() -> None:
    out, lse = np.full((1, 3, 1, 4), 2.0), np.array([[[0.5, -np.inf, -np.inf]]], np.float32)
    other, other_lse = np.full((1, 3, 1, 4), np.nan), np.array([[[-np.inf, 1.5, -np.inf]]], np.float32)
    out[0, 2] = np.inf
    other[0, 1] = 3.0
    for merged, merged_lse in (
        merge_states(out, lse, other, other_lse),
        merge_states(other, other_lse, out, lse),
    ):
        np.testing.assert_array_equal(merged[0, :, 0, 0], [2.0, 3.0, 0.0])
        np.testing.assert_array_equal(merged_lse[0, 0], [0.5, 1.5, -np.inf])


def test_low_precision_states_are_merged_in_float64() -> None:
    out = np.full((1, 1, 1, 8), 1.0, ml_dtypes.bfloat16)
    lse = np.zeros((1, 1, 1), np.float32)
    merged, merged_lse = merge_states(out, lse, out * 3, lse)
    assert (merged.dtype, merged_lse.dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(merged, 2.0, **TIGHT)
    np.testing.assert_allclose(merged_lse, np.log(2.0), **TIGHT)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("out_b", {"out_b": (2, 5, 3, 4)}),
        ("lse_a", {"lse_a": (2, 5, 3)}),
        ("lse_b", {"lse_b": (2, 3, 4)}),
        ("lse_a", {"out_a": (2, 4), "out_b": (2, 4)}),
    ],
)
def test_states_that_contradict_each_other(field: str, changes: dict[str, tuple[int, ...]]) -> None:
    shapes = {"out_a": (2, 5, 3, 8), "lse_a": (2, 3, 5), "out_b": (2, 5, 3, 8), "lse_b": (2, 3, 5)} | changes
    with pytest.raises(OperandError) as caught:
        merge_states(**{name: np.zeros(shape) for name, shape in shapes.items()})
    assert caught.value.field == field
