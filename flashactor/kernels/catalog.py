"""Every kernel that some request can need: what `flashactor warm`, `check` and the tests go through."""

from __future__ import annotations

from flashactor.kernels.append import append_specs
from flashactor.kernels.backward_spec import all_backward_specs
from flashactor.kernels.combine import combine_spec
from flashactor.kernels.merge import merge_specs
from flashactor.kernels.sm80 import forward_specs
from flashactor.kernels.sm80_fp8 import fp8_forward_specs
from flashactor.kernels.sm90 import hopper_specs
from flashactor.kernels.sm90_fp8 import hopper_fp8_specs
from flashactor.kernels.spec import DTYPES, KernelSpec
from flashactor.types import SmArch


def all_specs(arch: SmArch | None = None) -> tuple[KernelSpec, ...]:
    """Every kernel, on one architecture or on all, each once."""
    archs = tuple(SmArch) if arch is None else (arch,)
    return tuple(spec for each in archs for spec in _of(each))


def _of(arch: SmArch) -> tuple[KernelSpec, ...]:
    return (
        *forward_specs(arch),
        *fp8_forward_specs(arch),
        *hopper_specs(arch),
        *hopper_fp8_specs(arch),
        *(combine_spec(arch, dtype) for dtype in DTYPES),
        *append_specs(arch),
        *merge_specs(arch),
        *all_backward_specs(arch),
    )
