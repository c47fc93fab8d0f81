"""The forward pass: which kernels a request needs, and what they are told. Pure functions.

A family of kernels says how it cuts a request into thread blocks, and makes its main launch; the rest is the
same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from flashactor.arrays import ArrayView
from flashactor.kernels.combine import combine_launch, combine_spec
from flashactor.kernels.launch import KernelLaunch
from flashactor.kernels.params import Value
from flashactor.kernels.problem import (
    Arrays,
    Extent,
    extent_of,
    lse_strides,
    page_values,
    problem_values,
    row_strides,
    scale_values,
)
from flashactor.kernels.spec import KernelSpec, TiledSpec
from flashactor.kernels.splits import choose_splits, invariant_splits
from flashactor.kernels.workspace import Workspace
from flashactor.requests import AttentionRequest, ChunkedPrefillRequest, KvLayout, PagedAttentionRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.requests.operands import PageTable
from flashactor.requests.scaled import CachedKvRequest
from flashactor.types import DType, SmArch


@dataclass(frozen=True, slots=True)
class ForwardShape:
    """How a request is cut into thread blocks.

    Attributes:
        spec: the kernel.
        extent: sizes of the problem.
        pack: query heads that share a tile: those of one key/value head, or some of them, or 1.
        q_tiles: tiles of a sequence and of ``pack`` heads.
        num_splits: thread blocks that share a tile's keys.
        blocks_per_split: key blocks of a split, 0 for equal parts.
    """

    spec: TiledSpec
    extent: Extent
    pack: int
    q_tiles: int
    num_splits: int
    blocks_per_split: int

    @property
    def lines(self) -> int:
        """What has ``q_tiles`` tiles each: groups of ``pack`` heads, over sequences and splits."""
        return self.extent.batch * (self.extent.heads_q // self.pack) * self.num_splits

    @property
    def tiles(self) -> int:
        """Tiles of queries, each for every split."""
        return self.lines * self.q_tiles

    @property
    def workspace(self) -> Workspace:
        """Room for the partial results of splits."""
        if self.num_splits == 1:
            return Workspace({})
        rows = self.num_splits * self.extent.rows * self.extent.heads_q
        return Workspace({"partial_out": rows * self.spec.head_dim_v * 4, "partial_lse": rows * 4})


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a forward pass finds keys and values.

    Attributes:
        k, v: arrays of rows, or pools of pages.
        pages: the pages, where keys lie in such, with the table that kernels read.
    """

    k: ArrayView
    v: ArrayView
    pages: PageTable | None

    @property
    def heads_first(self) -> bool:
        """Whether a page is ``[head, row, dim]``."""
        return self.pages is not None and self.pages.layout is KvLayout.HND


class MainKernel(Protocol):
    """The main kernel of a request, also of a bare cell."""

    def __call__(self, request: AttentionRequest, arch: SmArch, *, decode: bool = False) -> TiledSpec:
        """``decode``: whether there are few rows."""


@dataclass(frozen=True, slots=True)
class ForwardFamily:
    """Kernels of forward passes that belong together.

    Attributes:
        name: what specifications, requests, the registry and tables call it.
        reasons_against: what it lacks for a request on an architecture; empty if it computes it.
        kernel: its main kernel for a request that it computes.
        cut: how it cuts a request with arrays.
        launch: the launch of the main kernel, from the request, its cut, its keys, its arrays and the values
            of ``FwdParams``.
    """

    name: str
    reasons_against: Callable[[AttentionRequest, SmArch], tuple[str, ...]]
    kernel: MainKernel
    cut: Callable[[AttentionRequest, SmArch, Extent], ForwardShape]
    launch: Callable[[AttentionRequest, ForwardShape, Keys, Arrays, dict[str, Value]], KernelLaunch]


def forward_shape(request: AttentionRequest, arch: SmArch, family: ForwardFamily) -> ForwardShape:
    """How a family cuts a request; it depends on nothing that only the device knows.

    The choice of kernels, the workspace and the launches all ask for it, so the request keeps it.

    Raises:
        MissingOperandsError: a bare cell.
    """
    shape: ForwardShape | None = request.memo.get((family.name, arch))
    if shape is None:
        shape = request.memo[family.name, arch] = family.cut(request, arch, extent_of(request))
    return shape


def count_splits(
    request: AttentionRequest,
    arch: SmArch,
    extent: Extent,
    tile_n: int,
    tiles: int,
    per_sm: int,
    *,
    decode: bool,
) -> tuple[int, int]:
    """(splits of each tile's keys, key blocks of each or 0 for equal parts).

    Args:
        request, arch, extent: what is computed.
        tile_n: keys of a block.
        tiles: thread blocks without splits.
        per_sm: thread blocks that a multiprocessor holds.
        decode: whether tiles are those for few rows.
    """
    if not request.batch_invariant:
        return choose_splits(tiles, _visible_keys(request, extent), tile_n, per_sm, arch), 0
    if not decode:
        return 1, 0  # many rows need no splits; partial results of them would need much memory
    # A window may begin and end within a block.
    keys = min(extent.seqlen_k, _visible_keys(request, extent) + 2 * tile_n)
    num_splits, blocks = invariant_splits(keys, tile_n)
    if request.require_operands().sink_logits is not None:
        num_splits = max(num_splits, 2)  # sinks join in the combine kernel, also of one split's keys
    return num_splits, blocks


def forward_kernels(request: AttentionRequest, arch: SmArch, family: ForwardFamily) -> tuple[KernelSpec, ...]:
    """The kernels of a forward pass; of a bare cell, all that one like it may take."""
    combine = combine_spec(arch, _out_dtype(request))
    if request.operands is None:
        main = dict.fromkeys(family.kernel(request, arch, decode=decode) for decode in (False, True))
        return (*main, combine)
    shape = forward_shape(request, arch, family)
    return (shape.spec,) if shape.num_splits == 1 else (shape.spec, combine)


def forward_workspace(request: AttentionRequest, arch: SmArch, family: ForwardFamily) -> Workspace:
    """The scratch memory of a forward pass.

    Raises:
        MissingOperandsError: a bare cell.
    """
    return forward_shape(request, arch, family).workspace


def forward_launches(
    request: AttentionRequest,
    arch: SmArch,
    family: ForwardFamily,
    arrays: Arrays,
    addresses: dict[str, int],
) -> tuple[KernelLaunch, ...]:
    """The launches of a forward pass.

    Args:
        request: a request with arrays.
        arch: architecture of the device.
        family: whose kernels.
        arrays: the request's arrays, with out and lse.
        addresses: of the parts of the workspace.

    Raises:
        LaunchError: more thread blocks than a grid can have. OperandError: a small array that is not
            contiguous.
    """
    shape = forward_shape(request, arch, family)
    if isinstance(request, PagedAttentionRequest):
        arrays = {**arrays, "k": arrays["k_cache"], "v": arrays["v_cache"]}
    keys = Keys(arrays["k"], arrays["v"], _pages_of(request, arrays))
    values = _values(request, shape, keys, arrays, addresses)
    main = family.launch(request, shape, keys, arrays, values)
    if shape.num_splits == 1:
        return (main,)
    partial = addresses["partial_out"], addresses["partial_lse"]
    spec = combine_spec(arch, _out_dtype(request))
    return main, combine_launch(spec, shape.extent, request.head_dim_v, shape.num_splits, partial, arrays)


def _out_dtype(request: AttentionRequest) -> DType:
    """The type of out."""
    return request.out_dtype if isinstance(request, Fa2FwdFp8Request) else request.dtype


def _visible_keys(request: AttentionRequest, extent: Extent) -> int:
    """The most keys that a tile of few queries sees."""
    mask = request.mask
    if mask.window_left < 0 or mask.window_right < 0:
        return extent.seqlen_k
    window = mask.window_left + mask.window_right + extent.seqlen_q + request.sink_tokens
    return min(extent.seqlen_k, window)


def _values(
    request: AttentionRequest,
    shape: ForwardShape,
    keys: Keys,
    arrays: Arrays,
    addresses: dict[str, int],
) -> dict[str, Value]:
    extent = shape.extent
    multiplier, shift = division(shape.pack)
    rows = extent.rows if extent.packed else extent.seqlen_q
    values: dict[str, Value] = {
        **problem_values(request, extent, arrays),
        **{name: arrays[name].pointer for name in ("q", "k", "v", "out", "lse")},
        "partial_out": addresses.get("partial_out", 0),
        "partial_lse": addresses.get("partial_lse", 0),
        **row_strides("q", arrays["q"]),
        **row_strides("k", keys.k, heads_first=keys.heads_first),
        **row_strides("v", keys.v, heads_first=keys.heads_first),
        **row_strides("out", arrays["out"]),
        **lse_strides(arrays["lse"]),
        **page_values(keys.k, keys.pages, guard=isinstance(request, CachedKvRequest) and request.guard),
        "partial_rows": extent.rows * extent.heads_q,
        "partial_stride_batch": 0 if extent.packed else extent.heads_q * rows,
        "partial_stride_head": rows,
        "q_tiles": shape.q_tiles,
        "pack": shape.pack,
        "pack_multiplier": multiplier,
        "pack_shift": shift,
        "num_splits": shape.num_splits,
        "blocks_per_split": shape.blocks_per_split,
        "kv_e5m2": int(arrays["k"].dtype == DType.F8E5M2.numpy_name),
        "out_bf16": int(_out_dtype(request) is DType.BF16),
        "reserved_fwd": 0,
    }
    for name in ("q", "k", "v"):
        field = f"{name}_scale"
        values |= scale_values(name, arrays.get(field, getattr(request, field, 1.0)))
    return values


def _pages_of(request: AttentionRequest, arrays: Arrays) -> PageTable | None:
    """The pages of a request's keys, if they lie in pages, with the table that kernels read."""
    pages = None
    if isinstance(request, PagedAttentionRequest):
        pages = request.pages
    elif isinstance(request, ChunkedPrefillRequest) and request.append is not None:
        pages = request.append.pages
    return pages and replace(pages, page_table=arrays["page_table"])


def division(divisor: int) -> tuple[int, int]:
    """(multiplier, shift) with ``n // divisor == (2 * n * multiplier >> 32) >> shift`` for 0 <= n < 2**31.

    Granlund and Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994, section 4. The
    multiplier of n itself has 33 bits for a divisor of 1; that of 2 n has 32 for all.
    """
    bits = (divisor - 1).bit_length()
    return 2 ** (31 + bits) // divisor + 1, bits
