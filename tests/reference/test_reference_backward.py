"""The backward pass against PyTorch's autograd."""

import numpy as np
import pytest
import torch
from torch_attention import CASES, Case, attention_of, kept, leaf

from flashactor.reference import AttentionParams, Gradients, backward

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def check(
    case: Case, params: AttentionParams, with_dlse: bool, keep: torch.Tensor | None = None
) -> Gradients:
    """Compare every gradient of a case with autograd's."""
    rng = np.random.default_rng(9)
    q, k, v = case.arrays()
    dout = rng.standard_normal((case.batch, case.seqlen_q, case.heads_q, case.head_dim_v))
    dlse = rng.standard_normal((case.batch, case.heads_q, case.seqlen_q)) if with_dlse else None
    leaves = [leaf(x) for x in (q, k, v, params.sink_logits, params.alibi_slopes)]
    tq, tk, tv, sinks, slopes = leaves
    out, lse = attention_of(params, case.mask(), tq, tk, tv, slopes, sinks, keep)
    loss = (out * torch.from_numpy(dout)).sum()
    if dlse is not None:
        loss = loss + torch.where(torch.isfinite(lse), lse * torch.from_numpy(dlse), 0.0).sum()
    loss.backward()

    got = backward(dout, q, k, v, params, dlse)
    for name, tensor in zip(("dq", "dk", "dv", "dsink_logits", "dalibi_slopes"), leaves, strict=True):
        gradient = getattr(got, name)
        if tensor is None:
            assert gradient is None, name
        else:
            assert gradient.dtype == np.float64
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), err_msg=name, **TIGHT)
    return got


@pytest.mark.usefixtures("tile_size")
@pytest.mark.parametrize("with_dlse", [False, True], ids=["dout", "dout-and-dlse"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_backward_matches_autograd(case: Case, with_dlse: bool) -> None:
    check(case, case.params(), with_dlse)


@pytest.mark.usefixtures("tile_size")
@pytest.mark.parametrize("heads_kv", [1, 4])
def test_backward_through_dropout(heads_kv: int) -> None:
    case = Case(
        "dropout",
        lambda d, j: d >= 0,
        seqlen_k=29,
        heads_q=4,
        heads_kv=heads_kv,
        slopes="2d",
        sink_logits=True,
    )
    base = case.params()
    p, seed, offset = 0.25, 2**63 + 5, 2**40 + 3
    params = AttentionParams(
        0.3,
        window_right=0,
        alibi_slopes=base.alibi_slopes,
        sink_logits=base.sink_logits,
        dropout_p=p,
        dropout_seed=seed,
        dropout_offset=offset,
    )
    check(case, params, with_dlse=True, keep=kept(case, seed, offset, p))


def test_empty_rows_contribute_nothing_even_where_dlse_is_not_finite() -> None:
    case = Case("empty", seqlen_q=9, seqlen_k=4)
    q, k, v = case.arrays()
    params = AttentionParams(0.3, window_right=0)
    dout = np.ones((2, 9, 2, 16))
    dlse = np.zeros((2, 2, 9))
    dlse[..., :5] = np.nan
    got = backward(dout, q, k, v, params, dlse)
    seen = backward(dout[:, 5:], q[:, 5:], k, v, params)
    assert not got.dq[:, :5].any()
    np.testing.assert_allclose(got.dk, seen.dk, **TIGHT)
    np.testing.assert_allclose(got.dv, seen.dv, **TIGHT)


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(0, 5), (5, 0), (0, 0)])
def test_lengths_of_zero_give_zero_gradients(seqlen_q: int, seqlen_k: int) -> None:
    q, kv = np.ones((1, seqlen_q, 4, 8)), np.ones((1, seqlen_k, 2, 8))
    params = AttentionParams(0.3, sink_logits=np.zeros(4), alibi_slopes=np.ones((1, 4), dtype=np.float32))
    got = backward(q, q, kv, kv, params)
    assert (got.dq.shape, got.dk.shape, got.dv.shape) == (q.shape, kv.shape, kv.shape)
    assert got.dsink_logits is not None
    assert got.dalibi_slopes is not None
    assert got.dalibi_slopes.shape == (1, 4)
    for gradient in (got.dq, got.dk, got.dv, got.dsink_logits, got.dalibi_slopes):
        assert not gradient.any()
