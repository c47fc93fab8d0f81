"""Rotary embedding against the multiplication of complex numbers that it is."""

import ml_dtypes
import numpy as np
import pytest
import torch

from flashactor.errors import OperandError
from flashactor.reference import rotate

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def angles(length: int, rotary_dim: int) -> np.ndarray:
    return np.arange(length)[:, None] * 10000.0 ** (-2 * np.arange(rotary_dim // 2) / rotary_dim)


@pytest.mark.parametrize("interleaved", [False, True], ids=["half-split", "interleaved"])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(32, 32), (64, 16)])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_pairs_are_complex_numbers(
    head_dim: int, rotary_dim: int, interleaved: bool, per_sequence: bool
) -> None:
    x = np.random.default_rng(81).standard_normal((2, 5, 3, head_dim))
    angle = angles(40, rotary_dim)
    positions = np.array([[3, 4, 5, 6, 7], [20, 21, 22, 23, 24]]) if per_sequence else np.arange(9, 14)
    got = rotate(x, np.cos(angle), np.sin(angle), positions, interleaved)
    parts = x[..., :rotary_dim]
    paired = (
        torch.from_numpy(parts.reshape(2, 5, 3, rotary_dim // 2, 2).copy())
        if interleaved
        else torch.from_numpy(np.stack(np.split(parts, 2, axis=-1), axis=-1))
    )
    turn = torch.polar(torch.ones_like(torch.from_numpy(angle)), torch.from_numpy(angle))[positions]
    turned = torch.view_as_real(torch.view_as_complex(paired) * turn[..., None, :]).numpy()
    expected = (
        turned.reshape(parts.shape)
        if interleaved
        else np.concatenate([turned[..., 0], turned[..., 1]], axis=-1)
    )
    np.testing.assert_allclose(got[..., :rotary_dim], expected, **TIGHT)
    np.testing.assert_array_equal(got[..., rotary_dim:], x[..., rotary_dim:])


@pytest.mark.parametrize("interleaved", [False, True])
def test_only_the_distance_of_two_positions_matters(interleaved: bool) -> None:
    rng = np.random.default_rng(82)
    q, k = rng.standard_normal((1, 1, 32)), rng.standard_normal((1, 1, 32))
    angle = angles(100, 32)

    def score(at_q: int, at_k: int) -> float:
        turned = (
            rotate(x, np.cos(angle), np.sin(angle), np.array([at]), interleaved)
            for x, at in ((q, at_q), (k, at_k))
        )
        return float(np.vdot(*turned))

    np.testing.assert_allclose(score(12, 3), score(99, 90), rtol=1e-9)


def test_low_precision_tables_are_taken_as_they_are() -> None:
    x = np.ones((3, 1, 16), ml_dtypes.bfloat16)
    cos, sin = (f(angles(3, 16)).astype(ml_dtypes.bfloat16) for f in (np.cos, np.sin))
    got = rotate(x, cos, sin, np.arange(3))
    np.testing.assert_array_equal(got[:, 0, :8], cos.astype(float) - sin.astype(float))
    assert x.dtype == ml_dtypes.bfloat16
    assert (x == 1).all()


@pytest.mark.parametrize(
    ("field", "cos", "sin", "last"),
    [
        ("rotary_cos", (4, 8, 1), (4, 8, 1), 3),
        ("rotary_sin", (4, 8), (4, 7), 3),
        ("rotary_cos", (4, 9), (4, 9), 3),
        ("rotary_cos", (4, 8), (4, 8), 4),
        ("rotary_cos", (4, 8), (4, 8), -1),
    ],
    ids=["rank", "other-sin", "rotary-dim-too-large", "past-the-end", "negative"],
)
def test_tables_that_do_not_fit(field: str, cos: tuple[int, ...], sin: tuple[int, ...], last: int) -> None:
    with pytest.raises(OperandError) as caught:
        rotate(np.ones((2, 1, 16)), np.ones(cos), np.ones(sin), np.array([0, last]))
    assert caught.value.field == field


def test_no_token_at_all() -> None:
    assert rotate(np.ones((0, 2, 16)), np.ones((0, 8)), np.ones((0, 8)), np.arange(0)).shape == (0, 2, 16)
