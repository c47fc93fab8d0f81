"""Which kernels a command is about: options that name them, and the specifications that they match."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from difflib import get_close_matches

from flashactor.cli import options as common
from flashactor.kernels.sm80 import DTYPES, all_specs, forward_spec
from flashactor.kernels.spec import KernelSpec
from flashactor.types import DType, SmArch

MOST_JOBS = 10000


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """``--arch``, ``--dtype`` and ``--head-dim``."""
    parser.add_argument("--arch", type=common.arch, nargs="+", metavar="ARCH", help="sm_80, sm_90a, ...")
    parser.add_argument("--dtype", type=common.dtype, nargs="+", metavar="DTYPE", help="f16, bf16")
    parser.add_argument("--head-dim", type=int, nargs="+", metavar="N", help="multiples of 8 up to 256")


def add_feature_option(parser: argparse.ArgumentParser) -> None:
    """``--feature``."""
    parser.add_argument(
        "--feature",
        choices=feature_names(),
        nargs="+",
        action="extend",
        help="kernels with at least one of these; default: all",
    )


def add_kernel_option(parser: argparse.ArgumentParser) -> None:
    """``--kernel``."""
    parser.add_argument("--kernel", nargs="+", action="extend", metavar="LABEL", help="exactly these kernels")


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """``--jobs``."""
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores"
    )


def check_jobs(options: argparse.Namespace) -> None:
    """Raise RequestError for a number of jobs that is none."""
    if not 1 <= options.jobs <= MOST_JOBS:
        raise common.reject("--jobs", options.jobs, f"1 to {MOST_JOBS}", "leave it out to use all cores")


def feature_names() -> tuple[str, ...]:
    """Every feature that some kernel was compiled with."""
    return tuple(sorted({feature for spec in all_specs(SmArch.SM80) for feature in spec.features}))


def specs_of_labels(labels: Sequence[str]) -> list[KernelSpec]:
    """The kernels of these labels, each once.

    Raises:
        RequestError: a label is no kernel's; the closest are named.
    """
    known = {spec.label: spec for spec in all_specs()}
    for label in labels:
        if label not in known:
            close = ", ".join(get_close_matches(label, known, 3, 0.0))
            raise common.reject("--kernel", label, f"a kernel's label, such as {close}", "correct the label")
    return [known[label] for label in dict.fromkeys(labels)]


def matching_specs(options: argparse.Namespace, *features: list[str] | None) -> list[KernelSpec]:
    """The kernels that the options name; of each list of features, they have at least one.

    Raises:
        RequestError: options that no kernel matches.
    """
    dtypes = options.dtype or list(DTYPES)
    found: dict[KernelSpec, None] = {}
    for arch in options.arch or default_archs():
        padded = {forward_spec(arch, DType.BF16, n, True).head_dim for n in _head_dims(options)}
        for spec in all_specs(arch):
            if (
                spec.dtype in dtypes
                and all(not names or set(names) & set(spec.features) for names in features)
                and (not padded or spec.head_dim in padded)
            ):
                found[spec] = None
    if not found and set(dtypes) & set(DTYPES):
        chosen = "; ".join(" or ".join(names) for names in features if names)
        raise common.reject(
            "--feature", chosen, "features that one kernel has together", "leave one of them out"
        )
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


def default_archs() -> list[SmArch]:
    """The device's architecture, or all of them where there is no device."""
    from flashactor.executors.cuda import device_arch, device_count

    return [device_arch()] if device_count() else list(SmArch)
