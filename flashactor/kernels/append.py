"""The kernel that writes new keys and values into a cache, rotated and quantised on the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import ClassVar

from flashactor.arrays import ArrayView
from flashactor.kernels.launch import KernelLaunch, launch
from flashactor.kernels.params import StructLayout, Value, of_type, strides
from flashactor.kernels.problem import contiguous, page_values, row_strides, scale_values
from flashactor.kernels.spec import COMMON, DTYPES, KernelSpec, Macros
from flashactor.requests.operands import KvLayout, PageTable, Rotary
from flashactor.types import DType, SmArch

THREADS = 256
CHUNK = 8
"""Elements that a thread writes."""

APPEND_PARAMS = StructLayout(
    (
        *of_type("pointer", "q k v q_rotated k_cache v_cache page_table prefix_lens rotary_cos rotary_sin"),
        *of_type("pointer", "k_scale v_scale"),
        *strides(("q", "k", "v", "k_cache", "v_cache")),
        *of_type("i64", "k_scale_stride v_scale_stride page_table_stride cos_stride sin_stride"),
        *of_type("int", "rows tokens heads_q heads_kv head_dim head_dim_v prefix rotary_dim rotary_float"),
        *of_type("int", "page_shift num_pages table_pages rows_per_tile blocks_per_tile"),
        *of_type("float", "k_descale v_descale"),
    )
)
"""``AppendParams`` of common/append_params.cuh."""


class Pairs(Enum):
    """Which elements of a head a rotary embedding turns together; the value is the macro's."""

    NONE = 0
    """No rotary embedding."""
    HALVES = 1
    """j and j + rotary_dim / 2."""
    INTERLEAVED = 2
    """2j and 2j + 1."""

    __hash__ = object.__hash__  # Enum's own is a Python function

    @classmethod
    def of(cls, rotary: Rotary | None) -> Pairs:
        """Those of an embedding."""
        if rotary is None:
            return cls.NONE
        return cls.INTERLEAVED if rotary.interleaved else cls.HALVES


_FP8 = (None, DType.F8E4M3, DType.F8E5M2)
"""What a cache may hold, by the macro's value: the type of the new keys, or fp8."""


@dataclass(frozen=True, slots=True)
class AppendSpec(KernelSpec):
    """A specialisation of common/append.cu, which takes any head_dim.

    Attributes:
        fp8: element type of the caches where it is not ``dtype``.
        pairs: what is turned together.
    """

    kind: ClassVar[str] = "append"
    source: ClassVar[str] = "common/append.cu"
    entry: ClassVar[str] = "flash_append"
    params: ClassVar[StructLayout] = APPEND_PARAMS

    fp8: DType | None
    pairs: Pairs

    @property
    def threads(self) -> int:
        return THREADS

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            ("FA_FP8", str(_FP8.index(self.fp8))),
            ("FA_ROTARY", str(self.pairs.value)),
            ("FA_THREADS", str(THREADS)),
        )

    @property
    def features(self) -> tuple[str, ...]:
        cache = () if self.fp8 is None else (self.fp8.tag,)
        rotary = {Pairs.NONE: (), Pairs.HALVES: ("rotary",), Pairs.INTERLEAVED: ("rotary_interleaved",)}
        return ("append", *cache, *rotary[self.pairs])


def append_spec(
    arch: SmArch, dtype: DType, cache_dtype: DType | None = None, pairs: Pairs = Pairs.NONE
) -> AppendSpec:
    """The append kernel for new keys of one type, a cache of this or an fp8 type, and a kind of embedding."""
    fp8 = None if cache_dtype is dtype else cache_dtype
    return AppendSpec(COMMON, arch, dtype, fp8, pairs)


def append_specs(arch: SmArch) -> tuple[AppendSpec, ...]:
    """Every append kernel, each once."""
    cells = product(DTYPES, _FP8, Pairs)
    return tuple(AppendSpec(COMMON, arch, dtype, fp8, pairs) for dtype, fp8, pairs in cells)


def append_launch(
    spec: AppendSpec,
    q: ArrayView | None,
    k: ArrayView,
    v: ArrayView,
    k_cache: ArrayView,
    v_cache: ArrayView,
    *,
    q_rotated: int = 0,
    prefix: int = 0,
    prefix_lens: ArrayView | None = None,
    pages: PageTable | None = None,
    rotary: Rotary | None = None,
    k_scale: float | ArrayView = 1.0,
    v_scale: float | ArrayView = 1.0,
    guard: bool = False,
) -> KernelLaunch:
    """Write new keys and values behind each sequence's prefix; with a rotary embedding, turn q into a copy.

    Args:
        spec: the kernel.
        q: ``[batch, tokens, heads_q, head_dim]``; only read with ``rotary``.
        k: ``[batch, tokens, heads_kv, head_dim]``.
        v: ``[batch, tokens, heads_kv, head_dim_v]``.
        k_cache, v_cache: ``[batch, capacity, heads_kv, ...]``, or with ``pages`` a pool in the layout that
            these name.
        q_rotated: address of a contiguous array of q's shape, 16-byte aligned.
        prefix: keys that all sequences have, unless ``prefix_lens`` (int32 ``[batch]``) says how many.
        pages: where the pages of the caches are.
        rotary: turns q and k.
        k_scale, v_scale: descales of fp8 caches: what is stored is ``x / scale``.
        guard: whether nothing is stored in a page that is not in the pool.

    Raises:
        LaunchError: too many rows for a grid. OperandError: a small array that is not contiguous.
    """
    batch, tokens, heads_kv, head_dim = k.shape
    head_dim_v = v.shape[-1]
    rows = batch * tokens
    hnd = pages is not None and pages.layout is KvLayout.HND
    heads_q = q.shape[2] if q is not None and rotary is not None else 0
    rows_per_tile, blocks_per_tile = _tiling(
        (heads_kv * (head_dim + head_dim_v) + heads_q * head_dim) // CHUNK, rows
    )
    values: dict[str, Value] = {
        "k": k.pointer,
        "v": v.pointer,
        "k_cache": k_cache.pointer,
        "v_cache": v_cache.pointer,
        "q_rotated": q_rotated,
        "prefix_lens": 0 if prefix_lens is None else contiguous({"prefix_lens": prefix_lens}, "prefix_lens"),
        **row_strides("k", k),
        **row_strides("v", v),
        **row_strides("k_cache", k_cache, heads_first=hnd),
        **row_strides("v_cache", v_cache, heads_first=hnd),
        **scale_values("k", k_scale),
        **scale_values("v", v_scale),
        **_query_values(q, rotary),
        **page_values(k_cache, pages, guard=guard),
        "rows": rows,
        "tokens": tokens,
        "heads_q": heads_q,
        "heads_kv": heads_kv,
        "head_dim": head_dim,
        "head_dim_v": head_dim_v,
        "prefix": prefix,
        "rows_per_tile": rows_per_tile,
        "blocks_per_tile": blocks_per_tile,
    }
    return launch(spec, -(-rows // rows_per_tile) * blocks_per_tile, APPEND_PARAMS.pack(values))


def _tiling(chunks: int, rows: int) -> tuple[int, int]:
    """Rows that share a block and blocks that share a row, for rows of so many chunks: one of both is 1."""
    if chunks > THREADS:
        return 1, -(-chunks // THREADS)
    return min(THREADS // chunks, rows), 1


def _query_values(q: ArrayView | None, rotary: Rotary | None) -> dict[str, Value]:
    if q is None or rotary is None:
        names = "q q_stride_batch q_stride_row q_stride_head rotary_cos rotary_sin cos_stride sin_stride"
        return dict.fromkeys((*names.split(), "rotary_dim", "rotary_float"), 0)
    return {
        "q": q.pointer,
        **row_strides("q", q),
        "rotary_cos": rotary.cos.pointer,
        "rotary_sin": rotary.sin.pointer,
        "cos_stride": rotary.cos.strides[0],
        "sin_stride": rotary.sin.strides[0],
        "rotary_dim": 2 * rotary.cos.shape[1],
        "rotary_float": int(rotary.cos.dtype == "float32"),
    }
