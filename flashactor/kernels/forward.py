"""The forward pass of the mma.sync family: which kernels a request needs, and what they are told. Pure
functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashactor.kernels.combine import combine_launch, combine_spec
from flashactor.kernels.launch import KernelLaunch, launch
from flashactor.kernels.params import FWD_PARAMS, Value
from flashactor.kernels.problem import (
    Arrays,
    Extent,
    extent_of,
    lse_strides,
    page_values,
    problem_values,
    row_strides,
    scale_values,
    scores_of,
)
from flashactor.kernels.sm80 import (
    DECODE_ROWS,
    SHARED_BYTES_PER_BLOCK,
    ForwardSpec,
    forward_spec,
)
from flashactor.kernels.sm80_fp8 import Fp8ForwardSpec, fp8_forward_spec
from flashactor.kernels.spec import KernelSpec, Scores
from flashactor.kernels.splits import choose_splits, invariant_splits
from flashactor.kernels.workspace import Workspace
from flashactor.requests import AttentionRequest, ChunkedPrefillRequest, KvLayout, PagedAttentionRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.requests.operands import PageTable
from flashactor.requests.scaled import CachedKvRequest
from flashactor.types import DType, SmArch

BLOCKS_PER_SM = 3
"""Thread blocks of a multiprocessor that splits are planned for: a decode tile's registers allow three."""


@dataclass(frozen=True, slots=True)
class ForwardShape:
    """How a request is cut into thread blocks.

    Attributes:
        spec: the kernel.
        extent: sizes of the problem.
        pack: query heads that share a tile: those of one key/value head, or 1.
        q_tiles: tiles of a sequence and of ``pack`` heads.
        num_splits: thread blocks that share a tile's keys.
        blocks_per_split: key blocks of a split, 0 for equal parts.
    """

    spec: ForwardSpec | Fp8ForwardSpec
    extent: Extent
    pack: int
    q_tiles: int
    num_splits: int
    blocks_per_split: int

    @property
    def workspace(self) -> Workspace:
        """Room for the partial results of splits."""
        if self.num_splits == 1:
            return Workspace({})
        rows = self.num_splits * self.extent.rows * self.extent.heads_q
        return Workspace({"partial_out": rows * self.spec.head_dim_v * 4, "partial_lse": rows * 4})


def forward_kernel(
    request: AttentionRequest, arch: SmArch, *, decode: bool = False
) -> ForwardSpec | Fp8ForwardSpec:
    """The main kernel of a request, also of a bare cell."""
    if isinstance(request, Fa2FwdFp8Request):
        return fp8_forward_spec(
            arch,
            request.head_dim,
            request.head_dim_v,
            k_dtype=request.kv_dtype,
            v_dtype=request.v_dtype,
            scores=scores_of(request),
            decode=decode,
        )
    return forward_spec(
        arch,
        request.dtype,
        request.head_dim,
        request.head_dim_v,
        scores=scores_of(request),
        paged=request.paged,
        fp8_kv=isinstance(request, CachedKvRequest) and request.kv_dtype.is_fp8,
        decode=decode,
    )


def forward_shape(request: AttentionRequest, arch: SmArch) -> ForwardShape:
    """How a request is cut; it depends on nothing that only the device knows.

    The choice of kernels, the workspace and the launches all ask for it, so the request keeps it.

    Raises:
        MissingOperandsError: a bare cell.
    """
    shape: ForwardShape | None = request.memo.get((forward_shape, arch))
    if shape is None:
        shape = request.memo[forward_shape, arch] = _forward_shape(request, arch)
    return shape


def _forward_shape(request: AttentionRequest, arch: SmArch) -> ForwardShape:
    extent = extent_of(request)
    ratio = extent.heads_q // extent.heads_kv
    # Dropout's random words belong to an m16 tile of queries of one head.
    pack = 1 if scores_of(request) is Scores.DROPOUT else ratio
    # Where sequences are packed, the longest one would decide for the others.
    alone = not (request.batch_invariant and extent.packed)
    decode = alone and extent.seqlen_q * pack <= DECODE_ROWS
    spec = forward_kernel(request, arch, decode=decode)
    if spec.tile.key_warps == 1 and extent.seqlen_q >= spec.tile.m:
        pack = 1  # whole tiles of one head: nothing to gain, and rows follow each other in memory
    q_tiles = -(-extent.seqlen_q * pack // spec.tile.m)
    tiles = extent.batch * (extent.heads_q // pack) * q_tiles
    if not request.batch_invariant:
        per_sm = min(BLOCKS_PER_SM, SHARED_BYTES_PER_BLOCK[arch] // spec.shared_bytes)
        keys = _visible_keys(request, extent)
        num_splits, blocks = choose_splits(tiles, keys, spec.tile.n, per_sm, arch), 0
    elif decode:
        # A window may begin and end within a block.
        keys = min(extent.seqlen_k, _visible_keys(request, extent) + 2 * spec.tile.n)
        num_splits, blocks = invariant_splits(keys, spec.tile.n)
        if request.require_operands().sink_logits is not None:
            num_splits = max(num_splits, 2)  # sinks join in the combine kernel, also of one split's keys
    else:
        num_splits, blocks = 1, 0  # many rows need no splits; partial results of them would need much memory
    return ForwardShape(spec, extent, pack, q_tiles, num_splits, blocks)


def forward_kernels(request: AttentionRequest, arch: SmArch) -> tuple[KernelSpec, ...]:
    """The kernels of a forward pass; of a bare cell, all that one like it may take."""
    combine = combine_spec(arch, _out_dtype(request))
    if request.operands is None:
        main = dict.fromkeys(forward_kernel(request, arch, decode=decode) for decode in (False, True))
        return (*main, combine)
    shape = forward_shape(request, arch)
    return (shape.spec,) if shape.num_splits == 1 else (shape.spec, combine)


def forward_workspace(request: AttentionRequest, arch: SmArch) -> Workspace:
    """The scratch memory of a forward pass.

    Raises:
        MissingOperandsError: a bare cell.
    """
    return forward_shape(request, arch).workspace


def forward_launches(
    request: AttentionRequest, arch: SmArch, arrays: Arrays, addresses: dict[str, int]
) -> tuple[KernelLaunch, ...]:
    """The launches of a forward pass.

    Args:
        request: a request with arrays.
        arch: architecture of the device.
        arrays: the request's arrays, with out and lse.
        addresses: of the parts of the workspace.

    Raises:
        LaunchError: more thread blocks than a grid can have. OperandError: a small array that is not
            contiguous.
    """
    shape = forward_shape(request, arch)
    if isinstance(request, PagedAttentionRequest):
        arrays = {**arrays, "k": arrays["k_cache"], "v": arrays["v_cache"]}
    main = launch(
        shape.spec,
        shape.extent.batch * (shape.extent.heads_q // shape.pack) * shape.num_splits * shape.q_tiles,
        FWD_PARAMS.pack(_values(request, shape, arrays, addresses)),
    )
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
    request: AttentionRequest, shape: ForwardShape, arrays: Arrays, addresses: dict[str, int]
) -> dict[str, Value]:
    extent = shape.extent
    pages = _pages_of(request, arrays)
    hnd = pages is not None and pages.layout is KvLayout.HND
    multiplier, shift = division(shape.pack)
    rows = extent.rows if extent.packed else extent.seqlen_q
    values: dict[str, Value] = {
        **problem_values(request, extent, arrays),
        **{name: arrays[name].pointer for name in ("q", "k", "v", "out", "lse")},
        "partial_out": addresses.get("partial_out", 0),
        "partial_lse": addresses.get("partial_lse", 0),
        **row_strides("q", arrays["q"]),
        **row_strides("k", arrays["k"], heads_first=hnd),
        **row_strides("v", arrays["v"], heads_first=hnd),
        **row_strides("out", arrays["out"]),
        **lse_strides(arrays["lse"]),
        **page_values(arrays["k"], pages, guard=isinstance(request, CachedKvRequest) and request.guard),
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
    """(multiplier, shift) with ``n // divisor == (n * multiplier >> 32) >> shift`` for 0 <= n < 2**31.

    Granlund and Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994, section 4. A
    divisor of 1 has no multiplier of 32 bits; the kernels do not divide by it.
    """
    if divisor == 1:
        return 0, 0
    bits = (divisor - 1).bit_length()
    return 2 ** (31 + bits) // divisor + 1, bits - 1
