"""From a request to its launches: which kernels, how much scratch memory, which parameters. Pure functions.

A request may take several kernels, in the order of a stream: append, forward, combine; or preprocess,
dk and dv, dq.
"""

from __future__ import annotations

from flashactor.kernels.backward import (
    BackwardRequest,
    backward_kernels,
    backward_launches,
    backward_workspace,
)
from flashactor.kernels.chunked import append_kernels, append_step, append_workspace
from flashactor.kernels.forward import (
    ForwardFamily,
    forward_kernels,
    forward_launches,
    forward_workspace,
)
from flashactor.kernels.launch import KernelLaunch, LaunchPlan
from flashactor.kernels.merge import merge_launch, merge_spec
from flashactor.kernels.problem import Arrays
from flashactor.kernels.spec import KernelSpec
from flashactor.kernels.workspace import Workspace
from flashactor.requests import AttentionRequest, ChunkedPrefillRequest, MergeStatesRequest
from flashactor.types import SmArch


def kernels_of(request: AttentionRequest, arch: SmArch, family: ForwardFamily) -> tuple[KernelSpec, ...]:
    """The kernels of a request, in the order of their launches; of a bare cell, all that it may take.

    Args:
        request: what is computed.
        arch: architecture of the device.
        family: whose forward kernels; all others have one family.
    """
    if isinstance(request, MergeStatesRequest):
        return (merge_spec(arch, request.dtype),)
    if isinstance(request, ChunkedPrefillRequest):
        return (*append_kernels(request, arch), *forward_kernels(request, arch, family))
    if isinstance(request, BackwardRequest):
        return backward_kernels(request, arch)
    return forward_kernels(request, arch, family)


def workspace_of(request: AttentionRequest, arch: SmArch, family: ForwardFamily) -> Workspace:
    """The scratch memory of a request; arguments as of ``kernels_of``.

    Raises:
        MissingOperandsError: a bare cell.
    """
    if isinstance(request, MergeStatesRequest):
        return Workspace({})
    if isinstance(request, ChunkedPrefillRequest):
        return append_workspace(request) | forward_workspace(request, arch, family)
    if isinstance(request, BackwardRequest):
        return backward_workspace(request, arch)
    return forward_workspace(request, arch, family)


def plan(
    request: AttentionRequest, arch: SmArch, family: ForwardFamily, arrays: Arrays, workspace: int
) -> LaunchPlan:
    """All launches of a request.

    Args:
        request: a request with arrays.
        arch: architecture of the device.
        family: whose forward kernels.
        arrays: the request's arrays by their arguments' names, and every output.
        workspace: address of as much scratch memory as ``workspace_of`` says.

    Raises:
        LaunchError: more thread blocks than a grid can have. OperandError: a small array that is not
            contiguous.
    """
    addresses = workspace_of(request, arch, family).addresses(workspace)
    if isinstance(request, MergeStatesRequest):
        states = (arrays[name] for name in ("out_a", "lse_a", "out_b", "lse_b", "out", "lse"))
        return _plan(merge_launch(merge_spec(arch, request.dtype), *states))
    if isinstance(request, ChunkedPrefillRequest):
        append, read = append_step(request, arch, arrays, addresses)
        return _plan(append, *forward_launches(request, arch, family, read, addresses))
    if isinstance(request, BackwardRequest):
        return _plan(*backward_launches(request, arch, arrays, addresses))
    return _plan(*forward_launches(request, arch, family, arrays, addresses))


def _plan(*launches: KernelLaunch) -> LaunchPlan:
    """The launches that have something to do: a driver refuses an empty grid."""
    return LaunchPlan(tuple(each for each in launches if each.grid[0]))
