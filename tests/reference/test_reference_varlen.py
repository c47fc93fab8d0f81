"""Packed batches: each sequence against PyTorch on its own."""

import numpy as np
import pytest
import torch
from torch_attention import attention_of, leaf, mask

from flashactor.errors import OperandError
from flashactor.reference import AttentionParams, backward_varlen, forward_varlen, keep_mask

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
HEADS_Q, HEADS_KV, HEAD_DIM, HEAD_DIM_V = 4, 2, 16, 24

# (lengths of q, lengths of k)
LENGTHS = {
    "one": ([33], [33]),
    "ragged": ([5, 17, 1, 30], [5, 40, 23, 12]),
    "empty-sequences": ([0, 7, 4, 0, 3], [3, 7, 0, 0, 9]),
}


@pytest.mark.usefixtures("tile_size")
@pytest.mark.parametrize("slopes_rank", [0, 1, 2])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3], ids=["", "dropout"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_varlen_matches_each_sequence_alone(
    lengths: tuple[list[int], list[int]], dropout_p: float, slopes_rank: int
) -> None:
    rng = np.random.default_rng(21)
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(x)]).astype(np.int32) for x in lengths)
    num_seqs = len(lengths[0])
    q = rng.standard_normal((cu_q[-1], HEADS_Q, HEAD_DIM))
    k = rng.standard_normal((cu_k[-1], HEADS_KV, HEAD_DIM))
    v = rng.standard_normal((cu_k[-1], HEADS_KV, HEAD_DIM_V))
    dout = rng.standard_normal((cu_q[-1], HEADS_Q, HEAD_DIM_V))
    dlse = rng.standard_normal((HEADS_Q, cu_q[-1]))
    slopes = [None, rng.uniform(0.1, 1.0, HEADS_Q), rng.uniform(0.1, 1.0, (num_seqs, HEADS_Q))][slopes_rank]
    params = AttentionParams(
        softmax_scale=0.25,
        window_left=15,
        window_right=0,
        sink_tokens=2,
        softcap=3.0,
        alibi_slopes=slopes,
        sink_logits=rng.standard_normal(HEADS_Q),
        dropout_p=dropout_p,
        dropout_seed=77,
        dropout_offset=1,
    )
    tensors = [leaf(x) for x in (q, k, v, params.sink_logits, slopes)]
    tq, tk, tv, tsinks, tslopes = tensors
    outs, lses = [torch.zeros(1, 0, HEADS_Q, HEAD_DIM_V, dtype=torch.float64)], [torch.zeros(1, HEADS_Q, 0)]
    for s in range(num_seqs):
        rows, keys = slice(cu_q[s], cu_q[s + 1]), slice(cu_k[s], cu_k[s + 1])
        out, lse = attend_alone(params, s, tq[rows], tk[keys], tv[keys], tsinks, tslopes)
        outs.append(out)
        lses.append(lse)
    expected, expected_lse = torch.cat(outs, dim=1)[0], torch.cat(lses, dim=2)[0]
    loss = (expected * torch.from_numpy(dout)).sum()
    loss = loss + torch.where(torch.isfinite(expected_lse), expected_lse * torch.from_numpy(dlse), 0.0).sum()
    loss.backward()

    out, lse = forward_varlen(q, k, v, cu_q, cu_k, params)
    np.testing.assert_allclose(out, expected.detach().numpy(), **TIGHT)
    np.testing.assert_allclose(lse, expected_lse.detach().numpy(), **TIGHT)
    got = backward_varlen(dout, q, k, v, cu_q, cu_k, params, dlse)
    for name, tensor in zip(("dq", "dk", "dv", "dsink_logits", "dalibi_slopes"), tensors, strict=True):
        if tensor is None:
            assert getattr(got, name) is None
        elif tensor.grad is None:
            assert not getattr(got, name).any()
        else:
            np.testing.assert_allclose(getattr(got, name), tensor.grad.numpy(), err_msg=name, **TIGHT)


def attend_alone(
    params: AttentionParams,
    index: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor,
    slopes: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    seqlen_q, seqlen_k = q.shape[0], k.shape[0]
    if seqlen_k == 0:  # torch has no softmax over nothing
        zeros = torch.zeros(1, seqlen_q, HEADS_Q, HEAD_DIM_V, dtype=torch.float64)
        return zeros, torch.full((1, HEADS_Q, seqlen_q), -torch.inf, dtype=torch.float64)
    keep = None
    if params.dropout_p:
        rows, cols = np.arange(seqlen_q), np.arange(seqlen_k)
        masks = [keep_mask(77, 1, index, h, HEADS_Q, rows, cols, params.dropout_p) for h in range(HEADS_Q)]
        keep = torch.from_numpy(np.stack(masks))
    seen = mask(lambda d, j: d >= 0 and (d < 16 or j < 2), seqlen_q, seqlen_k)
    own = slopes if slopes is None or slopes.ndim == 1 else slopes[index]
    return attention_of(params, seen, q[None], k[None], v[None], own, sinks, keep)


@pytest.mark.parametrize(
    ("cu_q", "cu_k", "field"),
    [
        ([1, 6], [0, 6], "cu_seqlens_q"),
        ([0, 5], [0, 6], "cu_seqlens_q"),
        ([0, 4, 2, 6], [0, 2, 4, 6], "cu_seqlens_q"),
        ([], [0, 6], "cu_seqlens_q"),
        ([0, 6], [0, 7], "cu_seqlens_k"),
        ([0, 6], [0, 3, 6], "cu_seqlens_k"),
    ],
    ids=["starts-late", "ends-early", "falls", "empty", "ends-late", "other-count"],
)
def test_lengths_that_do_not_add_up(cu_q: list[int], cu_k: list[int], field: str) -> None:
    x = np.ones((6, 2, 8))
    with pytest.raises(OperandError) as caught:
        forward_varlen(x, x, x, np.array(cu_q), np.array(cu_k), AttentionParams(1.0))
    assert caught.value.field == field
    with pytest.raises(OperandError):
        backward_varlen(x, x, x, x, np.array(cu_q), np.array(cu_k), AttentionParams(1.0))


# (lengths of q, used of q, lengths of k, used of k)
USED = {
    "both": ([5, 17, 4], [5, 9, 1], [8, 20, 6], [3, 20, 2]),
    "nothing-used": ([5, 3], [0, 3], [6, 4], [6, 0]),
}


@pytest.mark.parametrize("which", ["q", "k", "both"])
@pytest.mark.parametrize("lengths", USED.values(), ids=USED.keys())
def test_used_parts_are_the_sequences(lengths: tuple[list[int], ...], which: str) -> None:
    """The used parts packed anew give the same; what is not used may hold anything."""
    len_q, used_q, len_k, used_k = (np.array(x) for x in lengths)
    used_q, used_k = (used_q if which != "k" else len_q), (used_k if which != "q" else len_k)
    rng = np.random.default_rng(22)
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(x)]) for x in (len_q, len_k))
    rows, keys = (
        np.concatenate([start + np.arange(n) for start, n in zip(cu[:-1], used, strict=True)])
        for cu, used in ((cu_q, used_q), (cu_k, used_k))
    )
    q, dout = np.full((cu_q[-1], 4, 16), np.nan), np.full((cu_q[-1], 4, 24), np.nan)
    k, v = np.full((cu_k[-1], 2, 16), np.nan), np.full((cu_k[-1], 2, 24), np.nan)
    dlse = np.full((4, cu_q[-1]), np.nan)
    for array, part in ((q, rows), (dout, rows), (k, keys), (v, keys)):
        array[part] = rng.standard_normal((len(part), *array.shape[1:]))
    dlse[:, rows] = rng.standard_normal((4, len(rows)))
    params = AttentionParams(
        0.3,
        window_left=6,
        window_right=0,
        alibi_slopes=rng.uniform(0.1, 1.0, (len(len_q), 4)),
        sink_logits=rng.standard_normal(4),
        dropout_p=0.2,
        dropout_seed=3,
    )
    used = {
        "seqused_q": None if which == "k" else used_q.astype(np.int32),
        "seqused_k": None if which == "q" else used_k.astype(np.int32),
    }
    packed = [np.concatenate([[0], np.cumsum(x)]) for x in (used_q, used_k)]

    out, lse = forward_varlen(q, k, v, cu_q, cu_k, params, **used)
    want, want_lse = forward_varlen(q[rows], k[keys], v[keys], *packed, params)
    np.testing.assert_array_equal(out[rows], want)
    np.testing.assert_array_equal(lse[:, rows], want_lse)
    beyond = np.setdiff1d(np.arange(cu_q[-1]), rows)
    assert not out[beyond].any()
    assert np.isneginf(lse[:, beyond]).all()

    got = backward_varlen(dout, q, k, v, cu_q, cu_k, params, dlse, **used)
    alone = backward_varlen(dout[rows], q[rows], k[keys], v[keys], *packed, params, dlse[:, rows])
    for name, part in (("dq", rows), ("dk", keys), ("dv", keys)):
        np.testing.assert_array_equal(getattr(got, name)[part], getattr(alone, name))
        assert np.count_nonzero(getattr(got, name)) == np.count_nonzero(getattr(alone, name))
    np.testing.assert_array_equal(got.dsink_logits, alone.dsink_logits)
    np.testing.assert_array_equal(got.dalibi_slopes, alone.dalibi_slopes)


@pytest.mark.parametrize("field", ["seqused_q", "seqused_k"])
@pytest.mark.parametrize("used", [[2, 5], [-1, 4], [2], [[2, 4]]])
def test_used_lengths_out_of_range(field: str, used: list[int]) -> None:
    x, bounds = np.ones((6, 2, 8)), np.array([0, 2, 6])
    with pytest.raises(OperandError) as caught:
        forward_varlen(x, x, x, bounds, bounds, AttentionParams(1.0), **{field: np.array(used)})
    assert caught.value.field == field


def test_no_sequence_at_all() -> None:
    empty, bounds, params = np.ones((0, 2, 8)), np.array([0]), AttentionParams(1.0)
    out, lse = forward_varlen(empty, empty, empty, bounds, bounds, params)
    assert out.shape == (0, 2, 8)
    assert lse.shape == (2, 0)
    assert backward_varlen(empty, empty, empty, empty, bounds, bounds, params).dq.shape == (0, 2, 8)


def test_gradients_of_another_shape() -> None:
    x, bounds, params = np.ones((6, 2, 8)), np.array([0, 6]), AttentionParams(1.0)
    with pytest.raises(OperandError, match="dout"):
        backward_varlen(x[:5], x, x, x, bounds, bounds, params)
    with pytest.raises(OperandError, match="dlse"):
        backward_varlen(x, x, x, x, bounds, bounds, params, np.ones((6, 2)))
