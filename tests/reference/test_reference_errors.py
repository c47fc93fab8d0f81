"""What the reference refuses."""

import numpy as np
import pytest

from flashactor.errors import OperandError, RequestError
from flashactor.reference import AttentionParams, backward, forward, forward_low_precision

SHAPES = {"q": (2, 5, 4, 8), "k": (2, 7, 2, 8), "v": (2, 7, 2, 16)}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("dropout_p", {"dropout_p": 1.0}),
        ("dropout_p", {"dropout_p": -0.1}),
        ("dropout_p", {"dropout_p": float("nan")}),
        ("softcap", {"softcap": -1.0}),
        ("softcap", {"softcap": float("nan")}),
        ("sink_tokens", {"sink_tokens": -1}),
        ("alibi_slopes", {"alibi_slopes": np.ones((1, 2, 3))}),
        ("sink_logits", {"sink_logits": np.ones((1, 2))}),
    ],
)
def test_params_out_of_range(field: str, values: dict) -> None:
    with pytest.raises(RequestError) as caught:
        AttentionParams(1.0, **values)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "shapes"),
    [
        ("q", {"q": (5, 4, 8)}),
        ("k", {"k": (7, 2, 8)}),
        ("v", {"v": (7, 2, 16)}),
        ("k", {"k": (3, 7, 2, 8), "v": (3, 7, 2, 16)}),
        ("v", {"v": (2, 6, 2, 16)}),
        ("v", {"v": (2, 7, 1, 16)}),
        ("k", {"k": (2, 7, 2, 4)}),
        ("k", {"k": (2, 7, 3, 8), "v": (2, 7, 3, 16)}),
        ("k", {"k": (2, 7, 0, 8), "v": (2, 7, 0, 16)}),
    ],
)
def test_operands_that_contradict_each_other(field: str, shapes: dict[str, tuple[int, ...]]) -> None:
    q, k, v = (np.ones((SHAPES | shapes)[name]) for name in "qkv")
    params = AttentionParams(1.0)
    for call in (
        lambda: forward(q, k, v, params),
        lambda: backward(np.ones((2, 5, 4, 16)), q, k, v, params),
        lambda: forward_low_precision(q, k, v, params, "f16"),
    ):
        with pytest.raises(OperandError) as caught:
            call()
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("alibi_slopes", {"alibi_slopes": np.ones(3)}),
        ("alibi_slopes", {"alibi_slopes": np.ones((3, 4))}),
        ("sink_logits", {"sink_logits": np.ones(2)}),
    ],
)
def test_values_per_head_of_another_length(field: str, values: dict[str, np.ndarray]) -> None:
    q, k, v = (np.ones(SHAPES[name]) for name in "qkv")
    with pytest.raises(OperandError) as caught:
        forward(q, k, v, AttentionParams(1.0, **values))
    assert caught.value.field == field


def test_gradients_of_another_shape() -> None:
    q, k, v = (np.ones(SHAPES[name]) for name in "qkv")
    with pytest.raises(OperandError, match="dout"):
        backward(np.ones((2, 5, 4, 8)), q, k, v, AttentionParams(1.0))
    with pytest.raises(OperandError, match="dlse"):
        backward(np.ones((2, 5, 4, 16)), q, k, v, AttentionParams(1.0), np.ones((2, 5, 4)))
