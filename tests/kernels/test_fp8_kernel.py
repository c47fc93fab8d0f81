"""The forward kernels of fp8 operands in the emulator, against the reference in float64."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from flashactor import DType, Fa2FwdFp8Request, Fa3FwdFp8Request, MaskKind, SmArch, explain, reference
from flashactor.errors import Fp8RequiresHopperError, NoKernelError
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import with_outputs
from flashactor.executors.reference import attention_params
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm80_fp8 import ARCHS, fp8_forward_specs

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
SLOPES = np.array([0.5, 0.25, 0.1, 0.05], np.float32)
SINKS = np.array([0.5, -1.0, 2.0, 0.0], np.float32)


def operands(seqlen_q, seqlen_k, heads=(2, 1), head_dim=64, head_dim_v=None, *, batch=1, k=E4M3, v=E4M3):
    """q, k and v in fp8."""
    rng = np.random.default_rng(seqlen_q * 1000 + seqlen_k)
    shapes = (
        (batch, seqlen_q, heads[0], head_dim),
        (batch, seqlen_k, heads[1], head_dim),
        (batch, seqlen_k, heads[1], head_dim_v or head_dim),
    )
    return tuple(rng.standard_normal(s).astype(dtype) for s, dtype in zip(shapes, (E4M3, k, v), strict=True))


def descales(scale, heads):
    """One for each head."""
    values = scale if isinstance(scale, float) else scale.to_numpy().reshape(-1)
    return np.broadcast_to(values, heads).astype(np.float64)


def expected(request):
    """out and lse in float64, and out as tensor cores compute it."""
    views, params = request.require_operands(), attention_params(request)
    arrays = [view.to_numpy() for view in (views.q, views.k, views.v)]
    scales = [
        descales(scale, x.shape[2])
        for scale, x in zip((request.q_scale, request.k_scale, request.v_scale), arrays, strict=True)
    ]
    real = [reference.dequantize(x, scale) for x, scale in zip(arrays, scales, strict=True)]
    exact, lse = reference.forward(*real, params)
    low = np.empty(exact.shape)
    for head in range(exact.shape[2]):
        # Dropout depends on the head's number, so each head is computed among all.
        kv = head // request.gqa_ratio
        scale = request.scale * float(scales[0][head] * scales[1][kv])
        part, _ = reference.forward_low_precision(
            *arrays, replace(params, softmax_scale=scale), "e4m3", request.out_dtype.tag
        )
        low[:, :, head] = part[:, :, head].astype(np.float64) * scales[2][kv]
    return exact, lse, low


def run(request, arch=SmArch.SM89, **options):
    """Compute a request with the kernels, require what the reference says of it; results of the launches."""
    arrays = with_outputs(request, request.arrays())
    results = emulate(request, arch, SM80, arrays, **options)
    exact, exact_lse, low = expected(request)
    out, lse = arrays["out"].to_numpy(), arrays["lse"].to_numpy()
    assert out.dtype.name == request.out_dtype.numpy_name
    rounding = float(ml_dtypes.finfo(out.dtype).eps) / 2 * np.abs(exact).max()
    allowed = max(2 * np.abs(low - exact).max(), rounding)
    assert np.abs(out.astype(np.float64) - exact).max() <= allowed
    np.testing.assert_allclose(lse, exact_lse, atol=1e-4, rtol=1e-6)
    return results


def dense(*args, request_type=Fa2FwdFp8Request, types=(E4M3, E4M3), batch=1, **options):
    """A request over random operands."""
    q, k, v = operands(*args, batch=batch, k=types[0], v=types[1])
    return request_type.from_arrays(q, k, v, **options)


MASKS = {
    "full": {},
    "causal": {"mask": MaskKind.causal()},
    "window": {"mask": MaskKind.sliding(20, 7)},
    "left": {"mask": MaskKind.sliding(-1, 5)},
    "causal window and sinks": {"mask": MaskKind.sliding_causal(40), "sink_tokens": 5},
    "window and sinks": {"mask": MaskKind.sliding(40, 3), "sink_tokens": 70},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("shape", [(150, 300), (150, 75), (20, 130)], ids=str)
def test_masks(options, shape):
    run(dense(*shape, (4, 2), **options))


@pytest.mark.parametrize("out_dtype", [DType.F16, DType.BF16])
@pytest.mark.parametrize("v", [E4M3, E5M2])
@pytest.mark.parametrize("k", [E4M3, E5M2])
def test_every_combination_of_types(k, v, out_dtype):
    run(dense(40, 150, (4, 2), types=(k, v), out_dtype=out_dtype, mask=MaskKind.causal()))
    run(dense(1, 150, (4, 2), types=(k, v), out_dtype=out_dtype))


Q_SCALES = np.array([0.5, 1.0, 2.0, 0.7, 0.1, 3.0, 1.5, 0.25], np.float32)
KV_SCALES = np.array([1.5, 0.4], np.float32)
DESCALES = {
    "numbers": (0.5, 1.5, 3.0),
    "device numbers": (Q_SCALES[:1], KV_SCALES[:1], KV_SCALES[1:]),
    "arrays of rank 0": (Q_SCALES[3].reshape(()), KV_SCALES[0].reshape(()), KV_SCALES[1].reshape(())),
    "per head": (Q_SCALES, KV_SCALES, KV_SCALES[::-1].copy()),
    "mixed": (Q_SCALES, 0.5, KV_SCALES),
}
LENGTHS = {"tiles of one head": 140, "heads share a tile": 20, "decode": 2}
SCORES = {"plain": {}, "softcap": {"softcap": 3.0}, "sinks": {"sink_logits": np.tile(SINKS, 2)}}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("seqlen_q", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("scales", DESCALES.values(), ids=DESCALES)
def test_descales(scales, seqlen_q, scores):
    q_scale, k_scale, v_scale = scales
    run(dense(seqlen_q, 150, (8, 2), q_scale=q_scale, k_scale=k_scale, v_scale=v_scale, **scores))


HEAD_DIMS = [
    (16, 16),
    (32, 32),
    (48, 48),
    (64, 64),
    (80, 80),
    (96, 96),
    (128, 128),
    (144, 144),
    (192, 128),
    (256, 256),
]


@pytest.mark.parametrize("seqlen_q", [35, 1])
@pytest.mark.parametrize(("head_dim", "head_dim_v"), [*HEAD_DIMS, (128, 64), (64, 112), (240, 16)])
def test_head_dims(head_dim, head_dim_v, seqlen_q):
    run(dense(seqlen_q, 150, (2, 1), head_dim, head_dim_v, mask=MaskKind.causal()))


@pytest.mark.parametrize(
    "scores", [{}, {"alibi_slopes": np.tile(SLOPES, 2)}, {"sink_logits": np.tile(SINKS, 2)}]
)
def test_decode_with_splits(scores):
    request = dense(2, 1500, (8, 2), mask=MaskKind.causal(), q_scale=Q_SCALES, k_scale=KV_SCALES, **scores)
    shape = forward_shape(request, SmArch.SM89, SM80)
    assert shape.num_splits > 1
    assert (shape.pack, shape.spec.tile.key_warps) == (4, 4)
    assert [spec.kind for spec in choose_kernels(request, SmArch.SM89)] == ["fwd_fp8", "combine"]
    run(request)


def test_splits_of_whole_tiles():
    request = dense(33, 1100, (2, 1), v_scale=0.5, out_dtype=DType.F16)
    shape = forward_shape(request, SmArch.SM89, SM80)
    assert (shape.num_splits > 1, shape.spec.tile.key_warps) == (True, 1)
    run(request)


def test_batch_invariant():
    run(dense(3, 2200, (4, 2), batch_invariant=True, mask=MaskKind.causal()))


@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 5.0, "alibi_slopes": SLOPES, "sink_logits": SINKS},
        {"alibi_slopes": np.stack([SLOPES, SLOPES[::-1]]), "mask": MaskKind.causal()},
        {"dropout_p": 0.3, "dropout_seed": 12345678901, "dropout_offset": 7, "mask": MaskKind.causal()},
        {"dropout_p": 0.5, "softcap": 2.0, "alibi_slopes": SLOPES},
        {"softmax_scale": 3.0},
    ],
    ids=lambda options: "+".join(options),
)
def test_scores(options):
    run(dense(40, 150, (4, 2), batch=2, **options))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256])
def test_the_tiles_of_every_architecture(head_dim, arch):
    for seqlen_q in (70, 1):
        run(dense(seqlen_q, 135, (2, 1), head_dim, mask=MaskKind.causal()), arch)


def test_strided_operands():
    q, k, v = operands(40, 150, (4, 2), batch=2)
    wide = np.zeros((2, 150, 2, 96), E4M3)
    wide[..., :64] = v
    out = np.zeros((2, 4, 40, 72), np.float16).swapaxes(1, 2)[..., :64]
    heads_first = np.ascontiguousarray(k.swapaxes(1, 2)).swapaxes(1, 2)
    run(Fa2FwdFp8Request.from_arrays(q, heads_first, wide[..., :64], out=out, mask=MaskKind.causal()))


def test_keys_beyond_a_ragged_end_do_not_count():
    q, k, v = operands(33, 150)
    k[:, 77:], v[:, 77:] = np.nan, np.nan
    run(Fa2FwdFp8Request.from_arrays(q, k[:, :77], v[:, :77]))


@pytest.mark.parametrize("seqlen_q", [20, 2])
def test_races_and_every_schedule(seqlen_q):
    request = dense(seqlen_q, 300, (2, 1), types=(E4M3, E5M2), mask=MaskKind.causal())
    (result,) = run(request, races=True, schedule="all")
    assert result.is_deterministic


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("seqlen_q", [140, 20, 1])
def test_no_bank_conflicts(head_dim, seqlen_q):
    results = run(dense(seqlen_q, 300, (2, 1), head_dim, mask=MaskKind.causal()), report=True)
    for line in results[0].memory_lines:
        assert line.space == "global" or line.transactions == line.ideal


def test_fa3_requests_with_keys_in_e5m2_take_the_same_kernels():
    request = dense(20, 100, request_type=Fa3FwdFp8Request, types=(E5M2, E4M3))
    chosen = explain(request).chosen
    assert chosen.implementation == "sm80_mma"
    assert [spec.label.split(".")[1:3] for spec in chosen.kernels] == [["fwd_fp8", "e4m3"]]
    assert chosen.kernels[0].k_dtype is DType.F8E5M2
    run(request, SmArch.SM90A)


def test_a_bare_cell_may_take_all_kernels_like_it():
    request = Fa2FwdFp8Request(SmArch.SM120, DType.F8E4M3, 64, kv_dtype=DType.F8E5M2, out_dtype=DType.F16)
    kernels = choose_kernels(request, SmArch.SM120)
    assert [(spec.kind, spec.dtype) for spec in kernels] == [
        ("fwd_fp8", DType.F8E4M3),
        ("fwd_fp8", DType.F8E4M3),
        ("combine", DType.F16),
    ]
    assert set(kernels[:2]) <= set(fp8_forward_specs(SmArch.SM120))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": DType.F8E5M2}, "takes q in e4m3, not in e5m2"),
        ({"head_dim": 72}, "loads fp8 rows in 16 bytes, and head_dim is 72"),
        ({"head_dim_v": 24}, "loads fp8 rows in 16 bytes, and head_dim_v is 24"),
        ({"k_scale": 0.0}, "takes descales of q and k that are positive, and k_scale is 0"),
        ({"q_scale": -1.0}, "takes descales of q and k that are positive, and q_scale is -1"),
    ],
)
def test_reasons_against(changes, reason):
    fields = {"arch": SmArch.SM89, "dtype": DType.F8E4M3, "head_dim": 64, "head_dim_v": 64} | changes
    request = Fa2FwdFp8Request(**fields)
    (found,) = (each for each in explain(request).candidates if each.implementation == "sm80_mma")
    assert found.reasons == (reason,)
    with pytest.raises(NoKernelError):
        choose_kernels(request, SmArch.SM89)


@pytest.mark.parametrize("arch", [SmArch.SM80, SmArch.SM86])
def test_no_kernel_where_fp8_is_not_multiplied(arch):
    with pytest.raises(Fp8RequiresHopperError):
        choose_kernels(Fa2FwdFp8Request(None, DType.F8E4M3, 64), arch)
    assert fp8_forward_specs(arch) == ()


def test_every_other_architecture_has_kernels():
    assert {arch for arch in SmArch if fp8_forward_specs(arch)} == set(ARCHS)
