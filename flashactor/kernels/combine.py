"""The kernel that merges the partial results of splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flashactor.kernels.launch import KernelLaunch, launch
from flashactor.kernels.params import COMBINE_PARAMS, StructLayout
from flashactor.kernels.problem import Arrays, Extent, contiguous, lse_strides, row_strides
from flashactor.kernels.spec import COMMON, KernelSpec, Macros
from flashactor.types import DType, SmArch

THREADS = 128
CHUNK = 8
"""Elements of a row that a thread owns."""


@dataclass(frozen=True, slots=True)
class CombineSpec(KernelSpec):
    """A specialisation of common/combine.cu, which takes any head_dim."""

    kind: ClassVar[str] = "combine"
    source: ClassVar[str] = "common/combine.cu"
    entry: ClassVar[str] = "flash_combine"
    params: ClassVar[StructLayout] = COMBINE_PARAMS

    @property
    def threads(self) -> int:
        return THREADS

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            ("FA_THREADS", str(THREADS)),
        )


def combine_spec(arch: SmArch, dtype: DType) -> CombineSpec:
    """The kernel that merges splits into elements of a type."""
    return CombineSpec(COMMON, arch, dtype)


def combine_launch(
    spec: CombineSpec,
    extent: Extent,
    head_dim: int,
    num_splits: int,
    partial: tuple[int, int],
    arrays: Arrays,
) -> KernelLaunch:
    """Merge ``num_splits`` partial results.

    Args:
        spec: the kernel.
        extent: sizes of the problem.
        head_dim: of out.
        num_splits: of each row.
        partial: addresses of float32 ``[num_splits, rows, head_dim]`` and ``[num_splits, rows]``, where rows
            are in the order of a contiguous lse.
        arrays: out, lse, and what of sink_logits and cu_seqlens_q there is.

    Raises:
        LaunchError: too many rows for a grid.
    """
    rows = extent.rows * extent.heads_q
    params = COMBINE_PARAMS.pack(
        {
            "partial_out": partial[0],
            "partial_lse": partial[1],
            "out": arrays["out"].pointer,
            "lse": arrays["lse"].pointer,
            "sink_logits": contiguous(arrays, "sink_logits"),
            "cu_seqlens_q": contiguous(arrays, "cu_seqlens_q"),
            "rows": rows,
            **row_strides("out", arrays["out"]),
            **lse_strides(arrays["lse"]),
            "num_splits": num_splits,
            "batch": extent.batch,
            "seqlen": extent.rows if extent.packed else extent.seqlen_q,
            "heads": extent.heads_q,
            "head_dim": head_dim,
            "reserved": 0,
        }
    )
    return launch(spec, -(-rows * head_dim // CHUNK // THREADS), params)
