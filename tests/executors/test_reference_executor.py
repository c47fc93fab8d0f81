"""The reference executor through the actor: every request type, every library, results where they belong."""

import asyncio

import ml_dtypes
import numpy as np
import pytest
import torch

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    Fa3FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    MaskKind,
    PagedAttentionRequest,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
    reference,
)
from flashactor.errors import MissingOperandsError, OperandError
from flashactor.reference import AttentionParams

BF16 = ml_dtypes.bfloat16
SCALE = 64**-0.5
CAUSAL = AttentionParams(softmax_scale=SCALE, window_right=0)


@pytest.fixture(scope="module")
def actor():
    with FlashAttnActor.start(executor="reference") as running:
        yield running


def random(*shape, seed=0, dtype=BF16):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def dense(seqlen_q=9, seqlen_k=13):
    return random(2, seqlen_q, 4, 64), random(2, seqlen_k, 2, 64, seed=1), random(2, seqlen_k, 2, 64, seed=2)


def ask(actor, request):
    send = FlashAttnMsg.backward if request.DIRECTION.value == "bwd" else FlashAttnMsg.forward
    return actor.ask(send(request)).result(30)


def assert_rounded(actual, exact):
    np.testing.assert_array_equal(actual, exact.astype(actual.dtype))


@pytest.mark.parametrize("request_type", [Fa2FwdRequest, Fa3FwdRequest])
def test_dense_forward(actor, request_type):
    q, k, v = dense()
    reply = ask(actor, request_type.from_arrays(q, k, v, mask=MaskKind.causal()))
    out, lse = reference.forward(q, k, v, CAUSAL)
    assert_rounded(reply.out, out)
    assert_rounded(reply.lse, lse)
    assert (reply.out.dtype, reply.lse.dtype) == (BF16, np.float32)
    assert reply.executor == "reference"
    assert reply.dq is None
    assert reply.timings.launched > 0


def test_torch_in_torch_out(actor):
    q, k, v = (torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16) for x in dense())
    reply = ask(actor, Fa2FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal()))
    assert isinstance(reply.out, torch.Tensor)
    assert (reply.out.dtype, reply.lse.dtype) == (torch.bfloat16, torch.float32)
    group = {"enable_gqa": True, "scale": SCALE}
    mask = torch.ones(9, 13, dtype=torch.bool).tril(13 - 9)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.double().transpose(1, 2), k.double().transpose(1, 2), v.double().transpose(1, 2), mask, **group
    ).transpose(1, 2)
    torch.testing.assert_close(reply.out.double(), expected, rtol=2**-8, atol=1e-6)


def test_the_callers_outputs_are_written_in_place(actor):
    q, k, v = dense()
    out = np.zeros((2, 9, 4, 128), BF16)[..., :64]
    lse = np.zeros((2, 4, 9), np.float32)
    reply = ask(actor, Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse))
    assert reply.out is out
    assert reply.lse is lse
    exact, exact_lse = reference.forward(q, k, v, AttentionParams(softmax_scale=SCALE))
    assert_rounded(out, exact)
    assert_rounded(lse, exact_lse)


def test_every_option_arrives(actor):
    q, k, v = dense(17, 17)
    slopes, logits = np.linspace(0.1, 0.4, 4, dtype=np.float32), np.linspace(-1, 1, 4, dtype=np.float32)
    request = Fa2FwdRequest.from_arrays(
        q,
        k,
        v,
        mask=MaskKind.sliding_causal(5),
        sink_tokens=2,
        softmax_scale=0.2,
        softcap=3.0,
        dropout_p=0.25,
        dropout_seed=7,
        dropout_offset=3,
        alibi_slopes=slopes,
        sink_logits=logits,
    )
    params = AttentionParams(0.2, 4, 0, 2, 3.0, slopes, logits, 0.25, 7, 3)
    out, lse = reference.forward(q, k, v, params)
    reply = ask(actor, request)
    assert_rounded(reply.out, out)
    assert_rounded(reply.lse, lse)


def test_fp8_with_descales(actor):
    q, k, v = (random(1, 6, 2, 64, seed=s, dtype=ml_dtypes.float8_e4m3fn) for s in range(3))
    scale = np.array([0.25], np.float32)
    reply = ask(actor, Fa3FwdFp8Request.from_arrays(q, k, v, q_scale=0.5, k_scale=2.0, v_scale=scale))
    exact, _ = reference.forward(
        q.astype(float) * 0.5, k.astype(float) * 2.0, v.astype(float) * 0.25, AttentionParams(SCALE)
    )
    assert reply.out.dtype == BF16
    assert_rounded(reply.out, exact)


def test_dense_backward(actor):
    q, k, v = dense()
    dout = random(2, 9, 4, 64, seed=3)
    dlse = random(2, 4, 9, seed=4, dtype=np.float32)
    out, lse = reference.forward(q, k, v, CAUSAL)
    request = Fa2BwdRequest.from_arrays(
        dout, q, k, v, out.astype(BF16), lse.astype(np.float32), dlse=dlse, mask=MaskKind.causal()
    )
    reply = ask(actor, request)
    exact = reference.backward(dout, q, k, v, CAUSAL, dlse=dlse)
    for name in ("dq", "dk", "dv"):
        assert_rounded(getattr(reply, name), getattr(exact, name))
    assert reply.out is None


def packed():
    cu_q, cu_k = np.array([0, 4, 4, 10], np.int32), np.array([0, 5, 6, 12], np.int32)
    return random(10, 4, 64), random(12, 2, 64, seed=1), random(12, 2, 64, seed=2), cu_q, cu_k


def test_varlen_forward(actor):
    arrays = packed()
    reply = ask(actor, VarlenFwdRequest.from_arrays(*arrays, mask=MaskKind.causal()))
    out, lse = reference.forward_varlen(*arrays, CAUSAL)
    assert_rounded(reply.out, out)
    assert_rounded(reply.lse, lse)


def test_varlen_backward(actor):
    q, k, v, cu_q, cu_k = packed()
    dout = random(10, 4, 64, seed=3)
    out, lse = reference.forward_varlen(q, k, v, cu_q, cu_k, CAUSAL)
    request = VarlenBwdRequest.from_arrays(
        dout, q, k, v, out.astype(BF16), lse.astype(np.float32), cu_q, cu_k, mask=MaskKind.causal()
    )
    reply = ask(actor, request)
    exact = reference.backward_varlen(dout, q, k, v, cu_q, cu_k, CAUSAL)
    for name in ("dq", "dk", "dv"):
        assert_rounded(getattr(reply, name), getattr(exact, name))


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_paged_forward(actor, layout):
    q = random(2, 3, 4, 64)
    shape = (6, 8, 2, 64) if layout == "NHD" else (6, 2, 8, 64)
    pools = random(*shape, seed=1), random(*shape, seed=2)
    table, lengths = np.array([[4, 1], [3, 5]], np.int32), np.array([11, 16], np.int32)
    request = PagedAttentionRequest.from_arrays(
        q, *pools, table, lengths, layout=layout, mask=MaskKind.causal()
    )
    reply = actor.ask(FlashAttnMsg.paged_forward(request)).result(30)
    out, lse = reference.forward_paged(q, *pools, table, lengths, CAUSAL, layout=layout)
    assert_rounded(reply.out, out)
    assert_rounded(reply.lse, lse)


def test_chunks_add_up_to_one_prefill(actor):
    q, k, v = random(2, 12, 4, 64), random(2, 12, 2, 64, seed=1), random(2, 12, 2, 64, seed=2)
    caches = np.zeros((2, 16, 2, 64), BF16), np.zeros((2, 16, 2, 64), BF16)
    outs = []
    for index, start in enumerate((0, 5, 7)):
        stop = (5, 7, 12)[index]
        chunk = ChunkLayout(stop - start, start, 3, index)
        part = (x[:, start:stop] for x in (q, k, v))
        request = ChunkedPrefillRequest.from_arrays(*part, *caches, chunk=chunk, mask=MaskKind.causal())
        outs.append(ask(actor, request).out)
    whole, _ = reference.forward(q, k, v, CAUSAL)
    assert_rounded(np.concatenate(outs, 1), whole)
    np.testing.assert_array_equal(caches[0][:, :12], k)
    np.testing.assert_array_equal(caches[1][:, :12], v)


def test_a_bare_cell_is_missing_its_operands(actor):
    with pytest.raises(MissingOperandsError, match="from_arrays"):
        ask(actor, Fa2FwdRequest(SmArch.SM80, DType.BF16, 64))


def test_device_arrays_are_refused_with_the_remedy(actor):
    class OnDevice:
        def __init__(self, *shape):
            self.__cuda_array_interface__ = {
                "shape": shape,
                "typestr": "<f2",
                "data": (1 << 20, False),
                "version": 3,
            }

    q, k, v = OnDevice(1, 4, 2, 64), OnDevice(1, 4, 2, 64), OnDevice(1, 4, 2, 64)
    with pytest.raises(OperandError, match="use the cuda executor"):
        ask(actor, Fa2FwdRequest.from_arrays(q, k, v))


def test_await_does_not_block_the_loop(actor):
    q, k, v = random(1, 700, 8, 64), random(1, 700, 8, 64, seed=1), random(1, 700, 8, 64, seed=2)

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await asyncio.gather(
            *(actor.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v))) for _ in range(3))
        )
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) >= 3
