"""Arguments at the edge of what a plan can hold, in the emulator."""

import ml_dtypes
import numpy as np
from samples import normal

from flashactor import Fa2FwdFp8Request, PagedAttentionRequest, SmArch, VarlenFwdRequest, explain
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import with_outputs
from flashactor.executors.reference import compute
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.select import choose_family
from flashactor.kernels.sm80_forward import SM80
from flashactor.types import MaskKind

BF16, FP8 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
rng = np.random.default_rng(0)


def emulated(request, arch=SmArch.SM80):
    """The launches, and out."""
    arrays = with_outputs(request, request.arrays())
    family = choose_family(request, arch)
    return emulate(request, arch, family, arrays), arrays["out"].to_numpy().astype(np.float64)


def paged(d=64, dtype=BF16, length=40, **options):
    rows = -(-d // 16) * 16  # padded to whole chunks
    caches = (normal(rng, 4, 16, 1, rows).astype(dtype)[..., :d] for _ in "kv")
    table, lens = np.array([[0, 1, 2]], np.int32), np.array([length], np.int32)
    return PagedAttentionRequest.from_arrays(normal(rng, 1, 1, 2, d), *caches, table, lens, **options), lens


def test_no_query_launches_no_empty_grid():
    k = normal(rng, 4096, 1, 64)
    cu_q, cu_k = np.array([0, 0], np.int32), np.array([0, 4096], np.int32)
    request = VarlenFwdRequest.from_arrays(np.zeros((0, 4, 64), BF16), k, k, cu_q, cu_k)
    results, out = emulated(request)
    assert forward_shape(request, SmArch.SM80, SM80).num_splits > 1
    assert (len(results), out.shape) == (1, (0, 4, 64))


def test_no_query_launches_nothing_on_hopper():
    k, cu_q, cu_k = normal(rng, 70, 1, 64), np.zeros(3, np.int32), np.array([0, 40, 70], np.int32)
    request = VarlenFwdRequest.from_arrays(np.zeros((0, 4, 64), BF16), k, k, cu_q, cu_k)
    results, out = emulated(request, SmArch.SM90A)
    assert (results, out.shape) == ((), (0, 4, 64))


def test_no_key_of_any_sequence_on_hopper():
    q, none = normal(rng, 70, 2, 64), np.zeros((0, 1, 64), BF16)
    cu_q, cu_k = np.array([0, 40, 70], np.int32), np.zeros(3, np.int32)
    _, out = emulated(VarlenFwdRequest.from_arrays(q, none, none, cu_q, cu_k), SmArch.SM90A)
    assert not out.any()


def test_a_guard_also_holds_for_lengths_beyond_the_table():
    request, lens = paged(guard=True)
    lens[0] = 60  # as when a captured graph is replayed
    _, out = emulated(request)
    assert np.isfinite(out).all()


def test_rows_of_fp8_are_whole_chunks():
    request, _ = paged(24, FP8)
    refused = next(c for c in explain(request, SmArch.SM80).candidates if c.implementation == "sm80_mma")
    assert refused.reasons[0] == "loads fp8 rows in 16 bytes, and head_dim is 24"


def test_a_descale_of_zero_makes_equal_scores():
    request, _ = paged(dtype=FP8, k_scale=np.full(1, 1e-17, np.float32))
    _, out = emulated(request)
    np.testing.assert_allclose(out, np.asarray(compute(request).out).astype(np.float64), atol=0.01)
    q, k, v = (normal(rng, 1, 30, 2, 64).astype(FP8) for _ in "qkv")
    fp8 = Fa2FwdFp8Request.from_arrays(q, k, v, k_scale=np.array([0, 1], np.float32))
    _, out = emulated(fp8, SmArch.SM89)
    np.testing.assert_allclose(out, np.asarray(compute(fp8).out).astype(np.float64), atol=0.1)


def test_splits_of_a_window_are_those_of_its_keys():
    q, cache = normal(rng, 1, 1, 2, 64), normal(rng, 1024, 128, 1, 64)
    table, lens = np.arange(1024, dtype=np.int32)[None], np.array([100_000], np.int32)
    options = {"mask": MaskKind.sliding_causal(3000), "batch_invariant": True}
    request = PagedAttentionRequest.from_arrays(q, cache, cache, table, lens, **options)
    assert forward_shape(request, SmArch.SM90A, SM80).num_splits == 2
    _, out = emulated(request)
    np.testing.assert_allclose(out, np.asarray(compute(request).out).astype(np.float64), atol=0.01)
