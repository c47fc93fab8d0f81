"""Which kernels ``flashactor warm`` makes: a matrix, labels, a model's, or those of a trace."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flashactor.cli.model_config import model_requests
from flashactor.cli.options import reject
from flashactor.cli.output import counted
from flashactor.cli.selection import (
    add_feature_option,
    add_kernel_option,
    add_selection_options,
    default_archs,
    is_usual,
    matching_specs,
    specs_of_labels,
)
from flashactor.errors import FlashAttnError, NoKernelError
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.spec import KernelSpec
from flashactor.requests import AttentionRequest
from flashactor.types import SmArch


@dataclass(frozen=True, slots=True)
class WarmList:
    """What to compile.

    Attributes:
        specs: the kernels, each once.
        refused: requests that no kernel computes yet: what they are, and why not; each once.
    """

    specs: list[KernelSpec]
    refused: list[tuple[str, str]] = field(default_factory=list)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """The options that name kernels."""
    add_selection_options(parser)
    add_feature_option(parser, "plain and combine, but not fp8_kv")
    parser.add_argument("--all", action="store_true", help="kernels with any feature")
    add_kernel_option(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="what inference of a model needs, from its Hugging Face config.json or the folder that holds it",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="what a run needed that had FLASHACTOR_TRACE_KEYS=FILE"
    )


def warm_list(options: argparse.Namespace) -> WarmList:
    """The kernels that the options name.

    Raises:
        RequestError: options that contradict each other, or that no kernel matches; a bad configuration.
        DispatchError: a model whose heads no kernel takes.
        NoKernelError: no kernel computes any of a model's or trace's requests.
        OSError: a file cannot be read.
    """
    _refuse_two_sources(options)
    if options.kernel:
        return WarmList(specs_of_labels(options.kernel))
    if options.config:
        archs = options.arch or default_archs()
        requests = model_requests(options.config, options.dtype or ())
        return kernels_of_cells([(request, arch) for request in requests for arch in archs], "the model")
    if options.trace:
        return kernels_of_cells(_traced(options), "the trace")
    specs = matching_specs(options)
    if options.all or options.feature:
        return WarmList(specs)
    return WarmList([spec for spec in specs if is_usual(spec)] or specs)


def kernels_of_cells(cells: Sequence[tuple[AttentionRequest, SmArch]], whose: str) -> WarmList:
    """All kernels that requests may take on architectures, whatever their sizes, and what there is none for.

    Args:
        cells: the requests, each with its architecture.
        whose: where they come from, for the error.

    Raises:
        NoKernelError: there is none for any of them; all the reasons.
    """
    found: dict[KernelSpec, None] = {}
    refusals: list[FlashAttnError] = []
    for request, arch in cells:
        try:
            # Of a request with operands, even if they only say that it has sinks, those of its sizes alone.
            found |= dict.fromkeys(choose_kernels(replace(request, operands=None), arch))
        except FlashAttnError as error:  # fp8 on an architecture without it is no NoKernelError
            refusals.append(error)
    if refusals and not found:
        archs = ", ".join(sorted({arch.target for _, arch in cells}))
        raise NoKernelError(
            field="request",
            got=f"{counted(len(cells), 'request')} of {whose} on {archs}, and no kernel computes any",
            expected="one at least that a kernel computes",
            remedy="see flashactor explain, or compute it on the host with executor='reference'",
            reasons=_all_reasons(refusals),
        )
    listed = dict.fromkeys((str(error.got), _why(error)) for error in refusals)
    return WarmList(list(found), list(listed))


def _reasons(error: FlashAttnError) -> dict[str, tuple[str, ...]]:
    """By implementation; of an error that is about none, by what was wrong."""
    return (
        error.reasons if isinstance(error, NoKernelError) else {error.field: (f"expected {error.expected}",)}
    )


def _all_reasons(errors: Iterable[FlashAttnError]) -> dict[str, tuple[str, ...]]:
    """The reasons of all of them, each once."""
    merged: dict[str, dict[str, None]] = {}
    for error in errors:
        for name, reasons in _reasons(error).items():
            merged.setdefault(name, {}).update(dict.fromkeys(reasons))
    return {name: tuple(reasons) for name, reasons in merged.items()}


def _why(error: FlashAttnError) -> str:
    return "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in _reasons(error).items())


def _traced(options: argparse.Namespace) -> list[tuple[AttentionRequest, SmArch]]:
    """The requests of a trace on their own architectures; one without an architecture is on each."""
    from flashactor.trace import read_trace

    archs = options.arch or default_archs()
    cells = [
        (request, arch)
        for request in read_trace(options.trace)
        for arch in ([request.arch] if request.arch else archs)
        if (not options.arch or arch in options.arch)
        and (not options.dtype or request.dtype in options.dtype)
    ]
    if not cells:
        raise reject(
            "--trace", options.trace, "a trace with a request that --arch and --dtype leave", "drop these"
        )
    return cells


def _refuse_two_sources(options: argparse.Namespace) -> None:
    matrix = {"--head-dim": options.head_dim, "--feature": options.feature, "--all": options.all}
    narrowing = {"--arch": options.arch, "--dtype": options.dtype}
    single = {"--kernel": options.kernel, "--config": options.config, "--trace": options.trace}
    for name, value in single.items():
        others = {**matrix, **single, **(narrowing if name == "--kernel" else {})}
        clash = [other for other, given in others.items() if given and other != name]
        if value and clash:
            raise reject(name, f"with {', '.join(clash)}", f"{name} alone", "drop one of them")
    if options.all and options.feature:
        raise reject("--all", "with --feature", "one of the two", "drop --all")
