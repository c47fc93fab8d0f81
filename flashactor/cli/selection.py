"""Which kernels a command is about: options that name them, and the specifications that they match."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from difflib import get_close_matches

from flashactor.cli import options as common
from flashactor.kernels import sm80, sm90
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.spec import KernelSpec
from flashactor.types import SmArch

MOST_JOBS = 10000

USUAL_FEATURES = frozenset({"fwd", "plain", "full", "paged", "decode", "combine"})
"""Kernels with no other feature are what most people need: forward passes over 16-bit keys, in pages or not,
with nothing but a mask between the two products."""


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """``--arch``, ``--dtype`` and ``--head-dim``."""
    parser.add_argument("--arch", type=common.arch, nargs="+", metavar="ARCH", help="sm_80, sm_90a, ...")
    parser.add_argument("--dtype", type=common.dtype, nargs="+", metavar="DTYPE", help="f16, bf16")
    parser.add_argument("--head-dim", type=int, nargs="+", metavar="N", help="multiples of 8 up to 256")


def add_feature_option(parser: argparse.ArgumentParser, default: str = "all") -> None:
    """``--feature``; ``default`` says which kernels are meant without it."""
    parser.add_argument(
        "--feature",
        choices=feature_names(),
        nargs="+",
        action="extend",
        help=f"kernels with at least one of these; default: {default}",
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


def features_of(spec: KernelSpec) -> frozenset[str]:
    """What ``--feature`` takes for a kernel: its features, ``bwd`` for ``bwd_dq`` and its like, and ``paged``
    for those of Hopper that read keys in pages and others."""
    pages = (
        ("paged",)
        if spec.family == sm90.FAMILY and spec.kind == "fwd" and "full" not in spec.features
        else ()
    )
    return frozenset((*spec.features, spec.kind.partition("_")[0], *pages))


@functools.cache
def feature_names() -> tuple[str, ...]:
    """Every feature that some kernel was compiled with."""
    # sm_90a has kernels of every kind.
    return tuple(sorted(frozenset().union(*map(features_of, all_specs(SmArch.SM90A)))))


def is_usual(spec: KernelSpec) -> bool:
    """Whether a kernel is one of those that most people need."""
    return features_of(spec) <= USUAL_FEATURES


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


def labelled_or_matching_specs(options: argparse.Namespace) -> list[KernelSpec]:
    """The kernels of ``--kernel``, which stands alone, or those that match the other options.

    Raises:
        RequestError: both ways at once, a label that no kernel has, or options that none matches.
    """
    if not options.kernel:
        return matching_specs(options)
    if options.arch or options.dtype or options.head_dim or options.feature:
        raise common.reject("--kernel", "with other selections", "--kernel alone", "drop the others")
    return specs_of_labels(options.kernel)


def matching_specs(options: argparse.Namespace) -> list[KernelSpec]:
    """The kernels that the options name; they have at least one of the features.

    A head_dim names the kernels that are padded to what serves it, and those that take any head_dim.

    Raises:
        RequestError: options that no kernel matches.
    """
    features, padded = set(options.feature or ()), _padded_head_dims(options)
    found: list[KernelSpec] = []
    tags: dict[str, None] = {}
    for arch in options.arch or default_archs():
        for spec in all_specs(arch):
            tags[spec.dtype.tag] = None
            if (
                (not options.dtype or spec.dtype in options.dtype)
                and (not features or features & features_of(spec))
                and (not padded or not spec.head_dims or spec.head_dims[0] in padded[spec.family])
            ):
                found.append(spec)
    if found:
        return found
    if options.dtype and tags.keys().isdisjoint(dtype.tag for dtype in options.dtype):
        wanted = ", ".join(dtype.tag for dtype in options.dtype)
        raise common.reject("--dtype", wanted, f"a type that has kernels: {', '.join(tags)}", "pick one")
    raise common.reject(
        "--feature",
        " or ".join(sorted(features)),
        "features of a kernel that matches the other options",
        "leave one of the options out",
    )


def _padded_head_dims(options: argparse.Namespace) -> dict[str, set[int]]:
    """Those of q and k in each family, if any are asked for; a kernel that serves one takes several of v."""
    from flashactor.dispatch import HEAD_DIMS

    head_dims: list[int] = options.head_dim or []
    for head_dim in head_dims:
        if head_dim not in HEAD_DIMS:
            raise common.reject("--head-dim", head_dim, "a multiple of 8 from 8 to 256", "pad the heads")
    if not head_dims:
        return {}
    return {
        family.FAMILY: {family.padded_head_dims(head_dim, head_dim)[0] for head_dim in head_dims}
        for family in (sm80, sm90)
    }


def default_archs() -> list[SmArch]:
    """The device's architecture, or all of them where there is no device."""
    from flashactor.executors.cuda import device_arch, device_count

    return [device_arch()] if device_count() else list(SmArch)
