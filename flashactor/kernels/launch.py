"""What exactly is launched: grid, block, shared memory and parameter bytes of each kernel, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashactor.errors import LaunchError
from flashactor.kernels.spec import KernelSpec

MAX_GRID_X = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TensorMap:
    """What a kernel reads or writes by TMA: a tensor, and the box that one copy moves.

    Each executor encodes it in its own way (``KernelLaunch.parameter``). In shared memory boxes have the
    swizzle that spans their rows, and what lies outside of the tensor reads as zeros.

    Attributes:
        address: of the tensor, a multiple of 16.
        dtype: element type: ``float16``, ``bfloat16``, or ``uint8`` for fp8.
        dims: extents, the innermost first.
        strides: bytes between elements of dimensions 1 and up, multiples of 16.
        box: extents of the box; 128 or 64 bytes in dimension 0.
    """

    address: int
    dtype: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]

    @property
    def swizzle_bytes(self) -> int:
        """The span of the swizzle."""
        return self.box[0] * (1 if self.dtype == "uint8" else 2)


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """One kernel's launch: everything that it needs but the stream.

    Attributes:
        spec: the kernel.
        grid, block: extents in blocks and in threads.
        shared_bytes: dynamic shared memory of a block.
        params: bytes of the kernel's one by-value parameter, behind its tensor maps.
        tensor_maps: those with which the parameter begins, one for each of ``spec.tensor_maps``.
    """

    spec: KernelSpec
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    params: bytes
    tensor_maps: tuple[TensorMap, ...] = ()

    def parameter(self, encode: Callable[[TensorMap], bytes]) -> bytes:
        """The whole parameter.

        Args:
            encode: makes the 128 bytes of a map.
        """
        return b"".join((*map(encode, self.tensor_maps), self.params))


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All launches of a request, in the order of the stream: each may read what those before it wrote."""

    launches: tuple[KernelLaunch, ...]


def launch(
    spec: KernelSpec, blocks: int, params: bytes, tensor_maps: tuple[TensorMap, ...] = ()
) -> KernelLaunch:
    """A launch over a one-dimensional grid, so that neither heads nor batch meet the limit of the others
    (65535).

    Raises:
        LaunchError: more blocks than a grid can have.
    """
    check_blocks(spec, blocks)
    return KernelLaunch(spec, (blocks, 1, 1), (spec.threads, 1, 1), spec.shared_bytes, params, tensor_maps)


def check_blocks(spec: KernelSpec, blocks: int) -> None:
    """Require a number of blocks, or of tiles that fewer blocks walk over, that kernels can count.

    Raises:
        LaunchError: more than a grid can have.
    """
    if blocks > MAX_GRID_X:
        raise LaunchError(
            field="grid",
            got=f"{blocks} blocks of {spec.label}",
            expected=f"at most {MAX_GRID_X}",
            remedy="split the batch over several requests",
        )
