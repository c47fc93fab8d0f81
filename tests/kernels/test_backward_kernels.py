"""The backward kernels in the emulator, against the formula in the same precision, and their plans."""

import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from plan_tools import SCRATCH, unpack, view
from samples import normal

from flashactor import Fa2BwdRequest, MaskKind, SmArch, VarlenBwdRequest
from flashactor.executors.emulator import emulate
from flashactor.executors.operands import with_outputs
from flashactor.kernels.backward import (
    backward_kernels,
    backward_launches,
    backward_shape,
    backward_workspace,
)
from flashactor.kernels.backward_params import BWD_PARAMS, REDUCE_PARAMS
from flashactor.kernels.backward_spec import (
    STAT_ROWS,
    ConvertSpec,
    DkdvOutputs,
    DqSpec,
    all_backward_specs,
)
from flashactor.kernels.backward_tiles import DKDV_TILES, DQ_TILES
from flashactor.kernels.problem import UNLIMITED
from flashactor.kernels.sm80 import HEAD_DIMS, SHARED_BYTES_PER_BLOCK
from flashactor.kernels.sm80_forward import SM80
from flashactor.reference import (
    AttentionParams,
    backward,
    backward_low_precision,
    backward_varlen,
    forward,
    forward_varlen,
)

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
GRADIENTS = ("dq", "dk", "dv", "dsink_logits", "dalibi_slopes")
MODES = {"deterministic": True, "atomic": False}
modes = pytest.mark.parametrize("deterministic", MODES.values(), ids=MODES)


def params_of(head_dim, options, slopes, sinks):
    """The reference's parameters for a request's options."""
    mask = options.get("mask", MaskKind.full())
    return AttentionParams(
        softmax_scale=options.get("softmax_scale", head_dim**-0.5),
        window_left=mask.window_left,
        window_right=mask.window_right,
        sink_tokens=options.get("sink_tokens", 0),
        softcap=options.get("softcap", 0.0),
        alibi_slopes=slopes,
        sink_logits=sinks,
        dropout_p=options.get("dropout_p", 0.0),
        dropout_seed=options.get("dropout_seed", 0),
        dropout_offset=options.get("dropout_offset", 0),
    )


def run(request, **options):
    """The gradients of a request by name, and what the emulator found."""
    arrays = with_outputs(request, request.arrays())
    arch = SmArch.SM80 if request.arch is None else request.arch
    results = emulate(request, arch, SM80, arrays, **options)
    return {name: arrays[name].to_numpy() for name in GRADIENTS if name in arrays}, results


def largest_error(found, exact):
    return np.abs(found.astype(np.float64) - exact).max(initial=0.0)


def dense(
    batch=1,
    seqlen_q=70,
    seqlen_k=90,
    heads_q=2,
    heads_kv=1,
    head_dims=(64, 64),
    dtype=BF16,
    slopes=None,
    sinks=None,
    has_dlse=False,
    **options,
):
    """A request over random values, its exact gradients, and those that its precision allows."""
    rng = np.random.default_rng(7)
    head_dim, head_dim_v = head_dims
    q = normal(rng, batch, seqlen_q, heads_q, head_dim, dtype=dtype)
    k = normal(rng, batch, seqlen_k, heads_kv, head_dim, dtype=dtype)
    v = normal(rng, batch, seqlen_k, heads_kv, head_dim_v, dtype=dtype)
    dout = normal(rng, batch, seqlen_q, heads_q, head_dim_v, dtype=dtype)
    dlse = normal(rng, batch, heads_q, seqlen_q, dtype=np.float32) if has_dlse else None
    slopes = None if slopes is None else np.array(slopes, np.float32)
    sinks = None if sinks is None else np.array(sinks, np.float32)
    deterministic = options.pop("deterministic", True)
    arch = options.pop("arch", SmArch.SM80)
    params = params_of(head_dim, options, slopes, sinks)
    out, lse = forward(q, k, v, params)
    request = Fa2BwdRequest.from_arrays(
        dout,
        q,
        k,
        v,
        out.astype(dtype),
        lse.astype(np.float32),
        alibi_slopes=slopes,
        sink_logits=sinks,
        dlse=dlse,
        deterministic=deterministic,
        arch=arch,
        **options,
    )
    exact = backward(dout, q, k, v, params, dlse)
    low = backward_low_precision(dout, q, k, v, params, "bf16" if dtype == BF16 else "f16", dlse)
    return request, exact, low


def check(request, exact, low, **options):
    found, results = run(request, **options)
    for name, gradient in found.items():
        wanted = getattr(exact, name)
        # A sum over rows has one error, and which one is chance: half an ulp of out's elements, added up.
        slack = 1e-3 * np.abs(wanted).max() if name in ("dsink_logits", "dalibi_slopes") else 1e-6
        allowed = 2 * largest_error(getattr(low, name), wanted) + slack
        assert largest_error(gradient, wanted) <= allowed, name
    return found, results


CASES = {
    "whole tiles": {"seqlen_q": 128, "seqlen_k": 128},
    "ragged ends": {"seqlen_q": 100, "seqlen_k": 130},
    "one query, one key": {"seqlen_q": 1, "seqlen_k": 1},
    "causal": {"mask": MaskKind.causal(), "seqlen_q": 90, "seqlen_k": 140},
    "causal, rows without keys": {"mask": MaskKind.causal(), "seqlen_q": 140, "seqlen_k": 60},
    "window": {"mask": MaskKind.sliding(30, 10), "seqlen_q": 150, "seqlen_k": 170},
    "window and sink tokens": {"mask": MaskKind.sliding(30, 10), "sink_tokens": 5, "seqlen_k": 190},
    "causal window and sink tokens": {"mask": MaskKind.sliding(30, 0), "sink_tokens": 5, "seqlen_k": 190},
    "heads that share keys": {"batch": 2, "heads_q": 4, "heads_kv": 2, "mask": MaskKind.causal()},
    "f16": {"dtype": F16},
    "ragged head dims": {"head_dims": (40, 24)},
    "softcap": {"softcap": 2.0, "mask": MaskKind.causal()},
    "ALiBi": {"slopes": [0.1, 0.4], "batch": 2, "mask": MaskKind.causal()},
    "ALiBi of each sequence": {"slopes": [[0.1, 0.4], [0.2, 0.3]], "batch": 2, "softcap": 3.0},
    "dropout": {"dropout_p": 0.3, "dropout_seed": 0x123456789, "dropout_offset": 3},
    "learned sinks": {"sinks": [1.0, -2.0], "seqlen_q": 140, "batch": 2},
    "gradient of lse": {"has_dlse": True, "sinks": [1.0, 4.0]},
    "all of it": {
        "batch": 2,
        "heads_q": 4,
        "heads_kv": 2,
        "mask": MaskKind.sliding(40, 0),
        "sink_tokens": 3,
        "softcap": 3.0,
        "slopes": [0.1, 0.2, 0.3, 0.4],
        "dropout_p": 0.2,
        "dropout_seed": 11,
        "sinks": [1.0, 0.0, -1.0, 2.0],
        "has_dlse": True,
    },
}


@modes
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_error_is_at_most_twice_that_of_the_precision(case, deterministic):
    check(*dense(**case, deterministic=deterministic))


@modes
@pytest.mark.parametrize("head_dims", HEAD_DIMS, ids=str)
@pytest.mark.parametrize("arch", [SmArch.SM80, SmArch.SM86], ids=lambda arch: arch.target)
def test_every_tile(head_dims, arch, deterministic):
    case = {"seqlen_q": 70, "seqlen_k": 140, "mask": MaskKind.causal(), "head_dims": head_dims}
    check(*dense(**case, heads_q=1, arch=arch, deterministic=deterministic))


@modes
def test_every_schedule_gives_the_same_and_races_with_none(deterministic):
    """Atomic additions of two key blocks come in either order, and x + y is y + x."""
    case = {"seqlen_q": 70, "seqlen_k": 130, "heads_q": 2, "mask": MaskKind.causal()}
    request, exact, low = dense(**case, deterministic=deterministic, slopes=[0.1, 0.4], sinks=[0.0, 1.0])
    _, results = check(request, exact, low, schedule="all", races=True)
    assert all(result.is_deterministic for result in results)


@modes
@pytest.mark.parametrize("head_dim", [64, 96])
def test_whole_tiles_move_no_byte_in_vain(head_dim, deterministic):
    case = {"seqlen_q": 128, "seqlen_k": 128, "head_dims": (head_dim, head_dim), "heads_q": 1}
    _, results = run(dense(**case, deterministic=deterministic)[0], report=True)
    lines = [line for result in results for line in result.memory_lines]
    assert lines
    assert [line for line in lines if line.transactions > line.ideal] == []


LENGTHS = ((10, 20), (0, 30), (100, 90), (20, 0), (130, 140))
USED = ((5, 20), (0, 3), (70, 90), (20, 0), (130, 100))


@modes
@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "all of it"])
@pytest.mark.parametrize("used", [None, USED], ids=["whole", "used"])
def test_packed_sequences(used, is_plain, deterministic):
    rng = np.random.default_rng(3)
    cu_q, cu_k = (np.cumsum([0, *(pair[side] for pair in LENGTHS)], dtype=np.int32) for side in (0, 1))
    q, dout = (normal(rng, cu_q[-1], 4, 64) for _ in range(2))
    k, v = (normal(rng, cu_k[-1], 2, 64) for _ in range(2))
    options = {"mask": MaskKind.causal()}
    slopes = sinks = dlse = None
    if not is_plain:
        options |= {"softcap": 3.0, "dropout_p": 0.2, "dropout_seed": 5}
        slopes = rng.random((len(LENGTHS), 4), np.float32)
        sinks = rng.random(4, np.float32)
        dlse = normal(rng, 4, cu_q[-1], dtype=np.float32)
    seqused = {}
    if used:
        seqused = {f"seqused_{x}": np.array([pair[i] for pair in used], np.int32) for i, x in enumerate("qk")}
    params = params_of(64, options, slopes, sinks)
    out, lse = forward_varlen(q, k, v, cu_q, cu_k, params, **seqused)
    exact = backward_varlen(dout, q, k, v, cu_q, cu_k, params, dlse, **seqused)
    request = VarlenBwdRequest.from_arrays(
        dout,
        q,
        k,
        v,
        out.astype(BF16),
        lse.astype(np.float32),
        cu_q,
        cu_k,
        alibi_slopes=slopes,
        sink_logits=sinks,
        dlse=dlse,
        deterministic=deterministic,
        **seqused,
        **options,
    )
    found, _ = run(request)
    for name, gradient in found.items():
        wanted = getattr(exact, name)
        assert largest_error(gradient, wanted) <= 1e-2 * np.abs(wanted).max(), name
    for name, starts, side in (("dq", cu_q, 0), ("dk", cu_k, 1), ("dv", cu_k, 1)):
        for start, after, pair in zip(starts, starts[1:], used or LENGTHS, strict=False):
            assert not found[name][start + pair[side] : after].any(), name


@modes
def test_unused_rows_may_hold_anything(deterministic):
    """What out, dout and lse hold of queries that are not used is not read; nor are keys."""
    rng = np.random.default_rng(5)
    cu = np.array([0, 100], np.int32)
    q, k, v, dout, out = (normal(rng, 100, 1, 64) for _ in range(5))
    lse = rng.random((1, 100), np.float32)
    used = np.array([70], np.int32)

    def gradients():
        request = VarlenBwdRequest.from_arrays(
            dout, q, k, v, out, lse, cu, cu, seqused_q=used, seqused_k=used, deterministic=deterministic
        )
        return run(request)[0]

    before = gradients()
    for array in (q, k, v, dout, out):
        array[70:] = np.nan
    lse[:, 70:] = np.nan
    for name, gradient in gradients().items():
        assert np.array_equal(gradient, before[name])
        assert gradient[:70].any()
        assert not gradient[70:].any()


@modes
def test_strided_arrays(deterministic):
    """Rows with gaps between them, which no kernel may touch, and lse with its rows apart."""
    request, exact, low = dense(seqlen_q=70, seqlen_k=90, deterministic=deterministic, has_dlse=True)
    arrays = {name: x.to_numpy() for name, x in request.arrays().items()}

    def apart(x):
        wide = np.full((*x.shape[:-1], x.shape[-1] + 16), np.nan, x.dtype)
        wide[..., : x.shape[-1]] = x
        return wide[..., : x.shape[-1]]

    def turned(x):
        return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)

    tensors = {name: apart(arrays[name]) for name in ("dout", "q", "k", "v", "out")}
    outputs = {f"d{name}": apart(np.zeros_like(arrays[name])) for name in "qkv"}
    strided = Fa2BwdRequest.from_arrays(
        **tensors,
        lse=turned(arrays["lse"]),
        dlse=turned(arrays["dlse"]),
        **outputs,
        deterministic=deterministic,
    )
    check(strided, exact, low)


def test_a_sink_that_outweighs_all_keys_gives_no_nan():
    request, exact, low = dense(sinks=[300.0, -np.inf], has_dlse=False)
    check(request, exact, low)
    found, _ = run(dense(sinks=[300.0, -300.0], has_dlse=True)[0])
    assert all(np.isfinite(gradient.astype(np.float32)).all() for gradient in found.values())


def bare(deterministic=True, head_dim=64, sinks=False, slopes=None, arch=SmArch.SM80, **options):
    """A backward request over arrays without memory."""
    q = (2, 200, 8, head_dim)
    kv = (2, 300, 2, head_dim)
    return Fa2BwdRequest.from_arrays(
        view(q, 0x1000000),
        view(q, 0x2000000),
        view(kv, 0x3000000),
        view(kv, 0x4000000),
        view(q, 0x5000000),
        view((2, 8, 200), 0x6000000, "float32"),
        sink_logits=view((8,), 0x7000000, "float32") if sinks else None,
        alibi_slopes=None if slopes is None else view(slopes, 0x8000000, "float32"),
        dq=view(q, 0x9000000),
        dk=view(kv, 0xA000000),
        dv=view(kv, 0xB000000),
        dsink_logits=view((8,), 0xC000000, "float32") if sinks else None,
        dalibi_slopes=None if slopes is None else view(slopes, 0xD000000, "float32"),
        deterministic=deterministic,
        arch=arch,
        **options,
    )


def launches_of(request):
    addresses = backward_workspace(request, SmArch.SM80).addresses(SCRATCH)
    return backward_launches(request, SmArch.SM80, request.arrays(), addresses)


def test_launches_of_both_modes():
    launches = launches_of(bare())
    assert [step.spec.kind for step in launches] == ["bwd_preprocess", "bwd_dkdv", "bwd_dq"]
    assert tuple(step.spec for step in launches) == backward_kernels(bare(), SmArch.SM80)
    preprocess, dkdv, dq = launches
    assert preprocess.grid == (2 * 8 * 2, 1, 1)
    assert dkdv.grid == (2 * 2 * -(-300 // dkdv.spec.tile.n), 1, 1)
    assert dq.grid == (2 * 8 * -(-200 // dq.spec.tile.m), 1, 1)
    for step in launches:
        values = unpack(step.params, BWD_PARAMS)
        assert (values["q"], values["dv"], values["dlse"]) == (0x2000000, 0xB000000, 0)
        assert (values["gqa_ratio"], values["stat_rows"], values["window_left"]) == (4, 256, UNLIMITED)
        assert values["dq_accumulator"] == values["dsink_partials"] == 0
        assert values["tiles"] * 2 * (2 if step is dkdv else 8) == step.grid[0]

    atomic = launches_of(bare(deterministic=False))
    assert [step.spec.kind for step in atomic] == ["bwd_preprocess", "bwd_dkdv", "bwd_convert"]
    assert unpack(atomic[0].params, BWD_PARAMS)["dq_accumulator"] > SCRATCH


def test_wide_head_dims_take_two_launches_for_dk_and_dv():
    kinds = [step.spec for step in launches_of(bare(head_dim=256, deterministic=False))]
    assert [spec.outputs for spec in kinds[1:3]] == [DkdvOutputs.DK, DkdvOutputs.DV]
    assert [spec.adds_dq for spec in kinds[1:3]] == [True, False]


def test_an_invariant_batch_has_no_atomic_additions():
    assert isinstance(backward_shape(bare(deterministic=False), SmArch.SM80).specs.dq, ConvertSpec)
    request = bare(deterministic=False, batch_invariant=True)
    assert isinstance(backward_shape(request, SmArch.SM80).specs.dq, DqSpec)


@modes
@pytest.mark.parametrize(("slopes", "sums_batch"), [((8,), 1), ((2, 8), 2)])
def test_sums_are_launched_for_sinks_and_for_slopes(slopes, sums_batch, deterministic):
    request = bare(deterministic, sinks=True, slopes=slopes)
    *_, sinks, alibi = launches_of(request)
    values = unpack(sinks.params, REDUCE_PARAMS)
    assert (values["sums"], values["tiles"], values["sums_batch"]) == (0xC000000, 2, 1)
    values = unpack(alibi.params, REDUCE_PARAMS)
    assert (values["sums"], values["sums_batch"]) == (0xD000000, sums_batch)
    assert alibi.grid == (8 * sums_batch, 1, 1)
    spec = launches_of(request)[2 if deterministic else 1].spec
    assert values["tiles"] == -(-200 // spec.tile.m) if deterministic else -(-300 // spec.tile.n)
    assert len(backward_kernels(replace(request, operands=None, gradients=None), SmArch.SM80)) == 4


def test_the_workspace_of_packed_sequences_has_whole_tiles_for_each():
    """Any lengths fit: the rows before a sequence, rounded down, and one tile for each sequence before it."""
    cu = np.array([0, 1, 2, 130, 400], np.int32)
    q = view((400, 2, 64))
    lse = view((2, 400), dtype="float32")
    request = VarlenBwdRequest.from_arrays(q, q, q, q, q, lse, cu, cu)
    shape = backward_shape(request, SmArch.SM80)
    ends = [
        (int(first) // STAT_ROWS + index) * STAT_ROWS + -(-int(after - first) // STAT_ROWS) * STAT_ROWS
        for index, (first, after) in enumerate(itertools.pairwise(cu))
    ]
    starts = [(int(first) // STAT_ROWS + index) * STAT_ROWS for index, first in enumerate(cu)]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=True))
    assert ends[-1] <= shape.stat_rows == starts[-1]
    assert shape.workspace.parts == {"row_lse": 8 * shape.stat_rows, "row_term": 8 * shape.stat_rows}


def test_the_tables_have_one_row_for_each_head_dim_and_architecture():
    for table in (DKDV_TILES, DQ_TILES):
        cells = [(row.head_dim, arch) for row in table for arch in row.archs]
        assert len(cells) == len(set(cells))
        assert set(cells) == {(dim, arch) for dim, _ in HEAD_DIMS for arch in SmArch}


@pytest.mark.parametrize("arch", SmArch)
def test_every_kernel_fits_into_shared_memory(arch):
    static = 64  # block_sum's
    most = max(spec.shared_bytes for spec in all_backward_specs(arch))
    assert most + static <= SHARED_BYTES_PER_BLOCK[arch]
