"""Which kernels a command is about: options that name them, and the specifications that they match."""

from __future__ import annotations

import argparse
import os

from flashactor.cli import options as common
from flashactor.kernels.sm80 import DTYPES, all_specs, forward_spec
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType, SmArch


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """``--arch``, ``--dtype`` and ``--head-dim``."""
    parser.add_argument("--arch", type=common.arch, nargs="+", metavar="ARCH", help="sm_80, sm_90a, ...")
    parser.add_argument("--dtype", type=common.dtype, nargs="+", metavar="DTYPE", help="f16, bf16")
    parser.add_argument("--head-dim", type=int, nargs="+", metavar="N", help="multiples of 8 up to 256")


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """``--jobs``."""
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores"
    )


def check_jobs(options: argparse.Namespace) -> None:
    """Raise RequestError for a number of jobs that is none."""
    if options.jobs < 1:
        raise common.reject("--jobs", options.jobs, "at least 1", "leave it out to use all cores")


def feature_names() -> tuple[str, ...]:
    """Every feature that some kernel was compiled with."""
    return tuple(sorted({feature for spec in all_specs(SmArch.SM80) for feature in spec.features}))


def matching_specs(options: argparse.Namespace, features: list[str] | None) -> list[KernelSpec]:
    """The kernels that the options name; of ``features``, each has at least one.

    Raises:
        RequestError: options that no kernel matches.
    """
    dtypes = options.dtype or list(DTYPES)
    found: dict[KernelSpec, None] = {}
    for arch in options.arch or _default_archs():
        padded = {forward_spec(arch, DType.BF16, n, True).head_dim for n in _head_dims(options)}
        for spec in all_specs(arch):
            if (
                spec.dtype in dtypes
                and (not features or set(features) & set(spec.features))
                and (not padded or spec.head_dim in padded)
            ):
                found[spec] = None
    if not found:
        raise common.reject(
            "--dtype",
            ", ".join(dtype.tag for dtype in dtypes),
            "a type that has kernels: f16, bf16",
            "pick one",
        )
    return list(found)


def _head_dims(options: argparse.Namespace) -> list[int]:
    from flashactor.dispatch import HEAD_DIMS

    head_dims: list[int] = options.head_dim or []
    for head_dim in head_dims:
        if head_dim not in HEAD_DIMS:
            raise common.reject("--head-dim", head_dim, "a multiple of 8 from 8 to 256", "pad the heads")
    return head_dims


def _default_archs() -> list[SmArch]:
    from flashactor.executors.cuda import device_arch, device_count

    return [device_arch()] if device_count() else list(SmArch)
