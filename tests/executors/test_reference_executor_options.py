"""The reference executor on what requests may say besides plain attention, each against the reference."""

import ml_dtypes
import numpy as np
import pytest

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    DType,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    FlashAttnActor,
    FlashAttnMsg,
    MaskKind,
    MergeStatesRequest,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
    reference,
)
from flashactor.reference import AttentionParams

BF16, E4M3, E5M2 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
CAUSAL = AttentionParams(64**-0.5, window_right=0)
TABLE, SEQ_LENS = np.array([[4, 1], [3, 5]], np.int32), np.array([11, 16], np.int32)


@pytest.fixture(scope="module")
def actor():
    with FlashAttnActor.start(executor="reference") as running:
        yield running


def random(*shape, seed=0, dtype=BF16):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def ask(actor, request):
    send = FlashAttnMsg.backward if request.DIRECTION.value == "bwd" else FlashAttnMsg.forward
    if isinstance(request, PagedAttentionRequest):
        send = FlashAttnMsg.paged_forward
    return actor.ask(send(request)).result(30)


def assert_rounded(actual, exact):
    np.testing.assert_array_equal(actual, exact.astype(actual.dtype))


def assert_reply(reply, out, lse, dtype=BF16):
    assert (reply.out.dtype, reply.lse.dtype) == (dtype, np.float32)
    assert_rounded(reply.out, out)
    assert_rounded(reply.lse, lse)


def test_v_of_another_head_dim_a_general_window_and_a_workspace(actor):
    q, k, v = random(2, 9, 4, 64), random(2, 13, 2, 64, seed=1), random(2, 13, 2, 128, seed=2)
    workspace = np.zeros(4096, np.uint8)
    request = Fa2FwdRequest.from_arrays(
        q, k, v, mask=MaskKind.sliding(3, 2), batch_invariant=True, workspace=workspace
    )
    reply = ask(actor, request)
    assert reply.out.shape == (2, 9, 4, 128)
    assert_reply(reply, *reference.forward(q, k, v, AttentionParams(64**-0.5, 3, 2)))
    assert not workspace.any()


@pytest.mark.parametrize("request_type", [Fa2FwdFp8Request, Fa3FwdFp8Request])
@pytest.mark.parametrize("out_dtype", [DType.BF16, DType.F16])
def test_fp8_of_several_types_with_descales_per_head(actor, request_type, out_dtype):
    q = random(1, 6, 4, 64, dtype=E4M3)
    k, v = random(1, 7, 2, 64, seed=1, dtype=E5M2), random(1, 7, 2, 64, seed=2, dtype=E4M3)
    scales = {
        "q_scale": abs(random(4, dtype=np.float32)),
        "k_scale": abs(random(2, seed=1, dtype=np.float32)),
    }
    request = request_type.from_arrays(
        q, k, v, **scales, v_scale=np.full((1, 1), 3.0, np.float32), out_dtype=out_dtype
    )
    exact = reference.forward(
        q.astype(float) * scales["q_scale"][:, None],
        k.astype(float) * scales["k_scale"][:, None],
        v.astype(float) * 3.0,
        AttentionParams(64**-0.5),
    )
    assert_reply(ask(actor, request), *exact, dtype=BF16 if out_dtype is DType.BF16 else np.float16)


def sinks_and_slopes(*slopes_shape):
    return {
        "sink_logits": random(4, seed=5, dtype=np.float32),
        "alibi_slopes": np.abs(random(*slopes_shape, seed=6, dtype=np.float32)),
    }


@pytest.mark.parametrize("given", [False, True], ids=["allocated", "given"])
@pytest.mark.parametrize("slopes_shape", [(4,), (2, 4)])
def test_gradients_of_sinks_and_slopes(actor, slopes_shape, given):
    q, k, v = random(2, 9, 4, 64), random(2, 13, 2, 64, seed=1), random(2, 13, 2, 64, seed=2)
    dout, vectors = random(2, 9, 4, 64, seed=3), sinks_and_slopes(*slopes_shape)
    params = AttentionParams(64**-0.5, window_right=0, **vectors)
    out, lse = reference.forward(q, k, v, params)
    into = {"dsink_logits": np.zeros(4, np.float32), "dalibi_slopes": np.zeros(slopes_shape, np.float32)}
    request = Fa2BwdRequest.from_arrays(
        dout,
        q,
        k,
        v,
        out.astype(BF16),
        lse.astype(np.float32),
        mask=MaskKind.causal(),
        **vectors,
        **(into if given else {}),
    )
    reply, exact = ask(actor, request), reference.backward(dout, q, k, v, params)
    for name, array in into.items():
        assert getattr(reply, name).dtype == np.float32
        assert_rounded(getattr(reply, name), getattr(exact, name))
        assert (getattr(reply, name) is array) == given


def test_without_sinks_and_slopes_there_are_no_such_gradients(actor):
    x = random(1, 4, 2, 64)
    lse = np.zeros((1, 2, 4), np.float32)
    reply = ask(actor, Fa2BwdRequest.from_arrays(x, x, x, x, x, lse))
    assert reply.dsink_logits is None
    assert reply.dalibi_slopes is None


CU_Q, CU_K = np.array([0, 4, 4, 10], np.int32), np.array([0, 5, 6, 12], np.int32)
USED = {"seqused_q": np.array([3, 0, 6], np.int32), "seqused_k": np.array([5, 1, 2], np.int32)}


def test_packed_sequences_that_are_used_in_part(actor):
    """12 and 14 rows, of which the last two belong to no sequence and stay as they are."""
    q, k, v = random(12, 4, 64), random(14, 2, 64, seed=1), random(14, 2, 64, seed=2)
    out, lse = np.full((12, 4, 64), 7.0, BF16), np.full((4, 12), 7.0, np.float32)
    request = VarlenFwdRequest.from_arrays(
        q, k, v, CU_Q, CU_K, mask=MaskKind.causal(), out=out, lse=lse, **USED
    )
    reply = ask(actor, request)
    exact, exact_lse = reference.forward_varlen(q[:10], k[:12], v[:12], CU_Q, CU_K, CAUSAL, **USED)
    assert reply.out is out
    assert_rounded(out[:10], exact)
    assert_rounded(lse[:, :10], exact_lse)
    assert (out[10:] == 7.0).all()
    assert (lse[:, 10:] == 7.0).all()


def test_gradients_of_packed_sequences_that_are_used_in_part(actor):
    q, k, v = random(12, 4, 64), random(14, 2, 64, seed=1), random(14, 2, 64, seed=2)
    dout, dlse = random(12, 4, 64, seed=3), random(4, 12, seed=4, dtype=np.float32)
    vectors = sinks_and_slopes(3, 4)
    params = AttentionParams(64**-0.5, window_right=0, **vectors)
    into = {"dq": np.full(q.shape, 7.0, BF16), "dk": np.full(k.shape, 7.0, BF16)}
    request = VarlenBwdRequest.from_arrays(
        dout,
        q,
        k,
        v,
        np.zeros_like(q),
        np.zeros((4, 12), np.float32),
        CU_Q,
        CU_K,
        mask=MaskKind.causal(),
        dlse=dlse,
        **vectors,
        **into,
        **USED,
    )
    reply = ask(actor, request)
    exact = reference.backward_varlen(
        dout[:10], q[:10], k[:12], v[:12], CU_Q, CU_K, params, dlse[:, :10], **USED
    )
    for name, rows in (("dq", 10), ("dk", 12), ("dv", 12)):
        assert_rounded(getattr(reply, name)[:rows], getattr(exact, name))
    assert (into["dq"][10:] == 7.0).all()
    assert (into["dk"][12:] == 7.0).all()
    assert_rounded(reply.dsink_logits, exact.dsink_logits)
    assert_rounded(reply.dalibi_slopes, exact.dalibi_slopes)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_packed_queries_over_an_fp8_cache(actor, layout):
    q, bounds = random(9, 4, 64), np.array([0, 1, 7], np.int32)
    shapes = [(6, 8, 2, dim) if layout == "NHD" else (6, 2, 8, dim) for dim in (64, 32)]
    pools = random(*shapes[0], seed=1, dtype=E4M3), random(*shapes[1], seed=2, dtype=E4M3)
    scales = {"k_scale": np.array([0.5, 2.0], np.float32), "v_scale": 0.25}
    out, lse = np.full((9, 4, 32), 7.0, BF16), np.full((4, 9), 7.0, np.float32)
    request = PagedAttentionRequest.from_arrays(
        q,
        *pools,
        TABLE,
        SEQ_LENS,
        layout=layout,
        cu_seqlens_q=bounds,
        mask=MaskKind.causal(),
        out=out,
        lse=lse,
        **scales,
    )
    ask(actor, request)
    exact, exact_lse = reference.forward_paged(
        q[:7], *pools, TABLE, SEQ_LENS, CAUSAL, layout, cu_seqlens_q=bounds, **scales
    )
    assert_rounded(out[:7], exact)
    assert_rounded(lse[:, :7], exact_lse)
    assert (out[7:] == 7.0).all()
    assert (lse[:, 7:] == 7.0).all()


def test_guarded_pages(actor):
    q, pools = random(2, 3, 4, 64), (random(6, 8, 2, 64, seed=1), random(6, 8, 2, 64, seed=2))
    table = np.array([[4, 99], [-1, 5]], np.int32)
    request = PagedAttentionRequest.from_arrays(
        q, *pools, table, SEQ_LENS, guard=True, mask=MaskKind.causal()
    )
    exact = reference.forward_paged(q, *pools, table, SEQ_LENS, CAUSAL, guard=True)
    assert_reply(ask(actor, request), *exact)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_decode_with_append_rotary_and_an_fp8_cache(actor, paged, interleaved):
    q, k, v = random(2, 1, 4, 64), random(2, 1, 2, 64, seed=1), random(2, 1, 2, 64, seed=2)
    shape = (6, 8, 2, 64) if paged else (2, 16, 2, 64)
    caches = [random(*shape, seed=3, dtype=E4M3), random(*shape, seed=4, dtype=E4M3)]
    angle = np.random.default_rng(5).uniform(0, 6, (16, 16)).astype(np.float32)
    options = {
        "rotary_cos": np.cos(angle),
        "rotary_sin": np.sin(angle),
        "rotary_interleaved": interleaved,
        "k_scale": np.array([0.5, 2.0], np.float32),
        "v_scale": 0.25,
        "page_table": TABLE if paged else None,
    }
    lengths = np.array([3, 15], np.int32)
    copies = [cache.copy() for cache in caches]
    exact = reference.forward_chunked(q, k, v, *copies, lengths, CAUSAL, **options)
    request = ChunkedPrefillRequest.from_arrays(
        q, k, v, *caches, chunk=ChunkLayout(1, 15), prefix_lens=lengths, mask=MaskKind.causal(), **options
    )
    assert_reply(ask(actor, request), *exact)
    for cache, copy in zip(caches, copies, strict=True):
        np.testing.assert_array_equal(cache.view(np.uint8), copy.view(np.uint8))


def test_a_guarded_chunk(actor):
    q, k, v = random(2, 3, 4, 64), random(2, 3, 2, 64, seed=1), random(2, 3, 2, 64, seed=2)
    caches = [random(6, 8, 2, 64, seed=3), random(6, 8, 2, 64, seed=4)]
    table = np.array([[4, 99], [3, 5]], np.int32)
    copies = [cache.copy() for cache in caches]
    exact = reference.forward_chunked(q, k, v, *copies, 7, CAUSAL, table, guard=True)
    request = ChunkedPrefillRequest.from_arrays(
        q, k, v, *caches, chunk=ChunkLayout(3, 7), page_table=table, guard=True, mask=MaskKind.causal()
    )
    assert_reply(ask(actor, request), *exact)
    np.testing.assert_array_equal(caches[0], copies[0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["allocated", "given"])
def test_merged_states(actor, packed, given):
    shape, lse_shape = ((5, 4, 64), (4, 5)) if packed else ((2, 5, 4, 64), (2, 4, 5))
    states = [random(*shape), random(*lse_shape, dtype=np.float32)]
    states += [random(*shape, seed=1), random(*lse_shape, seed=1, dtype=np.float32)]
    states[1][..., :2] = states[3][..., 1:3] = -np.inf
    into = {"out": np.zeros(shape, BF16), "lse": np.zeros(lse_shape, np.float32)} if given else {}
    reply = ask(actor, MergeStatesRequest.from_arrays(*states, **into))
    assert_reply(reply, *reference.merge_states(*states))
    for name, array in into.items():
        assert getattr(reply, name) is array
