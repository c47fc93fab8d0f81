"""Requests without arrays: the cell, its rules and its defaults."""

import dataclasses
import math

import numpy as np
import pytest

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    CumulativeSeqlens,
    Direction,
    DispatchKey,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    Fa3FwdRequest,
    MaskKind,
    PagedAttentionRequest,
    PagedKvCache,
    PersistentMode,
    PositionBias,
    SmArch,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.errors import (
    ChunkIndexOutOfRangeError,
    EmptyBatchError,
    EmptyPagedCacheError,
    Fa3RequiresHopperError,
    Fp8MustUseFp8RequestError,
    Fp8RequiresHopperError,
    InvalidGqaRatioError,
    InvalidPagedBlockSizeError,
    MissingOperandsError,
    PagedHeadDimMismatchError,
    RequestError,
    SeqlenOverflowError,
    SinkWithoutMaskError,
    UnsupportedHeadDimError,
    ZeroSeqlenError,
    ZeroWindowError,
)

CELL = {"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 128}
SEQLENS = CumulativeSeqlens(2, 2048, 16384, 4096, 32768)
CACHE = PagedKvCache(8192, 16, 8, 128, 256)
CHUNK = ChunkLayout(2048, 14336, 8, 7)

BARE = {
    "fa2_fwd": lambda **f: Fa2FwdRequest(**{**CELL, **f}),
    "fa2_bwd": lambda **f: Fa2BwdRequest(**{**CELL, **f}),
    "fa3_fwd": lambda **f: Fa3FwdRequest(**{**CELL, **f}),
    "varlen_fwd": lambda **f: VarlenFwdRequest(**{**CELL, **f}, seqlens=SEQLENS),
    "varlen_bwd": lambda **f: VarlenBwdRequest(**{**CELL, **f}, seqlens=SEQLENS),
    "paged": lambda **f: PagedAttentionRequest(**{**CELL, **f}, cache=CACHE, num_seqs=32),
    "chunked": lambda **f: ChunkedPrefillRequest(**{**CELL, **f}, seqlens=SEQLENS, chunk=CHUNK),
}
every_type = pytest.mark.parametrize("make", BARE.values(), ids=BARE)


@pytest.mark.parametrize(
    ("name", "varlen", "paged", "direction"),
    [
        ("fa2_fwd", False, False, Direction.FORWARD),
        ("fa2_bwd", False, False, Direction.BACKWARD),
        ("fa3_fwd", False, False, Direction.FORWARD),
        ("varlen_fwd", True, False, Direction.FORWARD),
        ("varlen_bwd", True, False, Direction.BACKWARD),
        ("paged", False, True, Direction.FORWARD),
        ("chunked", True, False, Direction.FORWARD),
    ],
)
def test_the_key_spells_the_request(name, varlen, paged, direction):
    request = BARE[name](
        gqa_ratio=8, mask=MaskKind.sliding_causal(4096), bias=PositionBias.ALIBI, sink_tokens=4
    )
    assert request.dispatch_key() == DispatchKey(
        SmArch.SM90A, DType.BF16, 128, True, varlen, 4096, True, 4, paged, 8
    )
    assert request.DIRECTION is direction
    assert f"::{direction.value}<bf16, 128, causal>" in request.kernel_name()


def test_a_head_dim_may_come_as_a_numpy_integer():
    request = Fa2FwdRequest(SmArch.SM80, DType.F16, np.int64(64))
    assert type(request.head_dim) is int
    assert request.dispatch_key() == Fa2FwdRequest(SmArch.SM80, DType.F16, 64).dispatch_key()


def test_arguments_may_be_positional():
    request = Fa2FwdRequest(SmArch.SM80, DType.F16, 64, 1, MaskKind.causal(), PositionBias.NONE, 0, 0.125)
    assert request.kernel_name() == "flashactor::fa2::fwd<f16, 64, causal>"
    assert request.softmax_scale == 0.125


@every_type
def test_defaults(make):
    request = make()
    assert request.mask == MaskKind.full()
    assert request.scale == pytest.approx(1 / math.sqrt(128))
    assert request.gqa_ratio == 1
    assert request.operands is None


def test_a_replaced_head_dim_brings_its_own_scale():
    request = dataclasses.replace(Fa2FwdRequest(**CELL), head_dim=64, head_dim_v=64)
    assert request.scale == 0.125
    assert request.kernel_name() == "flashactor::fa3::fwd<bf16, 64, full>"
    assert dataclasses.replace(Fa2FwdRequest(**CELL, softmax_scale=0.5), head_dim=64).scale == 0.5


@every_type
def test_requests_are_frozen(make):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().head_dim = 64


@every_type
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"head_dim": 100}, UnsupportedHeadDimError),
        ({"head_dim": 64.0}, UnsupportedHeadDimError),
        ({"head_dim": [64]}, UnsupportedHeadDimError),
        ({"gqa_ratio": 0}, InvalidGqaRatioError),
        ({"mask": MaskKind.sliding_causal(0)}, ZeroWindowError),
        ({"sink_tokens": 4}, SinkWithoutMaskError),
        ({"arch": "sm_90a"}, RequestError),
        ({"dtype": "bf16"}, RequestError),
        ({"mask": "causal"}, RequestError),
        ({"bias": None}, RequestError),
        ({"dtype": DType.F8E4M3}, Fp8MustUseFp8RequestError),
        ({"softmax_scale": float("nan")}, RequestError),
        ({"softmax_scale": float("inf")}, RequestError),
        ({"softmax_scale": 0.0}, RequestError),
        ({"softmax_scale": -1.0}, RequestError),
        ({"softmax_scale": "1"}, None),
        ({"softmax_scale": "x"}, RequestError),
        ({"softcap": -1.0}, RequestError),
        ({"dropout_p": 1.0}, RequestError),
        ({"dropout_p": -0.1}, RequestError),
    ],
    ids=str,
)
def test_rules_hold_at_construction(make, fields, error):
    if "head_dim" in fields and make is BARE["paged"]:
        error = PagedHeadDimMismatchError  # the cache disagrees before the rule is reached
    if error is None:
        assert make(**fields).scale == 1.0
        return
    with pytest.raises(error) as caught:
        make(**fields)
    assert caught.value.remedy


@pytest.mark.parametrize("arch", [SmArch.SM80, SmArch.SM86, SmArch.SM89, SmArch.SM120])
def test_fa3_needs_an_fa3_architecture(arch):
    with pytest.raises(Fa3RequiresHopperError, match="sm_90a or sm_100a"):
        Fa3FwdRequest(arch, DType.BF16, 128)


def test_fa3_persistent_mode():
    assert not Fa3FwdRequest(**CELL).is_persistent
    assert Fa3FwdRequest(**CELL, persistent=PersistentMode.persistent(132)).is_persistent


def test_fp8_request():
    request = Fa3FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 128, 8, MaskKind.causal(), kv_dtype=DType.F8E5M2)
    assert request.fp8_dtypes == (DType.F8E4M3, DType.F8E5M2)
    assert request.kernel_name() == "flashactor::fa3::fwd<e4m3, 128, causal>_gqa8_kv_e5m2"
    assert Fa3FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 128).kernel_name().endswith("<e4m3, 128, full>")


@pytest.mark.parametrize(
    ("arch", "dtype", "kv_dtype", "error"),
    [
        (SmArch.SM80, DType.F8E4M3, None, Fp8RequiresHopperError),
        (SmArch.SM89, DType.F8E4M3, None, Fa3RequiresHopperError),
        (SmArch.SM90A, DType.F16, DType.F8E5M2, Fp8MustUseFp8RequestError),
        (SmArch.SM90A, DType.F8E4M3, DType.BF16, Fp8MustUseFp8RequestError),
        (SmArch.SM90A, DType.BF16, None, Fp8MustUseFp8RequestError),
    ],
)
def test_fp8_rules(arch, dtype, kv_dtype, error):
    with pytest.raises(error):
        Fa3FwdFp8Request(arch, dtype, 128, kv_dtype=kv_dtype)


@pytest.mark.parametrize("scale", [float("nan"), "x", None])
def test_fp8_descales_are_numbers(scale):
    with pytest.raises(RequestError, match="k_scale"):
        Fa3FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 128, k_scale=scale)


@pytest.mark.parametrize(
    ("extent", "error"),
    [
        ((0, 1, 1, 0, 0), EmptyBatchError),
        ((-1, 1, 1, 0, 0), EmptyBatchError),
        ((2, 0, 1, 0, 0), ZeroSeqlenError),
        ((2, 1, 0, 0, 0), ZeroSeqlenError),
        ((2, 4, 4, 100, 0), SeqlenOverflowError),
        ((2, 4, 4, 0, 9), SeqlenOverflowError),
        ((2, 4, 4, -1, 0), SeqlenOverflowError),
    ],
)
def test_cumulative_seqlens(extent, error):
    with pytest.raises(error):
        CumulativeSeqlens(*extent)


@pytest.mark.parametrize("block_size", [8, 16, 32, 64, 128, 256])
def test_page_sizes(block_size):
    assert PagedKvCache(4, block_size, 1, 64, 4).block_size == block_size


@pytest.mark.parametrize(
    ("geometry", "error"),
    [
        ((8, 7, 1, 128, 16), InvalidPagedBlockSizeError),
        ((8, 512, 1, 128, 16), InvalidPagedBlockSizeError),
        ((0, 16, 1, 128, 16), EmptyPagedCacheError),
        ((8, 0, 1, 128, 16), EmptyPagedCacheError),
        ((8, 16, 0, 128, 16), EmptyPagedCacheError),
        ((8, 16, 1, 128, 0), EmptyPagedCacheError),
    ],
)
def test_paged_cache(geometry, error):
    with pytest.raises(error):
        PagedKvCache(*geometry)


def test_paged_request():
    request = BARE["paged"](mask=MaskKind.causal(), gqa_ratio=8)
    assert request.is_pure_decode
    assert request.kernel_name() == "flashactor::fa3::fwd<bf16, 128, causal>_paged_gqa8"
    with pytest.raises(EmptyBatchError):
        PagedAttentionRequest(**CELL, cache=CACHE, num_seqs=0)
    with pytest.raises(ZeroSeqlenError, match="q_tokens_per_seq"):
        PagedAttentionRequest(**CELL, cache=CACHE, num_seqs=1, q_tokens_per_seq=0)
    with pytest.raises(PagedHeadDimMismatchError, match="128, the cache's"):
        PagedAttentionRequest(SmArch.SM90A, DType.BF16, 64, cache=CACHE, num_seqs=1)


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        ((1024, 0, 4, 4), ChunkIndexOutOfRangeError),
        ((1024, 0, 4, -1), ChunkIndexOutOfRangeError),
        ((0, 0, 1, 0), ZeroSeqlenError),
        ((1, 0, 0, 0), ZeroSeqlenError),
        ((1, -1, 1, 0), SeqlenOverflowError),
    ],
)
def test_chunk_layout(chunk, error):
    with pytest.raises(error):
        ChunkLayout(*chunk)


def test_final_chunk():
    assert CHUNK.is_final
    assert not ChunkLayout(1, 0, 2, 0).is_final


@every_type
def test_a_bare_cell_has_no_operands(make):
    with pytest.raises(MissingOperandsError, match="from_arrays"):
        make().require_operands()


def test_the_actors_architecture_fills_in():
    request = Fa2FwdRequest(None, DType.BF16, 128)
    assert request.dispatch_key().arch is SmArch.SM80
    assert request.dispatch_key(SmArch.SM120).arch is SmArch.SM120
    assert Fa3FwdRequest(None, DType.BF16, 128).dispatch_key().arch is SmArch.SM90A
    with pytest.raises(Fa3RequiresHopperError):
        Fa3FwdRequest(None, DType.BF16, 128).resolve(SmArch.SM80)
