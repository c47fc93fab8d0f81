"""What distinguishes one compiled kernel from another: the cubin's identity, as opposed to the request's."""

from __future__ import annotations

from dataclasses import dataclass

from flashactor.kernels.params import FWD_PARAMS
from flashactor.types import Direction, DType, SmArch


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One specialisation of a kernel source: only what changes the machine code.

    Attributes:
        family: name of the implementation that it belongs to.
        direction: forward or backward.
        arch: architecture that it is compiled for.
        dtype: element type of q, k, v and out.
        head_dim: padded head_dim; the real one is a run-time parameter of at most this.
        causal: whether the mask is causal.
        tile_m, tile_n: queries of a thread block, and keys of one step.
        warps: warps of a thread block.
    """

    family: str
    direction: Direction
    arch: SmArch
    dtype: DType
    head_dim: int
    causal: bool
    tile_m: int
    tile_n: int
    warps: int

    @property
    def source(self) -> str:
        """File below kernels_cu/ that defines the kernel."""
        return "sm80/fwd.cu"

    @property
    def entry(self) -> str:
        """The kernel's symbol in the cubin."""
        return "flash_fwd_sm80"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps * 32

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: one tile each of q, k and v."""
        return (self.tile_m + 2 * self.tile_n) * self.head_dim * self.dtype.size_in_bytes

    @property
    def defines(self) -> tuple[tuple[str, str], ...]:
        """The macros that the source's Config reads."""
        return (
            ("FA_BF16", str(int(self.dtype is DType.BF16))),
            ("FA_CAUSAL", str(int(self.causal))),
            ("FA_HEAD_DIM", str(self.head_dim)),
            ("FA_TILE_M", str(self.tile_m)),
            ("FA_TILE_N", str(self.tile_n)),
            ("FA_WARPS", str(self.warps)),
            ("FA_SHARED_BYTES", str(self.shared_bytes)),
            ("FA_PARAMS_BYTES", str(FWD_PARAMS.size)),
        )

    @property
    def features(self) -> tuple[str, ...]:
        """What the kernel was compiled to compute, in words that commands take: ``causal`` or ``full``."""
        return ("causal" if self.causal else "full",)

    @property
    def label(self) -> str:
        """A name for people, unique among specs: ``sm80_mma.fwd.bf16.d128.causal.128x64w4.sm_80``."""
        mask = "causal" if self.causal else "full"
        tile = f"{self.tile_m}x{self.tile_n}w{self.warps}"
        return (
            f"{self.family}.{self.direction.value}.{self.dtype.tag}.d{self.head_dim}."
            f"{mask}.{tile}.{self.arch.target}"
        )
