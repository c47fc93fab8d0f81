"""What exactly is launched: grid, block, shared memory and parameter bytes of each kernel, in order."""

from __future__ import annotations

from dataclasses import dataclass

from flashactor.errors import LaunchError
from flashactor.kernels.spec import KernelSpec

MAX_GRID_X = 2**31 - 1


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """One kernel's launch: everything that it needs but the stream.

    Attributes:
        spec: the kernel.
        grid, block: extents in blocks and in threads.
        shared_bytes: dynamic shared memory of a block.
        params: bytes of the kernel's one by-value parameter.
    """

    spec: KernelSpec
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    params: bytes


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All launches of a request, in the order of the stream: each may read what those before it wrote."""

    launches: tuple[KernelLaunch, ...]


def launch(spec: KernelSpec, blocks: int, params: bytes) -> KernelLaunch:
    """A launch over a one-dimensional grid, so that neither heads nor batch meet the limit of the others
    (65535).

    Raises:
        LaunchError: more blocks than a grid can have.
    """
    if blocks > MAX_GRID_X:
        raise LaunchError(
            field="grid",
            got=f"{blocks} blocks of {spec.label}",
            expected=f"at most {MAX_GRID_X}",
            remedy="split the batch over several requests",
        )
    return KernelLaunch(spec, (blocks, 1, 1), (spec.threads, 1, 1), spec.shared_bytes, params)
