"""Every row of the README's feature table runs its kernels in the emulator and agrees with the reference."""

import ml_dtypes
import numpy as np
import pytest

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.cli.tables import FEATURES
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import output_names, require_arrays, with_outputs
from flashactor.executors.reference import compute

BF16 = ml_dtypes.bfloat16
CAUSAL = {"mask": MaskKind.causal()}
TOLERANCE = {np.dtype(BF16): 2e-2, np.dtype(np.float16): 3e-3, np.dtype(np.float32): 1e-2}
"""Of the largest value: what rounding inputs, weights and results may cost. `flashactor check` judges kernels
more strictly; here a feature that is ignored must show."""
FP8_TOLERANCE = 6e-2
"""A weight in e4m3 is exact to 1/16."""

rng = np.random.default_rng(0)


def normal(*shape, dtype=BF16):
    return rng.standard_normal(shape).astype(dtype)


def qkv(d=64, d_v=None, dtype=BF16, heads_kv=2):
    return (
        normal(1, 40, 4, d, dtype=dtype),
        normal(1, 70, heads_kv, d, dtype=dtype),
        normal(1, 70, heads_kv, d_v or d, dtype=dtype),
    )


def dense(*arrays, **options):
    return Fa2FwdRequest.from_arrays(*(arrays or qkv()), **options)


def per_head():
    return rng.random(4).astype(np.float32)


def packed():
    offsets = np.array([0, 20, 20, 50], np.int32)
    return normal(50, 4, 64), normal(50, 2, 64), normal(50, 2, 64), offsets, offsets


def varlen(**options):
    return VarlenFwdRequest.from_arrays(*packed(), **CAUSAL, **options)


def paged(*, dtype=BF16, table=((3, 1, 6), (5, 2, 0)), **options):
    k, v = normal(7, 16, 2, 64).astype(dtype), normal(7, 16, 2, 64).astype(dtype)
    pages, lens = np.array(table, np.int32), np.array([40, 33], np.int32)
    return PagedAttentionRequest.from_arrays(normal(2, 3, 4, 64), k, v, pages, lens, **CAUSAL, **options)


def chunk(**options):
    caches = (normal(2, 64, 2, 64), normal(2, 64, 2, 64))
    new = (normal(2, 9, 4, 64), normal(2, 9, 2, 64), normal(2, 9, 2, 64))
    return ChunkedPrefillRequest.from_arrays(*new, *caches, chunk=ChunkLayout(9, 30), **CAUSAL, **options)


def rotary():
    angles = rng.random((64, 16)).astype(np.float32)
    return {"rotary_cos": np.cos(angles), "rotary_sin": np.sin(angles)}


def backward(forward_options=None, **options):
    q, k, v = qkv()
    forward_options = forward_options or {}
    out, lse = outputs(dense(q, k, v, **forward_options))
    dout = normal(*q.shape)
    return Fa2BwdRequest.from_arrays(dout, q, k, v, out, lse, **forward_options, **options)


def packed_backward():
    q, k, v, cu_q, cu_k = packed()
    out, lse = outputs(VarlenFwdRequest.from_arrays(q, k, v, cu_q, cu_k, **CAUSAL))
    return VarlenBwdRequest.from_arrays(normal(*q.shape), q, k, v, out, lse, cu_q, cu_k, **CAUSAL)


def all_gradients():
    options = {"alibi_slopes": per_head(), "sink_logits": per_head(), **CAUSAL}
    return backward(options, dlse=rng.random((1, 4, 40)).astype(np.float32))


def states():
    q, k, v = qkv()
    return (*outputs(dense(q, k[:, :30], v[:, :30])), *outputs(dense(q, k[:, 30:], v[:, 30:])))


def fp8():
    q, k, v = (x.astype(ml_dtypes.float8_e4m3fn) for x in qkv())
    return Fa2FwdFp8Request.from_arrays(
        q, k, v, q_scale=0.5, k_scale=np.array([1.5, 0.5], np.float32), v_scale=2.0
    )


def outputs(request):
    computed = compute(request)
    return np.asarray(computed.out), np.asarray(computed.lse)


REQUESTS = {
    "forward, bf16": dense,
    "forward, f16": lambda: dense(*qkv(dtype=np.float16)),
    "forward, fp8 (e4m3, e5m2)": fp8,
    "head_dim: every multiple of 8 up to 256": lambda: dense(*qkv(72)),
    "another head_dim of v and out": lambda: dense(*qkv(64, 40)),
    "causal mask, seqlen_q and seqlen_k may differ": lambda: dense(**CAUSAL),
    "sliding window, causal": lambda: dense(mask=MaskKind.sliding_causal(9)),
    "sliding window, both sides": lambda: dense(mask=MaskKind.sliding_full(9)),
    "sliding window, each side its own": lambda: dense(mask=MaskKind.sliding(9, 3)),
    "sink tokens": lambda: dense(mask=MaskKind.sliding_causal(9), sink_tokens=4),
    "learned sink logits": lambda: dense(sink_logits=2.0 + per_head()),
    "ALiBi": lambda: dense(alibi_slopes=per_head()),
    "softcap": lambda: dense(softcap=0.5),
    "dropout": lambda: dense(dropout_p=0.3, dropout_seed=7),
    "GQA and MQA": lambda: dense(*qkv(heads_kv=1)),
    "packed sequences (varlen)": varlen,
    "packed sequences of which a part is used (seqused)": lambda: varlen(
        seqused_q=np.array([11, 0, 30], np.int32), seqused_k=np.array([20, 0, 7], np.int32)
    ),
    "the same bits whatever else is in the batch (batch_invariant)": lambda: dense(batch_invariant=True),
    "paged KV cache, NHD and HND": paged,
    "fp8 KV cache under 16-bit queries": lambda: paged(
        dtype=ml_dtypes.float8_e4m3fn, k_scale=2.0, v_scale=0.5
    ),
    "page indices checked on the device (guard)": lambda: paged(guard=True, table=((3, 99, 6), (-1, 2, 0))),
    "chunked prefill with append": chunk,
    "append with rotary embedding": lambda: chunk(**rotary()),
    "two attention states merged (merge_states)": lambda: MergeStatesRequest.from_arrays(*states()),
    "backward, dense, deterministic": backward,
    "backward, dense, in no fixed order": lambda: backward(deterministic=False),
    "backward, packed": packed_backward,
    "backward, from lse too, and of sink logits and ALiBi slopes": all_gradients,
}


def test_the_table_and_these_requests_have_the_same_rows():
    assert list(REQUESTS) == [feature for feature, _ in FEATURES]


@pytest.mark.parametrize("feature", REQUESTS)
def test_a_feature_runs_its_kernels(feature):
    request = REQUESTS[feature]()
    arch = SmArch.SM89 if request.dtype.is_fp8 else SmArch.SM80
    arrays = with_outputs(request, require_arrays(request))
    in_place = {
        name: view.to_numpy().copy() for name, view in arrays.items() if name in ("k_cache", "v_cache")
    }
    assert emulate(request, arch, arrays)
    results = {name: arrays[name].to_numpy().copy() for name in output_names(request, arrays)}
    for name, contents in in_place.items():  # the reference appends for itself
        arrays[name].to_numpy()[...] = contents
    expected = compute(request)
    for name, result in results.items():
        exact = np.asarray(getattr(expected, name)).astype(np.float64)
        found = result.astype(np.float64)
        assert np.array_equal(np.isfinite(found), np.isfinite(exact))
        finite = np.isfinite(exact)
        largest = max(1.0, np.abs(exact[finite]).max())
        tolerance = FP8_TOLERANCE if request.dtype.is_fp8 else TOLERANCE[result.dtype]
        assert np.abs(found[finite] - exact[finite]).max() <= tolerance * largest, name
