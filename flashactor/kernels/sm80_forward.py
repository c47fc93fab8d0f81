"""Forward passes on the mma.sync family: how a request is cut into thread blocks, and its main launch."""

from __future__ import annotations

from flashactor.kernels.forward import ForwardFamily, ForwardShape, Keys, count_splits
from flashactor.kernels.launch import KernelLaunch, launch
from flashactor.kernels.params import FWD_PARAMS, Value
from flashactor.kernels.problem import Arrays, Extent, scores_of
from flashactor.kernels.sm80 import (
    DECODE_ROWS,
    FAMILY,
    SHARED_BYTES_PER_BLOCK,
    ForwardSpec,
    forward_spec,
)
from flashactor.kernels.sm80_fp8 import Fp8ForwardSpec, fp8_forward_spec, fp8_reasons, row_reasons
from flashactor.kernels.spec import Scores
from flashactor.requests import AttentionRequest
from flashactor.requests.fp8 import Fa2FwdFp8Request
from flashactor.requests.scaled import CachedKvRequest
from flashactor.types import SmArch

BLOCKS_PER_SM = 3
"""Thread blocks of a multiprocessor that splits are planned for: a decode tile's registers allow three."""


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


def _cut(request: AttentionRequest, arch: SmArch, extent: Extent) -> ForwardShape:
    # Dropout's random words belong to an m16 tile of queries of one head.
    pack = 1 if scores_of(request) is Scores.DROPOUT else extent.gqa_ratio
    decode = extent.longest_may_decide(request) and extent.seqlen_q * pack <= DECODE_ROWS
    spec = forward_kernel(request, arch, decode=decode)
    if spec.tile.key_warps == 1 and extent.seqlen_q >= spec.tile.m:
        pack = 1  # whole tiles of one head: nothing to gain, and rows follow each other in memory
    q_tiles = -(-extent.seqlen_q * pack // spec.tile.m)
    per_sm = min(BLOCKS_PER_SM, SHARED_BYTES_PER_BLOCK[arch] // spec.shared_bytes)
    tiles = extent.batch * (extent.heads_q // pack) * q_tiles
    splits = count_splits(request, arch, extent, spec.tile.n, tiles, per_sm, decode=decode)
    return ForwardShape(spec, extent, pack, q_tiles, *splits)


def _launch(
    request: AttentionRequest, shape: ForwardShape, keys: Keys, arrays: Arrays, values: dict[str, Value]
) -> KernelLaunch:
    return launch(shape.spec, shape.tiles, FWD_PARAMS.pack(values))


def _reasons(request: AttentionRequest, arch: SmArch) -> tuple[str, ...]:
    """What the family lacks so far; a feature that gets its kernel leaves this list."""
    if isinstance(request, Fa2FwdFp8Request):
        return fp8_reasons(request, arch)
    if isinstance(request, CachedKvRequest) and request.kv_dtype.is_fp8:
        return tuple(row_reasons(request))
    return ()


SM80 = ForwardFamily(FAMILY, _reasons, forward_kernel, _cut, _launch)
"""Every architecture runs it."""
