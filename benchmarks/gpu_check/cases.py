"""Which requests the correctness check makes: every kernel, on the shapes where kernels go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flashactor.check.cases import QUICK_SHAPES, Case, shapes
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType

QUICK_HEAD_DIMS = (64, 128, 256)


def correctness_cases(specs: Iterable[KernelSpec], dtypes: Sequence[DType], *, quick: bool) -> list[Case]:
    """Every kernel of the types on every shape; with ``quick`` on a few, for the commonest head dims."""
    return [
        Case(spec, shape)
        for spec in specs
        if spec.dtype in dtypes and (not quick or spec.head_dim in QUICK_HEAD_DIMS)
        for shape in shapes(spec.tile_m, spec.tile_n)
        if not quick or shape.name in QUICK_SHAPES
    ]
