"""Chunked prefill and decoding with append: the new keys join the cache, then the forward pass reads it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from flashactor.arrays import ArrayView
from flashactor.kernels.append import AppendSpec, Pairs, append_launch, append_spec
from flashactor.kernels.launch import KernelLaunch
from flashactor.kernels.problem import Arrays
from flashactor.kernels.workspace import Workspace
from flashactor.requests import ChunkedPrefillRequest
from flashactor.requests.operands import KvCacheAppend, Rotary
from flashactor.types import SmArch


def append_kernels(request: ChunkedPrefillRequest, arch: SmArch) -> tuple[AppendSpec, ...]:
    """The kernel that appends; for a bare cell, which has no embedding yet, that of each kind of them."""
    kinds = tuple(Pairs) if request.append is None else (Pairs.of(request.append.rotary),)
    return tuple(append_spec(arch, request.dtype, request.kv_dtype, pairs) for pairs in kinds)


def append_workspace(request: ChunkedPrefillRequest) -> Workspace:
    """Room for a rotated copy of q, where there is an embedding.

    Raises:
        MissingOperandsError: a bare cell.
    """
    q = request.require_operands().q
    rotated = request.append is not None and request.append.rotary is not None
    return Workspace({"q_rotated": prod(q.shape) * q.itemsize} if rotated else {})


def append_step(
    request: ChunkedPrefillRequest, arch: SmArch, arrays: Arrays, addresses: dict[str, int]
) -> tuple[KernelLaunch, dict[str, ArrayView]]:
    """The launch that appends, and the arrays that the forward pass reads after it.

    Args:
        request: a request with arrays.
        arch: architecture of the device.
        arrays: its arrays.
        addresses: of the parts of the workspace.

    Raises:
        LaunchError: too many rows for a grid. OperandError: a small array that is not contiguous.
    """
    append = request.append
    assert append is not None  # with the arrays
    q, k_cache, v_cache = arrays["q"], arrays["k_cache"], arrays["v_cache"]
    (spec,) = append_kernels(request, arch)
    launch = append_launch(
        spec,
        q,
        arrays["k"],
        arrays["v"],
        k_cache,
        v_cache,
        q_rotated=addresses.get("q_rotated", 0),
        prefix=request.chunk.prefix_kv_tokens,
        prefix_lens=arrays.get("prefix_lens"),
        pages=append.pages and replace(append.pages, page_table=arrays["page_table"]),
        rotary=_rotary(append, arrays),
        k_scale=arrays.get("k_scale", request.k_scale),
        v_scale=arrays.get("v_scale", request.v_scale),
        guard=request.guard,
    )
    read = {**arrays, "k": k_cache, "v": v_cache}
    if "q_rotated" in addresses:
        read["q"] = replace(q, pointer=addresses["q_rotated"], strides=_contiguous(q.shape))
    return launch, read


def _rotary(append: KvCacheAppend, arrays: Arrays) -> Rotary | None:
    if append.rotary is None:
        return None
    return replace(append.rotary, cos=arrays["rotary_cos"], sin=arrays["rotary_sin"])


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
