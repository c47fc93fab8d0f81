"""The backward pass of the mma.sync family: which kernels a request needs, and what they are told.

Each row's lse and delta first, then dk and dv; dq comes from a kernel of its own, or for a request that is
not deterministic from the float32 sums that the kernel of dk adds up as well. Last the sums over blocks.
Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flashactor.arrays import ArrayView
from flashactor.kernels.backward_params import BWD_PARAMS, REDUCE_PARAMS
from flashactor.kernels.backward_spec import (
    STAT_ROWS,
    BackwardSpecs,
    ConvertSpec,
    DqSpec,
    ReduceSpec,
    backward_specs,
)
from flashactor.kernels.launch import KernelLaunch, launch
from flashactor.kernels.params import Value
from flashactor.kernels.problem import (
    Arrays,
    Extent,
    extent_of,
    lse_strides,
    problem_values,
    row_strides,
    scores_of,
)
from flashactor.kernels.spec import KernelSpec
from flashactor.kernels.workspace import Workspace
from flashactor.requests.fa2 import Fa2BwdRequest
from flashactor.requests.varlen import VarlenBwdRequest
from flashactor.types import SmArch

BackwardRequest = Fa2BwdRequest | VarlenBwdRequest


@dataclass(frozen=True, slots=True)
class BackwardShape:
    """How a request is cut into thread blocks.

    Attributes:
        specs: the kernels.
        extent: sizes of the problem.
        has_sinks, has_slopes: whether their gradients are computed.
    """

    specs: BackwardSpecs
    extent: Extent
    has_sinks: bool
    has_slopes: bool

    @property
    def stat_rows(self) -> int:
        """Rows of a head in the workspace: whole tiles for each sequence."""
        if self.extent.packed:
            return (self.extent.rows // STAT_ROWS + self.extent.batch) * STAT_ROWS
        return _tiles(self.extent.seqlen_q, STAT_ROWS) * STAT_ROWS

    @property
    def dsink_tiles(self) -> int:
        """Partial sums of a head's sink: one for each block of the first kernel."""
        return _tiles(self.extent.seqlen_q, STAT_ROWS)

    @property
    def dslopes_tiles(self) -> int:
        """Partial sums of a head's slope: one for each block of the kernel that has dS to sum."""
        if isinstance(self.specs.dq, DqSpec):
            return _tiles(self.extent.seqlen_q, self.specs.dq.tile.m)
        return _tiles(self.extent.seqlen_k, self.specs.dkdv[0].tile.n)

    @property
    def workspace(self) -> Workspace:
        """Row statistics, the float32 sums of dq, and partial sums; the kernels initialise it."""
        entries = 1 if self.extent.packed else self.extent.batch
        rows = 4 * entries * self.extent.heads_q * self.stat_rows
        cells = 4 * self.extent.batch * self.extent.heads_q
        parts = {"row_lse": rows, "row_term": rows}
        if isinstance(self.specs.dq, ConvertSpec):
            parts["dq_accumulator"] = rows * self.specs.dq.head_dim
        if self.has_sinks:
            parts["dsink_partials"] = cells * self.dsink_tiles
        if self.has_slopes:
            parts["dslopes_partials"] = cells * self.dslopes_tiles
        return Workspace(parts)


def specs_of(request: BackwardRequest, arch: SmArch) -> BackwardSpecs:
    """The kernels of a request, also of a bare cell."""
    return backward_specs(
        arch,
        request.dtype,
        request.head_dim,
        request.head_dim_v,
        scores_of(request),
        # Atomic additions come in the order in which the whole batch's blocks run.
        deterministic=request.deterministic or request.batch_invariant,
    )


def backward_shape(request: BackwardRequest, arch: SmArch) -> BackwardShape:
    """How a request is cut; it depends on nothing that only the device knows.

    Raises:
        MissingOperandsError: a bare cell.
    """
    operands = request.require_operands()
    return BackwardShape(
        specs_of(request, arch),
        extent_of(request),
        has_sinks=operands.sink_logits is not None,
        has_slopes=operands.alibi_slopes is not None,
    )


def backward_kernels(request: BackwardRequest, arch: SmArch) -> tuple[KernelSpec, ...]:
    """The kernels of a backward pass; of a bare cell, all that one like it may take."""
    specs = specs_of(request, arch)
    main = (specs.preprocess, *specs.dkdv, specs.dq)
    if request.operands is None:
        return (*main, specs.reduce)
    shape = backward_shape(request, arch)
    return (*main, specs.reduce) if shape.has_sinks or shape.has_slopes else main


def backward_workspace(request: BackwardRequest, arch: SmArch) -> Workspace:
    """The scratch memory of a backward pass.

    Raises:
        MissingOperandsError: a bare cell.
    """
    return backward_shape(request, arch).workspace


def backward_launches(
    request: BackwardRequest, arch: SmArch, arrays: Arrays, addresses: dict[str, int]
) -> tuple[KernelLaunch, ...]:
    """The launches of a backward pass.

    Args:
        request: a request with arrays.
        arch: architecture of the device.
        arrays: the request's arrays, with out, lse, dq, dk and dv, and with dsink_logits and dalibi_slopes
            if it has sinks and slopes.
        addresses: of the parts of the workspace.

    Raises:
        LaunchError: more thread blocks than a grid can have.
        OperandError: a small array that is not contiguous.
    """
    return tuple(_launches(request, backward_shape(request, arch), arrays, addresses))


def _launches(
    request: BackwardRequest, shape: BackwardShape, arrays: Arrays, addresses: dict[str, int]
) -> Iterator[KernelLaunch]:
    specs, extent = shape.specs, shape.extent
    values = _values(request, shape, arrays, addresses)

    def over_tiles(spec: KernelSpec, heads: int, tiles: int) -> Iterator[KernelLaunch]:
        blocks = extent.batch * heads * tiles
        if blocks:
            yield launch(spec, blocks, BWD_PARAMS.pack({**values, "tiles": tiles}))

    yield from over_tiles(specs.preprocess, extent.heads_q, _tiles(extent.seqlen_q, STAT_ROWS))
    for spec in specs.dkdv:
        yield from over_tiles(spec, extent.heads_kv, _tiles(extent.seqlen_k, spec.tile.n))
    yield from over_tiles(specs.dq, extent.heads_q, _tiles(extent.seqlen_q, specs.dq.tile.m))
    if shape.has_sinks:
        partials = addresses["dsink_partials"]
        yield from _sums(specs.reduce, extent, arrays["dsink_logits"], partials, shape.dsink_tiles)
    if shape.has_slopes:
        partials = addresses["dslopes_partials"]
        yield from _sums(specs.reduce, extent, arrays["dalibi_slopes"], partials, shape.dslopes_tiles)


def _sums(
    spec: ReduceSpec, extent: Extent, sums: ArrayView, partials: int, tiles: int
) -> Iterator[KernelLaunch]:
    """The launch that adds partial sums up, over the batch too where ``sums`` is ``[heads_q]``."""
    over_batch = len(sums.shape) == 1
    values: dict[str, Value] = {
        "partials": partials,
        "sums": sums.pointer,
        "sums_stride_batch": 0 if over_batch else sums.strides[0],
        "sums_stride_head": sums.strides[-1],
        "batch": extent.batch,
        "heads": extent.heads_q,
        "tiles": tiles,
        "sums_batch": 1 if over_batch else extent.batch,
    }
    if sums.size:
        yield launch(spec, sums.size, REDUCE_PARAMS.pack(values))


def _values(
    request: BackwardRequest, shape: BackwardShape, arrays: Arrays, addresses: dict[str, int]
) -> dict[str, Value]:
    """The fields of ``BwdParams`` but ``tiles``."""
    tensors = ("q", "k", "v", "dout", "out", "dq", "dk", "dv")
    parts = ("row_lse", "row_term", "dq_accumulator", "dsink_partials", "dslopes_partials")
    # Strides are read only where the pointer is not null.
    dlse = arrays.get("dlse")
    values: dict[str, Value] = {
        **problem_values(request, shape.extent, arrays),
        **{name: arrays[name].pointer for name in (*tensors, "lse")},
        "dlse": 0 if dlse is None else dlse.pointer,
        **{name: addresses.get(name, 0) for name in parts},
        **lse_strides(arrays["lse"]),
        **lse_strides(arrays["lse"] if dlse is None else dlse, "dlse"),
        "stat_rows": shape.stat_rows,
        "padded_head_dim": shape.specs.dq.head_dim,
        "softmax_scale": request.scale,
        "unused": 0,
    }
    for name in tensors:
        values |= row_strides(name, arrays[name])
    return values


def _tiles(count: int, size: int) -> int:
    return -(-count // size)
