"""The emulator executor through the actor: the real kernels, compiled here, on arrays of the host."""

import re

import ml_dtypes
import numpy as np
import pytest
import torch

from flashactor import (
    DType,
    Fa2FwdRequest,
    Fa3FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    MaskKind,
    PersistentMode,
    SmArch,
    VarlenFwdRequest,
    reference,
    workspace_size,
)
from flashactor.compiler.nvrtc import compile_ptx
from flashactor.errors import (
    DataRaceError,
    MissingOperandsError,
    NoKernelError,
    RequestError,
    UninitializedReadError,
)
from flashactor.executors import emulator as executor_module
from flashactor.executors.emulator import EmulatorExecutor, kernel_ptx
from flashactor.reference import AttentionParams


@pytest.fixture(scope="module")
def actor():
    with FlashAttnActor.start(executor="emulator") as running:
        yield running


def arrays(dtype=np.float16, seqlen_q=70, seqlen_k=90, heads=4, heads_kv=2, head_dim=64):
    """q, k and v of one sequence."""
    rng = np.random.default_rng(7)
    q = rng.standard_normal((1, seqlen_q, heads, head_dim)).astype(dtype)
    k, v = (rng.standard_normal((1, seqlen_k, heads_kv, head_dim)).astype(dtype) for _ in range(2))
    return q, k, v


def expect(reply, q, k, v, *, causal):
    """Require the reference's results, to the precision of the type."""
    params = AttentionParams(softmax_scale=q.shape[-1] ** -0.5, window_right=0 if causal else -1)
    out, lse = reference.forward(q, k, v, params)
    low, _ = reference.forward_low_precision(q, k, v, params, str(q.dtype))
    error = np.abs(np.asarray(reply.out, np.float64) - out).max()
    assert error <= 2 * np.abs(low.astype(np.float64) - out).max()
    np.testing.assert_allclose(reply.lse, lse, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_computes_attention(actor, dtype, causal):
    q, k, v = arrays(dtype)
    mask = MaskKind.causal() if causal else MaskKind.full()
    reply = actor.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, mask=mask))).result()
    assert reply.executor == "emulator"
    assert reply.out.dtype == q.dtype
    expect(reply, q, k, v, causal=causal)


@pytest.mark.parametrize("arch", SmArch)
def test_each_architecture_runs_its_own_kernel(actor, arch):
    q, k, v = arrays(head_dim=40)
    request = Fa2FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal(), arch=arch)
    expect(actor.ask(FlashAttnMsg.forward(request)).result(), q, k, v, causal=True)


def test_torch_tensors_go_in_and_come_out(actor):
    q, k, v = (torch.from_numpy(x).to(torch.bfloat16) for x in arrays(np.float32))
    out = torch.full((1, 4, 70, 64), torch.nan, dtype=torch.bfloat16).transpose(1, 2)
    reply = actor.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, out=out))).result()
    assert reply.out is out
    assert isinstance(reply.lse, torch.Tensor)
    numpy = [x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) for x in (q, k, v)]
    want, _ = reference.forward(*numpy, AttentionParams(softmax_scale=0.125))
    np.testing.assert_allclose(out.float().numpy(), want, atol=0.02)


def test_what_lies_between_rows_is_neither_read_nor_written(actor):
    q, k, v = arrays()
    wide = [np.full((*x.shape[:-1], 72), np.nan, x.dtype) for x in (q, k, v, q)]
    for memory, x in zip(wide, (q, k, v), strict=False):
        memory[..., :64] = x
    padded = [memory[..., :64] for memory in wide]
    request = Fa2FwdRequest.from_arrays(*padded[:3], out=padded[3])
    reply = actor.ask(FlashAttnMsg.forward(request)).result()
    expect(reply, q, k, v, causal=False)
    assert np.isnan(wide[3][..., 64:]).all()


def test_overlapping_views_of_one_buffer_are_inputs_like_any_other(actor):
    packed = np.random.default_rng(0).standard_normal((1, 50, 3, 4, 64)).astype(np.float16)
    q, k, v = (packed[:, :, index] for index in range(3))
    reply = actor.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v))).result()
    expect(reply, q, k, v, causal=False)


def test_a_request_without_a_kernel_says_why(actor):
    q, k, v = arrays()
    elsewhere = Fa2FwdRequest.from_arrays(q, k, v, implementation="reference")
    with pytest.raises(NoKernelError, match="computes on the host, not on the device"):
        actor.ask(FlashAttnMsg.forward(elsewhere)).result()


def test_a_bare_cell_has_nothing_to_compute(actor):
    cell = Fa2FwdRequest(SmArch.SM80, DType.F16, 64)
    with pytest.raises(MissingOperandsError):
        actor.ask(FlashAttnMsg.forward(cell)).result()


def test_an_executor_for_one_architecture_refuses_requests_for_another():
    q, k, v = arrays()
    request = Fa2FwdRequest.from_arrays(q, k, v, arch=SmArch.SM90A)
    with (
        FlashAttnActor.start(executor=EmulatorExecutor(SmArch.SM80)) as actor,
        pytest.raises(RequestError, match="arch"),
    ):
        actor.ask(FlashAttnMsg.forward(request)).result()


@pytest.fixture
def compiled_anew():
    """Kernels that this test alone sees."""
    kernel_ptx.cache_clear()
    yield
    kernel_ptx.cache_clear()


@pytest.mark.usefixtures("compiled_anew")
def test_a_fault_of_the_kernel_is_the_answer_and_names_its_lines(monkeypatch):
    def without_barriers(spec, **options):
        return compile_ptx(spec, **options).replace("bar.sync \t0;", "")

    monkeypatch.setattr(executor_module, "compile_ptx", without_barriers)
    q, k, v = arrays()
    message = FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v))
    with FlashAttnActor.start(executor=EmulatorExecutor(races=True)) as actor:
        with pytest.raises((DataRaceError, UninitializedReadError)) as caught:
            actor.ask(message).result()
        at = caught.value.at
        assert at.kernel == "flash_fwd_sm80"
        assert at.cuda_line is not None
        assert re.fullmatch(r"\w+/\w+.cuh\(\d+\)( in sm80/\w+.cuh?\(\d+\))+", at.cuda_line)
        assert at.block is not None
        assert at.thread is not None
        monkeypatch.undo()
        kernel_ptx.cache_clear()
        assert actor.ask(message).result().out is not None  # the actor goes on


def test_scratch_memory_comes_from_nowhere_or_from_the_caller(actor):
    """Few queries over many keys: two kernels, with partial results between them."""
    q, k, v = arrays(seqlen_q=1, seqlen_k=1100)
    for options in ({}, {"workspace": "given"}):
        if options:
            size = workspace_size(Fa2FwdRequest.from_arrays(q, k, v))
            assert size > 0
            options = {"workspace": np.empty(size, np.uint8)}
        reply = actor.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, **options))).result()
        expect(reply, q, k, v, causal=False)


def test_a_sequence_may_be_shorter_than_its_array(actor):
    q, k, v = (x[0] for x in arrays())
    offsets = [np.array(x, np.int32) for x in ([0, 20, 60], [0, 50, 90])]
    used = [np.array(x, np.int32) for x in ([11, 40], [50, 33])]
    request = VarlenFwdRequest.from_arrays(
        q, k, v, *offsets, seqused_q=used[0], seqused_k=used[1], out=np.full_like(q, 7)
    )
    reply = actor.ask(FlashAttnMsg.forward(request)).result()
    params = AttentionParams(softmax_scale=q.shape[-1] ** -0.5)
    want, lse = reference.forward_varlen(q[:60], k, v, *offsets, params, *used)
    np.testing.assert_allclose(reply.out[:60].astype(np.float64), want, atol=0.002)
    np.testing.assert_allclose(reply.lse[:, :60], lse, atol=1e-4)
    assert (reply.out[11:20] == 0).all()
    assert (reply.out[60:] == 7).all()  # rows of no sequence


@pytest.mark.parametrize("persistent", [PersistentMode.grid(), PersistentMode.persistent(1)], ids=str)
def test_a_request_of_the_hopper_generation_runs_by_tma_and_wgmma(actor, monkeypatch, persistent):
    launched = []

    def ptx(spec):
        launched.append(spec.label)
        return kernel_ptx(spec)

    monkeypatch.setattr(executor_module, "kernel_ptx", ptx)
    q, k, v = arrays(heads=2)
    request = Fa3FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal(), persistent=persistent)
    expect(actor.ask(FlashAttnMsg.forward(request)).result(60), q, k, v, causal=True)
    assert all(label.startswith("sm90_wgmma.fwd.f16.d64.plain") for label in launched)
    assert launched
