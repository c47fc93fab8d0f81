"""Requests over caches: fp8 pools, packed queries, prefixes, rotary embeddings, guarded page tables."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from request_arrays import POOLS, chunked, ints, on_device, paged, zeros

from flashactor import (
    ChunkedPrefillRequest,
    ChunkLayout,
    DType,
    Fa2BwdRequest,
    KvLayout,
    MaskKind,
    PagedAttentionRequest,
    VarlenBwdRequest,
)
from flashactor.errors import (
    EmptyBatchError,
    Fp8MustUseFp8RequestError,
    OperandError,
    PagedHeadDimMismatchError,
    RequestError,
    SeqlenOverflowError,
    ZeroSeqlenError,
)
from flashactor.requests.bare import bare_request

E4M3 = ml_dtypes.float8_e4m3fn
FP8_POOLS = {name: zeros(10, 16, 2, 64, dtype=E4M3) for name in ("k_cache", "v_cache")}
FP8_CACHES = {name: zeros(2, 16, 2, 64, dtype=E4M3) for name in ("k_cache", "v_cache")}
TABLE = ints(3, 1, 9, 2).reshape(2, 2)

EVERY_CACHE = pytest.mark.parametrize(
    ("make", "caches"),
    [
        pytest.param(lambda **a: PagedAttentionRequest.from_arrays(**paged(**a)), FP8_POOLS, id="paged"),
        pytest.param(lambda **a: ChunkedPrefillRequest.from_arrays(**chunked(**a)), FP8_CACHES, id="chunked"),
    ],
)


@EVERY_CACHE
def test_a_cache_of_qs_type(make, caches):
    request = make()
    assert (request.kv_dtype, request.k_scale, request.v_scale) == (DType.BF16, 1.0, 1.0)
    assert "_kv_" not in request.kernel_name()
    assert not request.guard


@EVERY_CACHE
def test_an_fp8_cache_under_a_16_bit_q(make, caches):
    request = make(**caches, k_scale=0.5, v_scale=np.ones(2, np.float32))
    assert (request.dtype, request.kv_dtype, request.k_scale) == (DType.BF16, DType.F8E4M3, 0.5)
    assert request.arrays()["v_scale"].shape == (2,)
    assert request.kernel_name().endswith("_kv_e4m3")


@EVERY_CACHE
@pytest.mark.parametrize(
    ("name", "dtype", "error", "field"),
    [
        ("v_cache", ml_dtypes.float8_e5m2, OperandError, "v_cache.dtype"),
        ("v_cache", ml_dtypes.bfloat16, OperandError, "v_cache.dtype"),
        ("k_cache", np.float16, OperandError, "k_cache.dtype"),
    ],
)
def test_both_halves_of_a_cache_are_of_one_type(make, caches, name, dtype, error, field):
    with pytest.raises(error) as caught:
        make(**{**caches, name: caches[name].astype(dtype)})
    assert caught.value.field == field


@EVERY_CACHE
@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"k_scale": np.ones(8, np.float32)}, OperandError, "k_scale.shape"),
        ({"v_scale": np.ones(2)}, OperandError, "v_scale.dtype"),
        ({"k_scale": 0.0}, RequestError, "k_scale"),
        ({"v_scale": -1.0}, RequestError, "v_scale"),
        ({"v_scale": float("nan")}, RequestError, "v_scale"),
        ({"guard": 1}, RequestError, "guard"),
        ({"workspace": zeros(8)}, OperandError, "workspace.dtype"),
    ],
    ids=str,
)
def test_options_of_a_cache(make, caches, options, error, field):
    with pytest.raises(error) as caught:
        make(**caches, **options)
    assert caught.value.field == field


@EVERY_CACHE
def test_the_type_of_a_cache_is_qs_or_fp8(make, caches):
    request = make()
    with pytest.raises(RequestError, match=r"kv_dtype.*BF16 or DType.F8E4M3 or DType.F8E5M2") as caught:
        dataclasses.replace(request, kv_dtype=DType.F16)
    assert not isinstance(caught.value, Fp8MustUseFp8RequestError)
    assert dataclasses.replace(request, kv_dtype=DType.F8E5M2).kernel_name().endswith("_kv_e5m2")


def test_v_of_a_pool_may_have_another_head_dim():
    request = PagedAttentionRequest.from_arrays(
        **paged(v_cache=zeros(10, 16, 2, 128), out=zeros(2, 1, 8, 128)), layout="NHD"
    )
    assert (request.head_dim, request.head_dim_v, request.cache.head_dim) == (64, 128, 64)
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, full>_paged_gqa4_v128"
    with pytest.raises(OperandError, match=r"out\.shape"):
        PagedAttentionRequest.from_arrays(**paged(v_cache=zeros(10, 16, 2, 128), out=zeros(2, 1, 8, 64)))
    with pytest.raises(PagedHeadDimMismatchError):
        PagedAttentionRequest.from_arrays(**paged(k_cache=zeros(10, 16, 2, 128)))


def packed_queries(**changes):
    return paged(**{"q": zeros(7, 8, 64), "cu_seqlens_q": ints(0, 5, 7), **changes})


def test_packed_queries():
    lse = zeros(8, 7, dtype=np.float32)
    request = PagedAttentionRequest.from_arrays(**packed_queries(lse=lse, out=zeros(7, 8, 64)))
    assert (request.num_seqs, request.q_tokens_per_seq, request.is_pure_decode) == (2, 5, False)
    assert request.dispatch_key().varlen
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, full>_varlen_paged_gqa4"
    assert PagedAttentionRequest.from_arrays(**packed_queries(max_seqlen_q=6)).q_tokens_per_seq == 6


def test_packed_queries_on_a_device():
    arguments = on_device(packed_queries())
    with pytest.raises(OperandError) as caught:
        PagedAttentionRequest.from_arrays(**arguments)
    assert caught.value.field == "max_seqlen_q"
    assert PagedAttentionRequest.from_arrays(**arguments, max_seqlen_q=9).q_tokens_per_seq == 9


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"q": zeros(2, 1, 8, 64)}, OperandError, "q.ndim"),
        ({"cu_seqlens_q": None}, OperandError, "q.ndim"),
        ({"cu_seqlens_q": ints(0, 5, 8)}, SeqlenOverflowError, "cu_seqlens_q"),
        ({"cu_seqlens_q": ints(0, 5, 4)}, OperandError, "cu_seqlens_q"),
        ({"cu_seqlens_q": np.array([0, 5, 7])}, OperandError, "cu_seqlens_q.dtype"),
        ({"cu_seqlens_q": ints(0)}, EmptyBatchError, "batch"),
        ({"cu_seqlens_q": ints(0, 7)}, OperandError, "page_table.shape"),
        ({"max_seqlen_q": 4}, SeqlenOverflowError, "max_seqlen_q"),
        ({"max_seqlen_q": 0}, ZeroSeqlenError, "max_seqlen_q"),
        ({"lse": zeros(2, 8, 5, dtype=np.float32)}, OperandError, "lse.shape"),
        ({"cu_seqlens_q": None, "q": zeros(2, 1, 8, 64), "max_seqlen_q": 1}, OperandError, "max_seqlen_q"),
    ],
    ids=str,
)
def test_packed_query_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        PagedAttentionRequest.from_arrays(**packed_queries(**changes))
    assert caught.value.field == field


def test_a_guarded_table_may_point_anywhere():
    wild = ints(3, 10, -1, 1 << 30).reshape(2, 2)
    assert PagedAttentionRequest.from_arrays(**paged(page_table=wild), guard=True).guard
    assert ChunkedPrefillRequest.from_arrays(**chunked(**POOLS, page_table=wild), guard=True).guard
    with pytest.raises(SeqlenOverflowError, match=r"seq_lens\[1\]"):
        PagedAttentionRequest.from_arrays(**paged(page_table=wild, seq_lens=ints(1, 33)), guard=True)


def test_the_caches_arrays_by_name():
    given = paged(cu_seqlens_q=None, out=zeros(2, 1, 8, 64))
    names = ["q", "k_cache", "v_cache", "out", "page_table", "seq_lens"]
    assert list(PagedAttentionRequest.from_arrays(**given).arrays()) == names
    names[3:5] = ["page_table"]
    assert list(PagedAttentionRequest.from_arrays(**packed_queries()).arrays()) == [*names, "cu_seqlens_q"]


TABLES = {name: zeros(16, 16, dtype=np.float32) for name in ("rotary_cos", "rotary_sin")}


def test_prefixes_of_their_own():
    request = ChunkedPrefillRequest.from_arrays(**chunked(prefix_lens=ints(12, 0)), mask=MaskKind.causal())
    assert request.append.prefix_lens.shape == (2,)
    assert request.chunk.prefix_kv_tokens == 12
    assert ChunkedPrefillRequest.from_arrays(**chunked()).append.prefix_lens is None


def test_a_short_prefix_reaches_fewer_pages():
    table = ints(3, 1, 9, -1).reshape(2, 2)
    arguments = chunked(**POOLS, page_table=table)
    with pytest.raises(OperandError, match=r"page_table\[1\]\[1\]"):
        ChunkedPrefillRequest.from_arrays(**arguments)
    assert ChunkedPrefillRequest.from_arrays(**arguments, prefix_lens=ints(12, 4)).paged


def test_prefixes_on_a_device_are_not_read():
    arguments = on_device(chunked(**POOLS, page_table=TABLE, prefix_lens=ints(99, -1)))
    assert ChunkedPrefillRequest.from_arrays(**arguments).append.prefix_lens.shape == (2,)


def test_v_of_a_chunk_may_have_another_head_dim():
    wide = {"v": zeros(2, 4, 2, 128), "v_cache": zeros(2, 16, 2, 128)}
    request = ChunkedPrefillRequest.from_arrays(**chunked(**wide))
    assert request.kernel_name() == "flashactor::fa2::fwd<bf16, 64, full>_varlen_gqa4_v128"


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_tables(dtype, interleaved):
    tables = {name: table.astype(dtype) for name, table in TABLES.items()}
    request = ChunkedPrefillRequest.from_arrays(**chunked(**tables), rotary_interleaved=interleaved)
    assert request.append.rotary.interleaved is interleaved
    assert request.append.rotary.cos.shape == (16, 16)
    assert ChunkedPrefillRequest.from_arrays(**chunked()).append.rotary is None


def test_the_chunks_arrays_by_name():
    request = ChunkedPrefillRequest.from_arrays(
        **chunked(
            **TABLES,
            **{name: zeros(*pool.shape, dtype=E4M3) for name, pool in POOLS.items()},
            page_table=TABLE,
            prefix_lens=ints(12, 0),
            k_scale=np.ones(1, np.float32),
        )
    )
    assert list(request.arrays()) == [
        *("q", "k", "v", "page_table", "k_cache", "v_cache"),
        *("prefix_lens", "rotary_cos", "rotary_sin", "k_scale"),
    ]


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"prefix_lens": ints(13, 0)}, SeqlenOverflowError, "prefix_lens[0]"),
        ({"prefix_lens": ints(0, -1)}, SeqlenOverflowError, "prefix_lens[1]"),
        ({"prefix_lens": ints(0)}, OperandError, "prefix_lens.shape"),
        ({"prefix_lens": np.zeros(2)}, OperandError, "prefix_lens.dtype"),
        ({"rotary_cos": TABLES["rotary_cos"]}, OperandError, "rotary_sin"),
        ({"rotary_sin": TABLES["rotary_sin"]}, OperandError, "rotary_cos"),
        ({"rotary_interleaved": True}, RequestError, "rotary_interleaved"),
        ({**TABLES, "rotary_interleaved": "x"}, RequestError, "rotary_interleaved"),
        ({**TABLES, "rotary_sin": zeros(16, 8, dtype=np.float32)}, OperandError, "rotary_sin.shape"),
        ({**TABLES, "rotary_sin": zeros(16, 16)}, OperandError, "rotary_sin.dtype"),
        ({**TABLES, "rotary_cos": zeros(16, 16, dtype=np.float16)}, OperandError, "rotary_cos.dtype"),
        ({**TABLES, "rotary_cos": zeros(16, dtype=np.float32)}, OperandError, "rotary_cos.ndim"),
        ({name: zeros(16, 12, dtype=np.float32) for name in TABLES}, OperandError, "rotary_cos.shape"),
        ({name: zeros(16, 40, dtype=np.float32) for name in TABLES}, OperandError, "rotary_cos.shape"),
        ({name: zeros(16, 0, dtype=np.float32) for name in TABLES}, OperandError, "rotary_cos.shape"),
        ({name: zeros(15, 16, dtype=np.float32) for name in TABLES}, SeqlenOverflowError, "rotary_cos"),
        ({"v_cache": zeros(2, 16, 2, 128)}, OperandError, "v_cache.shape"),
        ({"v": zeros(2, 4, 2, 128)}, OperandError, "v_cache.shape"),
        ({"k_cache": np.broadcast_to(zeros(1, 16, 2, 64), (2, 16, 2, 64))}, OperandError, "k_cache.strides"),
        ({"layout": "NDH"}, OperandError, "layout"),
        ({"chunk": ChunkLayout(1, 0)}, OperandError, "q.shape"),
    ],
    ids=str,
)
def test_chunk_errors_name_the_argument(changes, error, field):
    with pytest.raises(error) as caught:
        ChunkedPrefillRequest.from_arrays(**chunked(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize(("name", "value"), [("layout", "HND"), ("layout", KvLayout.HND), ("guard", True)])
def test_options_of_pages_need_pages(name, value):
    pool = {k: zeros(10, 2, 8, 64) if name == "layout" else zeros(10, 8, 2, 64) for k in POOLS}
    with_pages = chunked(**pool, page_table=TABLE, **{name: value})
    assert ChunkedPrefillRequest.from_arrays(**with_pages).paged
    assert not ChunkedPrefillRequest.from_arrays(**chunked(layout="NHD", guard=False)).paged
    with pytest.raises(RequestError, match="without page_table") as caught:
        ChunkedPrefillRequest.from_arrays(**chunked(**{name: value}))
    assert caught.value.field == name


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_whether_a_backward_pass_is_deterministic_is_a_bool(value):
    for request_type in (Fa2BwdRequest, VarlenBwdRequest):
        assert bare_request(request_type, arch=None, dtype=DType.F16, head_dim=64, deterministic=False)
        with pytest.raises(RequestError, match="deterministic"):
            bare_request(request_type, arch=None, dtype=DType.F16, head_dim=64, deterministic=value)
