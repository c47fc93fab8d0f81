"""The kernel that makes one attention state of two over the same queries."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from flashactor.arrays import ArrayView
from flashactor.kernels.launch import KernelLaunch, launch
from flashactor.kernels.params import StructLayout, Value, of_type, strides
from flashactor.kernels.problem import lse_strides, row_strides
from flashactor.kernels.spec import COMMON, DTYPES, KernelSpec, Macros
from flashactor.types import DType, SmArch

THREADS = 128
CHUNK = 8
"""Elements of a row that a thread computes."""

MERGE_PARAMS = StructLayout(
    (
        *of_type("pointer", "out_a out_b out lse_a lse_b lse"),
        *strides(("out_a", "out_b", "out")),
        *strides(("lse_a", "lse_b", "lse"), "batch head row"),
        *of_type("u32", "rows"),
        *of_type("int", "seqlen heads head_dim"),
    )
)
"""``MergeParams`` of common/merge_params.cuh."""


@dataclass(frozen=True, slots=True)
class MergeSpec(KernelSpec):
    """A specialisation of common/merge.cu, which takes any head_dim."""

    kind: ClassVar[str] = "merge"
    source: ClassVar[str] = "common/merge.cu"
    entry: ClassVar[str] = "flash_merge"
    params: ClassVar[StructLayout] = MERGE_PARAMS

    @property
    def threads(self) -> int:
        return THREADS

    @property
    def macros(self) -> Macros:
        return (
            self.bf16,
            ("FA_THREADS", str(THREADS)),
        )


def merge_spec(arch: SmArch, dtype: DType) -> MergeSpec:
    """The merge kernel for outputs of a type."""
    return MergeSpec(COMMON, arch, dtype)


def merge_specs(arch: SmArch) -> tuple[MergeSpec, ...]:
    """Every merge kernel, each once."""
    return tuple(merge_spec(arch, dtype) for dtype in DTYPES)


def merge_launch(
    spec: MergeSpec,
    out_a: ArrayView,
    lse_a: ArrayView,
    out_b: ArrayView,
    lse_b: ArrayView,
    out: ArrayView,
    lse: ArrayView,
) -> KernelLaunch:
    """Merge two states.

    Args:
        spec: the kernel.
        out_a, out_b, out: ``[batch, seqlen, heads, head_dim]``, or packed ``[total, heads, head_dim]``.
        lse_a, lse_b, lse: float32 ``[batch, heads, seqlen]``, or packed ``[heads, total]``. The result may be
            written over either state, with the very strides of its arrays.

    Raises:
        LaunchError: too many rows for a grid.
    """
    *_, seqlen, heads, head_dim = out_a.shape
    rows = prod(out_a.shape[:-1])
    values: dict[str, Value] = {"rows": rows, "seqlen": seqlen, "heads": heads, "head_dim": head_dim}
    for name, view in (("out_a", out_a), ("out_b", out_b), ("out", out)):
        values |= {name: view.pointer, **row_strides(name, view)}
    for name, view in (("lse_a", lse_a), ("lse_b", lse_b), ("lse", lse)):
        values |= {name: view.pointer, **lse_strides(view, name)}
    rows_per_block = THREADS // 32 * (32 * CHUNK // head_dim)
    return launch(spec, -(-rows // rows_per_block), MERGE_PARAMS.pack(values))
