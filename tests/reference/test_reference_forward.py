"""The forward pass against PyTorch."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch_attention import CASES, Case, alibi_bias, attention_of, kept, leaf

from flashactor.reference import AttentionParams, forward

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
SDPA_CASES = [case for case in CASES if not case.sink_logits and "softcap" not in case.extra]


@pytest.mark.usefixtures("tile_size")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_matches_the_formula_in_torch(case: Case) -> None:
    q, k, v = case.arrays()
    params = case.params()
    out, lse = forward(q, k, v, params)
    slopes, sinks = leaf(params.alibi_slopes), leaf(params.sink_logits)
    expected, expected_lse = attention_of(params, case.mask(), leaf(q), leaf(k), leaf(v), slopes, sinks)
    assert out.shape == (case.batch, case.seqlen_q, case.heads_q, case.head_dim_v)
    assert lse.shape == (case.batch, case.heads_q, case.seqlen_q)
    assert out.dtype == lse.dtype == np.float64
    np.testing.assert_allclose(out, expected.detach().numpy(), **TIGHT)
    np.testing.assert_allclose(lse, expected_lse.detach().numpy(), **TIGHT)


@pytest.mark.parametrize("case", SDPA_CASES, ids=lambda case: case.name)
def test_forward_matches_scaled_dot_product_attention(case: Case) -> None:
    q, k, v = case.arrays()
    params = case.params()
    seen = case.mask()
    bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    if params.alibi_slopes is not None:
        bias = bias + alibi_bias(leaf(params.alibi_slopes).detach(), case.seqlen_q, case.seqlen_k)
    expected = scaled_dot_product_attention(
        *(torch.from_numpy(x).transpose(1, 2) for x in (q, k, v)),
        attn_mask=bias,
        scale=params.softmax_scale,
        enable_gqa=True,
    ).transpose(1, 2)
    out, _ = forward(q, k, v, params)
    rows = seen.any(dim=1).numpy()
    np.testing.assert_allclose(out[:, rows], expected.numpy()[:, rows], **TIGHT)
    assert not out[:, ~rows].any()


@pytest.mark.usefixtures("tile_size")
@pytest.mark.parametrize("heads_kv", [1, 2, 4])
def test_dropout_zeroes_and_rescales_the_weights_but_not_lse(heads_kv: int) -> None:
    case = Case("dropout", lambda d, j: d >= 0, heads_q=4, heads_kv=heads_kv, sink_logits=True)
    q, k, v = case.arrays()
    p, seed, offset = 0.3, 0x1234_5678_9ABC_DEF0, 17
    sinks = case.params().sink_logits
    params = AttentionParams(
        0.3, window_right=0, sink_logits=sinks, dropout_p=p, dropout_seed=seed, dropout_offset=offset
    )
    out, lse = forward(q, k, v, params)
    keep = kept(case, seed, offset, p)
    expected, expected_lse = attention_of(
        params, case.mask(), leaf(q), leaf(k), leaf(v), sink_logits=leaf(sinks), keep=keep
    )
    np.testing.assert_allclose(out, expected.detach().numpy(), **TIGHT)
    np.testing.assert_allclose(lse, expected_lse.detach().numpy(), **TIGHT)


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_any_float_type_is_computed_in_float64(dtype: type) -> None:
    q, k, v = (x.astype(dtype) for x in CASES[0].arrays())
    params = CASES[0].params()
    out, lse = forward(q, k, v, params)
    exact, exact_lse = forward(*(x.astype(np.float64) for x in (q, k, v)), params)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, exact)
    np.testing.assert_array_equal(lse, exact_lse)


def test_strides_do_not_matter() -> None:
    q, k, v = CASES[0].arrays()
    params = CASES[0].params()
    out, _ = forward(q, k, v, params)
    strided = [np.asfortranarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (q, k, v)]
    np.testing.assert_array_equal(forward(*strided, params)[0], out)


@pytest.mark.parametrize("sink_logits", [None, np.array([0.5, -3.0])], ids=["plain", "sink-logits"])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(0, 5), (5, 0), (0, 0)])
def test_lengths_of_zero(seqlen_q: int, seqlen_k: int, sink_logits: np.ndarray | None) -> None:
    q, kv = np.ones((1, seqlen_q, 2, 8)), np.ones((1, seqlen_k, 2, 8))
    out, lse = forward(q, kv, kv, AttentionParams(0.3, sink_logits=sink_logits))
    assert out.shape == (1, seqlen_q, 2, 8)
    assert lse.shape == (1, 2, seqlen_q)
    assert not out.any()
    assert np.isneginf(lse).all()


def test_empty_batch() -> None:
    empty = np.ones((0, 3, 2, 8))
    out, lse = forward(empty, empty, empty, AttentionParams(0.3))
    assert out.shape == (0, 3, 2, 8)
    assert lse.shape == (0, 2, 3)


def test_rows_that_see_nothing_are_zero_with_lse_minus_infinity() -> None:
    q, k, v = Case("empty", seqlen_q=9, seqlen_k=4).arrays()
    out, lse = forward(q, k, v, AttentionParams(0.3, window_right=0, sink_logits=np.array([1.0, -np.inf])))
    assert not out[:, :5].any()
    assert np.isneginf(lse[..., :5]).all()
    assert out[:, 5:].all()
    assert np.isfinite(lse[..., 5:]).all()


@pytest.mark.parametrize(
    ("logit", "share"), [(-np.inf, 1.0), (-2000.0, 1.0), (2000.0, 0.0)], ids=["minus-inf", "tiny", "huge"]
)
def test_extreme_sink_logits_neither_overflow_nor_enter_lse(logit: float, share: float) -> None:
    q, k, v = CASES[0].arrays()
    plain, plain_lse = forward(q, k, v, AttentionParams(0.3))
    out, lse = forward(q, k, v, AttentionParams(0.3, sink_logits=np.full(2, logit)))
    np.testing.assert_allclose(out, share * plain, **TIGHT)
    np.testing.assert_array_equal(lse, plain_lse)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = CASES[0].arrays()
    out, lse = forward(1e4 * q, k, v, AttentionParams(1.0))
    best = np.einsum("bihd,bjhd->bhij", 1e4 * q, k)
    np.testing.assert_allclose(lse, best.max(axis=-1), rtol=1e-3)
    assert np.abs(out).max() <= np.abs(v).max()


def test_the_score_matrix_is_never_whole() -> None:
    """It would take 134 MB here."""
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((1, 4096, 1, 32)) for _ in range(3))
    tracemalloc.start()
    out, lse = forward(q, k, v, AttentionParams(0.2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    seen = torch.ones(3, 4096, dtype=torch.bool)
    rows = [0, 2049, 4095]
    expected, expected_lse = attention_of(AttentionParams(0.2), seen, leaf(q[:, rows]), leaf(k), leaf(v))
    np.testing.assert_allclose(out[:, rows], expected.detach().numpy(), **TIGHT)
    np.testing.assert_allclose(lse[..., rows], expected_lse.detach().numpy(), **TIGHT)
