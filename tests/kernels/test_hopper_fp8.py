"""The forward kernels of fp8 operands for Hopper: which requests run them, and what they compute in the
emulator, against the reference in float64."""

import ml_dtypes
import numpy as np
import pytest

from flashactor import (
    DType,
    Fa2FwdFp8Request,
    Fa3FwdFp8Request,
    MaskKind,
    PersistentMode,
    SmArch,
    explain,
)
from flashactor.check.judge import judge
from flashactor.check.oracle import expected_of
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import require_arrays, with_outputs
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.sm90_forward import SM90
from flashactor.kernels.sm90_fp8 import (
    FP8_TILE_TABLES,
    hopper_fp8_spec,
    hopper_fp8_specs,
)
from flashactor.kernels.spec import Scores

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
BEYOND = 8
"""Keys in memory behind the last one, all NaN."""


def operands(seqlen_q, seqlen_k, heads=(2, 1), head_dim=64, head_dim_v=None, *, batch=1, v=E4M3):
    """q, k and v in fp8, and NaN behind the last key of k and v."""
    rng = np.random.default_rng(seqlen_q * 1000 + seqlen_k)

    def keys(dim, dtype):
        rows = rng.standard_normal((batch, seqlen_k + BEYOND, heads[1], dim)).astype(dtype)
        rows[:, seqlen_k:] = np.nan
        return rows[:, :seqlen_k]

    q = rng.standard_normal((batch, seqlen_q, heads[0], head_dim)).astype(E4M3)
    return q, keys(head_dim, E4M3), keys(head_dim_v or head_dim, v)


def dense(*args, batch=1, v=E4M3, out_dtype=ml_dtypes.bfloat16, request_type=Fa3FwdFp8Request, **options):
    """A request over random operands, with arrays for its results."""
    q, k, v = operands(*args, batch=batch, v=v)
    out = np.zeros((*q.shape[:-1], v.shape[-1]), out_dtype)
    lse = np.zeros((batch, q.shape[2], q.shape[1]), np.float32)
    return request_type.from_arrays(q, k, v, out=out, lse=lse, **options)


def run(request, **options):
    """Compute a request with the kernels, require what the reference says of it; results of the launches."""
    expected = expected_of(request)
    arrays = with_outputs(request, require_arrays(request))
    results = emulate(request, SmArch.SM90A, SM90, arrays, **options)
    assert judge({name: arrays[name].to_numpy() for name in expected}, expected).problem is None
    return results


def shape_of(request):
    return forward_shape(request, SmArch.SM90A, SM90)


# ---- what they compute
MASKS = {
    "full": {},
    "causal": {"mask": MaskKind.causal()},
    "window and sinks": {"mask": MaskKind.sliding(40, 3), "sink_tokens": 70},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("shape", [(150, 300), (150, 75)], ids=str)
def test_masks_and_ragged_ends(options, shape):
    run(dense(*shape, **options))


@pytest.mark.parametrize("out_dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("v", [E4M3, E5M2])
def test_types_of_v_and_out(v, out_dtype):
    run(dense(3, 150, v=v, out_dtype=out_dtype, mask=MaskKind.causal()))


@pytest.mark.parametrize(
    ("head_dim", "head_dim_v"),
    [(16, 16), (48, 80), (96, 96), (112, 128), (192, 128), (176, 192), (240, 16), (256, 256)],
)
@pytest.mark.parametrize("seqlen_q", [70, 1])
def test_head_dims(head_dim, head_dim_v, seqlen_q):
    run(dense(seqlen_q, 135, (1, 1), head_dim, head_dim_v, mask=MaskKind.causal()))


Q_SCALES = np.array([0.5, 1.0, 2.0, 0.7, 0.1, 3.0], np.float32)
KV_SCALES = np.array([1.5, 0.4], np.float32)
DESCALES = {
    "numbers": (0.5, 1.5, 3.0),
    "per head": (Q_SCALES, KV_SCALES, KV_SCALES[::-1].copy()),
    "mixed": (Q_SCALES, KV_SCALES[:1], 0.5),
}


@pytest.mark.parametrize("seqlen_q", [20, 2])
@pytest.mark.parametrize("scales", DESCALES.values(), ids=DESCALES)
def test_descales_of_heads_that_share_a_tile(scales, seqlen_q):
    q_scale, k_scale, v_scale = scales
    request = dense(seqlen_q, 150, (6, 2), q_scale=q_scale, k_scale=k_scale, v_scale=v_scale)
    assert shape_of(request).pack == 3
    run(request)


SLOPES = np.array([0.5, 0.25], np.float32)
SINKS = np.array([0.5, -1.0], np.float32)
SCORES = {
    "softcap": {"softcap": 3.0},
    "slopes and learned sinks": {"alibi_slopes": SLOPES, "sink_logits": SINKS, "mask": MaskKind.causal()},
}


@pytest.mark.parametrize("seqlen_q", [70, 2])
@pytest.mark.parametrize("options", SCORES.values(), ids=SCORES)
def test_scores(options, seqlen_q):
    run(dense(seqlen_q, 150, q_scale=2.0, **options))


def test_splits():
    request = dense(1, 1500, (8, 2), mask=MaskKind.causal(), sink_logits=np.tile(SINKS, 4), v_scale=0.5)
    assert shape_of(request).num_splits > 1
    assert [spec.kind for spec in choose_kernels(request, SmArch.SM90A)] == ["fwd_fp8", "combine"]
    run(request)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((70, 330, (1, 1), 128), {}),
        ((130, 200, (2, 1), 128), {"mask": MaskKind.causal(), "persistent": PersistentMode.persistent(2)}),
        ((70, 200, (2, 1), 256), {"persistent": PersistentMode.persistent(1)}),
        ((1, 700, (7, 1), 64), {"v": E5M2}),
    ],
    ids=["full", "causal, persistent", "values in pieces, one block", "decode"],
)
def test_races_and_every_schedule(shape, options):
    for result in run(dense(*shape, **options), races=True, schedule="all"):
        assert result.is_deterministic


@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
@pytest.mark.parametrize("seqlen_q", [128, 1])
def test_no_bank_conflicts(head_dim, seqlen_q):
    results = run(dense(seqlen_q, 200, (1, 1), head_dim), report=True)
    for line in results[0].memory_lines:
        assert line.space == "global" or line.transactions == line.ideal


# ---- which requests run them
@pytest.mark.parametrize("request_type", [Fa2FwdFp8Request, Fa3FwdFp8Request])
def test_requests_of_both_generations_run_them(request_type):
    chosen = explain(dense(200, 200, request_type=request_type), SmArch.SM90A).chosen
    assert chosen.implementation == "sm90_wgmma"
    (spec,) = chosen.kernels
    assert (spec.source, spec.dtype) == ("sm90/fwd_fp8.cu", DType.F8E4M3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": DType.F8E5M2}, "takes q in e4m3, not in e5m2"),
        ({"kv_dtype": DType.F8E5M2}, "takes k in e4m3, not in e5m2"),
        ({"dropout_p": 0.1}, "has no dropout"),
        ({"head_dim": 72}, "loads fp8 rows in 16 bytes, and head_dim is 72"),
        ({"k_scale": 0.0}, "takes descales of q and k that are positive, and k_scale is 0"),
    ],
)
def test_reasons_against(changes, reason):
    fields = {"dtype": DType.F8E4M3, "head_dim": 64, "head_dim_v": 64, "v_dtype": DType.F8E4M3} | changes
    request = Fa3FwdFp8Request(None, **fields)
    assert reason in SM90.reasons_against(request, SmArch.SM90A)


def test_keys_that_repeat_are_left_to_the_other_family():
    q, k, v = operands(20, 30)
    request = Fa3FwdFp8Request.from_arrays(q, np.broadcast_to(k[:, :1], k.shape), v)
    assert choose_kernels(request, SmArch.SM90A)[0].source == "sm80/fwd_fp8.cu"


# ---- the specialisations
def test_every_type_score_and_tile_has_a_kernel():
    specs = hopper_fp8_specs(SmArch.SM90A)
    assert {spec.v_dtype for spec in specs} == {DType.F8E4M3, DType.F8E5M2}
    assert {spec.scores for spec in specs} == {Scores.PLAIN, Scores.MODIFIED}
    rows = {row for table in FP8_TILE_TABLES.values() for row in table}
    assert {(spec.head_dims, spec.tile) for spec in specs} == {(row.head_dims, row.tile) for row in rows}
    assert all(hopper_fp8_specs(arch) == () for arch in SmArch if arch is not SmArch.SM90A)


@pytest.mark.parametrize("row", [row for table in FP8_TILE_TABLES.values() for row in table], ids=str)
def test_tiles_suit_the_instructions(row):
    assert row.tile.n % 32 == 0  # the depth of a product of values
    assert row.head_dims[1] % row.piece_dims == 0
    assert row.piece_dims % 16 == 0  # even and odd dims of a chunk belong together


def test_a_kernel_compiles_as_planned():
    spec = hopper_fp8_spec(128)
    kernel = compile_cubin(spec)
    assert (kernel.log, kernel.spill_store_bytes, kernel.stack_bytes) == ("", 0, 0)
    assert spec.label == "sm90_wgmma.fwd_fp8.e4m3.d128.plain.128x128w12s3.sm_90a"
