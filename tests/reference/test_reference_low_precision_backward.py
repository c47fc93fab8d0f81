"""The gradients in low precision: as far from the exact ones as the type's rounding says."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch_attention import CASES, Case, mask

from flashactor.errors import OperandError
from flashactor.reference import AttentionParams, Gradients, backward, backward_low_precision

# type, half a unit in its last place at 1
TYPES = {"f16": (np.float16, 2.0**-11), "bf16": (ml_dtypes.bfloat16, 2.0**-8)}
NAMES = ("dq", "dk", "dv", "dsink_logits", "dalibi_slopes")


def both(case: Case, params: AttentionParams, name: str, with_dlse: bool) -> tuple[Gradients, Gradients]:
    """Low-precision and exact gradients of a case whose operands have the type."""
    rng = np.random.default_rng(91)
    q, k, v = (x.astype(TYPES[name][0]) for x in case.arrays())
    dout = rng.standard_normal((case.batch, case.seqlen_q, case.heads_q, case.head_dim_v))
    dout = dout.astype(TYPES[name][0])
    dlse = rng.standard_normal((case.batch, case.heads_q, case.seqlen_q)) if with_dlse else None
    return (
        backward_low_precision(dout, q, k, v, params, name, dlse),
        backward(dout, q, k, v, params, dlse),
    )


def check(got: Gradients, exact: Gradients, name: str) -> None:
    dtype, unit = TYPES[name]
    for field in NAMES:
        gradient, want = getattr(got, field), getattr(exact, field)
        if want is None:
            assert gradient is None
            continue
        assert gradient.dtype == (dtype if field in NAMES[:3] else np.float32)
        error = np.abs(gradient.astype(np.float64) - want).max()
        assert error <= 8 * unit * max(1.0, np.abs(want).max()), field


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("with_dlse", [False, True], ids=["dout", "dout-and-dlse"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_error_is_that_of_the_type(case: Case, with_dlse: bool, name: str) -> None:
    got, exact = both(case, case.params(), name, with_dlse)
    check(got, exact, name)
    if case.name == "full":
        for field in NAMES[:3]:  # more was rounded than the result
            rounded = getattr(exact, field).astype(TYPES[name][0])
            assert (getattr(got, field) != rounded).mean() > 0.05


@pytest.mark.parametrize("name", TYPES)
def test_dropout_drops_the_same_weights(name: str) -> None:
    case = Case("dropout", heads_q=4, heads_kv=2, sink_logits=True, slopes="2d")
    base = case.params()
    params = AttentionParams(
        0.3, alibi_slopes=base.alibi_slopes, sink_logits=base.sink_logits, dropout_p=0.4, dropout_seed=9
    )
    check(*both(case, params, name, with_dlse=True), name)


@pytest.mark.parametrize("name", TYPES)
def test_bit_for_bit_the_formula_in_torch(name: str) -> None:
    """Small integers make most sums exact, so almost only the roundings of the contract remain."""
    rng = np.random.default_rng(92)
    dtype = TYPES[name][0]
    low = {"f16": torch.float16, "bf16": torch.bfloat16}[name]
    q, k, v, dout = (rng.integers(-2, 3, (1, 32, 1, 8)).astype(dtype) for _ in range(4))
    got = backward_low_precision(dout, q, k, v, AttentionParams(0.25, window_right=0), name)
    tq, tk, tv, tdout = (torch.from_numpy(x.astype(np.float32))[0, :, 0] for x in (q, k, v, dout))
    scores = (0.25 * (tq @ tk.T)).masked_fill(~mask(lambda d, j: d >= 0, 32, 32), -torch.inf)
    weights = scores.softmax(dim=-1)
    operand = weights.to(low).float()
    out = (operand @ tv).to(low).float()
    dscores = weights * (tdout @ tv.T - (out * tdout).sum(dim=-1, keepdim=True)) * 0.25
    dscores = dscores.to(low).float()
    for field, expected in (("dq", dscores @ tk), ("dk", dscores.T @ tq), ("dv", operand.T @ tdout)):
        same = getattr(got, field)[0, :, 0].astype(np.float32) == expected.to(low).float().numpy()
        assert same.mean() > 0.97, field  # exp and sums in another order may differ in the last bit


def test_operands_of_another_type_are_rounded_first() -> None:
    q, k, v = CASES[0].arrays()
    dout = np.random.default_rng(93).standard_normal(q.shape)
    got = backward_low_precision(dout, q, k, v, CASES[0].params(), "f16")
    rounded = [x.astype(np.float16) for x in (dout, q, k, v)]
    again = backward_low_precision(*rounded, CASES[0].params(), "float16")
    np.testing.assert_array_equal(got.dk, again.dk)


def test_gradients_of_another_shape() -> None:
    q, k, v = CASES[0].arrays()
    with pytest.raises(OperandError, match="dout"):
        backward_low_precision(q[:, 1:], q, k, v, CASES[0].params(), "bf16")
