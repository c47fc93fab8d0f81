"""Every row of the README's feature table runs its kernels in the emulator and agrees with the reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest
from samples import normal

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    KvLayout,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.cli.tables import FEATURES, refusals
from flashactor.executors.emulator import emulate, kernel_ptx
from flashactor.executors.operands import output_names, require_arrays, with_outputs
from flashactor.executors.reference import compute
from flashactor.kernels.select import IMPLEMENTATIONS, choose_family

BF16 = ml_dtypes.bfloat16
CAUSAL = {"mask": MaskKind.causal()}
TOLERANCE = {np.dtype(BF16): 2e-2, np.dtype(np.float16): 3e-3, np.dtype(np.float32): 1e-2}
"""Of the largest value: what rounding inputs, weights and results may cost. `flashactor check` judges kernels
more strictly; here a feature that is ignored must show, in the results or in which kernels are launched."""
FP8_TOLERANCE = 6e-2
"""A weight in e4m3 is exact to 1/16."""
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2

rng = np.random.default_rng(0)


def qkv(d=64, d_v=None, dtype=BF16, heads_kv=2, lengths=(40, 70)):
    seqlen_q, seqlen_k = lengths
    return (
        normal(rng, 1, seqlen_q, 4, d, dtype=dtype),
        normal(rng, 1, seqlen_k, heads_kv, d, dtype=dtype),
        normal(rng, 1, seqlen_k, heads_kv, d_v or d, dtype=dtype),
    )


def dense(*arrays, **options):
    return Fa2FwdRequest.from_arrays(*(arrays or qkv()), **options)


def per_head():
    return rng.random(4).astype(np.float32)


def packed():
    offsets = np.array([0, 20, 20, 50], np.int32)
    return normal(rng, 50, 4, 64), normal(rng, 50, 2, 64), normal(rng, 50, 2, 64), offsets, offsets


def varlen(**options):
    return VarlenFwdRequest.from_arrays(*packed(), **CAUSAL, **options)


def paged(*, dtype=BF16, table=((3, 1, 6), (5, 2, 0)), layout=KvLayout.NHD, **options):
    k, v = normal(rng, 7, 16, 2, 64).astype(dtype), normal(rng, 7, 16, 2, 64).astype(dtype)
    if layout is KvLayout.HND:
        k, v = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (k, v))
    pages, lens = np.array(table, np.int32), np.array([40, 33], np.int32)
    options = {"layout": layout, **CAUSAL, **options}
    return PagedAttentionRequest.from_arrays(normal(rng, 2, 3, 4, 64), k, v, pages, lens, **options)


def chunk(**options):
    caches = (normal(rng, 2, 64, 2, 64), normal(rng, 2, 64, 2, 64))
    new = (normal(rng, 2, 9, 4, 64), normal(rng, 2, 9, 2, 64), normal(rng, 2, 9, 2, 64))
    return ChunkedPrefillRequest.from_arrays(*new, *caches, chunk=ChunkLayout(9, 30), **CAUSAL, **options)


def rotary():
    angles = rng.random((64, 16)).astype(np.float32)
    return {"rotary_cos": np.cos(angles), "rotary_sin": np.sin(angles)}


def backward(forward_options=None, **options):
    q, k, v = qkv()
    forward_options = forward_options or {}
    out, lse = outputs(dense(q, k, v, **forward_options))
    dout = normal(rng, *q.shape)
    return Fa2BwdRequest.from_arrays(dout, q, k, v, out, lse, **forward_options, **options)


def packed_backward():
    q, k, v, cu_q, cu_k = packed()
    out, lse = outputs(VarlenFwdRequest.from_arrays(q, k, v, cu_q, cu_k, **CAUSAL))
    return VarlenBwdRequest.from_arrays(normal(rng, *q.shape), q, k, v, out, lse, cu_q, cu_k, **CAUSAL)


def all_gradients():
    options = {"alibi_slopes": per_head(), "sink_logits": per_head(), **CAUSAL}
    return backward(options, dlse=rng.random((1, 4, 40)).astype(np.float32))


def states():
    q, k, v = qkv()
    return (*outputs(dense(q, k[:, :30], v[:, :30])), *outputs(dense(q, k[:, 30:], v[:, 30:])))


def fp8(k_dtype, v_dtype):
    q, k, v = (x.astype(dtype) for x, dtype in zip(qkv(), (E4M3, k_dtype, v_dtype), strict=True))
    return Fa2FwdFp8Request.from_arrays(
        q, k, v, q_scale=0.5, k_scale=np.array([1.5, 0.5], np.float32), v_scale=2.0
    )


def outputs(request):
    computed = compute(request)
    return np.asarray(computed.out), np.asarray(computed.lse)


@dataclass(frozen=True)
class Row:
    """Requests of a row of the table, and the features of each kernel that such a request launches."""

    launches: tuple[str, ...]
    requests: tuple[Callable, ...]


def row(launches, *requests):
    return Row(tuple(launches.split(", ")), requests)


PLAIN = "fwd plain"
PAGED = "fwd plain paged decode"
GRADIENTS = "bwd_preprocess, bwd_dkdv plain dkdv"
SPLIT = (3, 600)
"""Few queries and many keys, which are split where the request does not forbid it."""

ROWS = {
    "forward, bf16": (row(PLAIN, dense),),
    "forward, f16": (row(PLAIN, lambda: dense(*qkv(dtype=np.float16))),),
    "forward, fp8 (e4m3; v in e5m2, too)": (
        row("fwd_fp8 plain", lambda: fp8(E4M3, E4M3)),
        row("fwd_fp8 plain v_e5m2", lambda: fp8(E4M3, E5M2)),
    ),
    "forward, fp8, k in e5m2": (
        row("fwd_fp8 plain k_e5m2", lambda: fp8(E5M2, E4M3)),
        row("fwd_fp8 plain k_e5m2 v_e5m2", lambda: fp8(E5M2, E5M2)),
    ),
    "head_dim: every multiple of 8 up to 256": (
        row(PLAIN, *(lambda d=d: dense(*qkv(d)) for d in range(8, 257, 8))),
    ),
    "another head_dim of v and out": (
        row(PLAIN, lambda: dense(*qkv(64, 40)), lambda: dense(*qkv(40, 64)), lambda: dense(*qkv(192, 128))),
    ),
    "causal mask, seqlen_q and seqlen_k may differ": (
        row(PLAIN, *(lambda n=n: dense(*qkv(lengths=n), **CAUSAL) for n in ((40, 70), (70, 70), (70, 40)))),
    ),
    "sliding window, causal": (row(PLAIN, lambda: dense(mask=MaskKind.sliding_causal(9))),),
    "sliding window, both sides": (row(PLAIN, lambda: dense(mask=MaskKind.sliding_full(9))),),
    "sliding window, each side its own": (row(PLAIN, lambda: dense(mask=MaskKind.sliding(9, 3))),),
    "sink tokens": (row(PLAIN, lambda: dense(mask=MaskKind.sliding_causal(9), sink_tokens=4)),),
    "learned sink logits": (row(PLAIN, lambda: dense(sink_logits=2.0 + per_head())),),
    "ALiBi": (row("fwd modified", lambda: dense(alibi_slopes=per_head())),),
    "softcap": (row("fwd modified", lambda: dense(softcap=0.5)),),
    "dropout": (row("fwd dropout", lambda: dense(dropout_p=0.3, dropout_seed=7)),),
    "GQA and MQA": (row(PLAIN, *(lambda n=n: dense(*qkv(heads_kv=n)) for n in (2, 1))),),
    "packed sequences (varlen)": (row(PLAIN, varlen),),
    "packed sequences of which a part is used (seqused)": (
        row(
            PLAIN,
            lambda: varlen(
                seqused_q=np.array([11, 0, 30], np.int32), seqused_k=np.array([20, 0, 7], np.int32)
            ),
        ),
    ),
    "the same bits whatever else is in the batch (batch_invariant)": (
        row("fwd plain decode", lambda: dense(*qkv(lengths=SPLIT), batch_invariant=True)),
    ),
    "paged KV cache, NHD and HND": (
        row(PAGED, *(lambda layout=layout: paged(layout=layout) for layout in KvLayout)),
    ),
    "fp8 KV cache under 16-bit queries": (
        row(
            "fwd plain paged fp8_kv decode",
            *(lambda dtype=dtype: paged(dtype=dtype, k_scale=2.0, v_scale=0.5) for dtype in (E4M3, E5M2)),
        ),
    ),
    "page indices checked on the device (guard)": (
        row(PAGED, lambda: paged(guard=True, table=((3, 99, 6), (-1, 2, 0)))),
    ),
    "chunked prefill with append": (row("append, fwd plain decode", chunk),),
    "append with rotary embedding": (
        row("append rotary, fwd plain decode", lambda: chunk(**rotary())),
        row(
            "append rotary_interleaved, fwd plain decode",
            lambda: chunk(**rotary(), rotary_interleaved=True),
        ),
    ),
    "two attention states merged (merge_states)": (
        row("merge", lambda: MergeStatesRequest.from_arrays(*states())),
    ),
    "backward, dense, deterministic": (row(f"{GRADIENTS}, bwd_dq plain", backward),),
    "backward, dense, in no fixed order": (
        row(f"{GRADIENTS} atomic, bwd_convert", lambda: backward(deterministic=False)),
    ),
    "backward, packed": (row(f"{GRADIENTS}, bwd_dq plain", packed_backward),),
    "backward, from lse too, and of sink logits and ALiBi slopes": (
        row("bwd_preprocess, bwd_dkdv modified dkdv, bwd_dq modified, bwd_reduce, bwd_reduce", all_gradients),
    ),
}
REQUESTS = [
    pytest.param(make, each.launches, id=f"{feature} {number}")
    for feature, rows in ROWS.items()
    for number, (each, make) in enumerate((each, make) for each in rows for make in each.requests)
]


def emulated(request):
    """(every output by its name, specifications of the kernels in the order of their launches)."""
    arch = SmArch.SM89 if request.dtype.is_fp8 else SmArch.SM80
    arrays = with_outputs(request, require_arrays(request))
    in_place = {
        name: view.to_numpy().copy() for name, view in arrays.items() if name in ("k_cache", "v_cache")
    }
    launched = []

    def ptx(spec):
        launched.append(spec)
        return kernel_ptx(spec)

    emulate(request, arch, choose_family(request, arch), arrays, ptx=ptx)
    results = {name: arrays[name].to_numpy().copy() for name in output_names(request, arrays)}
    for name, contents in in_place.items():  # the reference appends for itself
        arrays[name].to_numpy()[...] = contents
    return results, launched


def test_the_table_and_these_requests_have_the_same_rows():
    assert list(ROWS) == [feature for feature, _ in FEATURES]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda each: each.name)
def test_arrays_change_no_verdict_of_the_table(implementation):
    """The table is made of requests without arrays, or of the least ones."""
    table = refusals()
    for feature, rows in ROWS.items():
        for make in (make for each in rows for make in each.requests):
            reasons = implementation.reasons_against(replace(make(), arch=None), SmArch.SM90A)
            assert bool(reasons) is bool(table[feature][implementation.name]), (feature, reasons)


@pytest.mark.parametrize(("make", "launches"), REQUESTS)
def test_a_feature_runs_its_kernels(make, launches):
    request = make()
    results, launched = emulated(request)
    assert tuple(" ".join(spec.features) for spec in launched) == launches
    assert all(spec.dtype is request.dtype for spec in launched)
    expected = compute(request)
    assert results
    for name, result in results.items():
        exact = np.asarray(getattr(expected, name)).astype(np.float64)
        found = result.astype(np.float64)
        assert np.array_equal(np.isfinite(found), np.isfinite(exact))
        finite = np.isfinite(exact)
        largest = max(1.0, np.abs(exact[finite]).max())
        tolerance = FP8_TOLERANCE if request.dtype.is_fp8 else TOLERANCE[result.dtype]
        assert np.abs(found[finite] - exact[finite]).max() <= tolerance * largest, name


def test_without_batch_invariance_the_same_keys_are_split():
    _, launched = emulated(dense(*qkv(lengths=SPLIT)))
    assert [" ".join(spec.features) for spec in launched] == ["fwd plain decode", "combine"]


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_with_batch_invariance_company_changes_neither_kernel_nor_bits(batch_invariant):
    q, k, v = (x[0] for x in qkv(lengths=(80, 700)))

    def first_of(lengths):
        cu_q, cu_k = (np.cumsum([0, *each], dtype=np.int32) for each in zip(*lengths, strict=True))
        packed = (q[: cu_q[-1]], k[: cu_k[-1]], v[: cu_k[-1]])
        request = VarlenFwdRequest.from_arrays(*packed, cu_q, cu_k, batch_invariant=batch_invariant)
        results, launched = emulated(request)
        return results["lse"][:, : lengths[0][0]], launched

    (alone, kernels), (in_company, other_kernels) = first_of([SPLIT]), first_of([SPLIT, (77, 100)])
    assert (kernels == other_kernels) is batch_invariant
    if batch_invariant:
        assert np.array_equal(alone, in_company)
