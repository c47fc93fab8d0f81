"""``flashactor explain``: what a request would run, and why not something else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flashactor.arrays import ArrayView
from flashactor.cli import options as common
from flashactor.cli.output import amount, print_json, print_pairs, print_table
from flashactor.kernels.select import Candidate, Explanation, explain, workspace_size
from flashactor.kernels.spec import KernelSpec
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    MergeStatesRequest,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.requests.bare import bare_request
from flashactor.requests.operands import Operands
from flashactor.types import DType, PositionBias, SmArch

if TYPE_CHECKING:
    from flashactor.cache import CubinCache

REQUEST_TYPES_OF_KIND: dict[str, tuple[type[AttentionRequest], type[AttentionRequest]]] = {
    "dense": (Fa2FwdRequest, Fa2BwdRequest),
    "varlen": (VarlenFwdRequest, VarlenBwdRequest),
    "paged": (PagedAttentionRequest, PagedAttentionRequest),
    "chunked": (ChunkedPrefillRequest, ChunkedPrefillRequest),
    "merge": (MergeStatesRequest, MergeStatesRequest),
}
"""What runs forward and backward; all but the first two have no backward pass, and are refused before."""

LARGEST_ARRAY = 1 << 60
"""Elements; the offset of every byte has 63 bits then, in NumPy too."""

CACHED_KINDS = ("paged", "chunked")
"""Kinds with a cache, which may be of another type than q."""


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "explain",
        help="say which kernels a request would run, and why not others",
        description="Plan a request without arrays: its key, the kernels that it may take, and each "
        "implementation's reasons. With --sizes, the kernels that it takes, and how much scratch memory.",
    )
    parser.add_argument("--arch", type=common.arch, default=SmArch.SM80, help="default: sm_80")
    parser.add_argument("--dtype", type=common.dtype, default=DType.BF16, help="default: bf16")
    parser.add_argument("--head-dim", type=int, default=128, metavar="N", help="default: 128")
    parser.add_argument("--head-dim-v", type=int, metavar="N", help="of v and out; default: --head-dim")
    parser.add_argument("--kv-dtype", type=common.dtype, help="of a cache; default: --dtype")
    parser.add_argument(
        "--gqa", type=common.size, default=1, metavar="N", help="query heads for each key/value head"
    )
    common.add_mask_options(parser)
    parser.add_argument(
        "--sink", type=common.size, default=0, metavar="N", help="leading keys that stay visible"
    )
    parser.add_argument("--alibi", action="store_true", help="with ALiBi slopes")
    parser.add_argument("--softcap", type=float, default=0.0, help="cap of the scores; 0 is off")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="P", help="dropout probability")
    parser.add_argument(
        "--kind", choices=tuple(REQUEST_TYPES_OF_KIND), default="dense", help="layout of the batch"
    )
    parser.add_argument(
        "--sizes",
        type=common.size,
        nargs=4,
        metavar=("BATCH", "SEQLEN_Q", "SEQLEN_K", "HEADS_KV"),
        help="of the arrays of a dense request",
    )
    parser.add_argument(
        "--batch-invariant", action="store_true", help="the same bits whatever else is in the batch"
    )
    parser.add_argument("--backward", action="store_true", help="the gradients (dense and varlen)")
    parser.add_argument("--implementation", metavar="NAME", help="insist on one implementation")
    parser.add_argument("--compile", action="store_true", help="compile the kernels that the cache lacks")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--support-table", action="store_true", help="what each implementation supports")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain, and print for people or programs."""
    if options.support_table:
        from flashactor.cli.tables import support_document, support_table

        if options.json:
            print_json(support_document())
        else:
            print(support_table())
        return 0
    request = _request(options)
    explanation = explain(request)
    from flashactor.cache import CubinCache

    cache = CubinCache.from_settings()
    kernels = [_kernel(spec, cache, compile_it=options.compile) for spec in explanation.chosen.kernels]
    workspace = _workspace_bytes(request, explanation)
    if options.json:
        print_json(_document(explanation, kernels, workspace))
    else:
        _print(explanation, kernels, workspace)
    return 0


def _request(options: argparse.Namespace) -> AttentionRequest:
    fields: dict[str, Any] = {
        "arch": options.arch,
        "dtype": options.dtype,
        "head_dim": options.head_dim,
        "gqa_ratio": options.gqa,
        "mask": common.mask_of(options),
        "bias": PositionBias.ALIBI if options.alibi else PositionBias.NONE,
        "sink_tokens": options.sink,
        "softcap": options.softcap,
        "dropout_p": options.dropout,
        "implementation": options.implementation,
        "batch_invariant": options.batch_invariant,
    }
    if options.head_dim_v is not None:
        fields["head_dim_v"] = options.head_dim_v
    if options.kv_dtype is not None:
        if options.kind not in CACHED_KINDS:
            expected = f"{' or '.join(CACHED_KINDS)} for --kv-dtype"
            raise common.reject("--kind", options.kind, expected, "drop one of the two")
        fields["kv_dtype"] = options.kv_dtype
    if options.dtype.is_fp8 and (options.kind != "dense" or options.backward):
        raise common.reject(
            "--dtype", options.dtype.tag, "a dense forward request for fp8", "drop the others"
        )
    if options.backward and options.kind not in ("dense", "varlen"):
        raise common.reject("--kind", options.kind, "dense or varlen for --backward", "drop one of the two")
    if options.sizes is not None and options.kind != "dense":
        raise common.reject("--sizes", options.kind, "a dense request", "drop --sizes")
    forward, backward = REQUEST_TYPES_OF_KIND[options.kind]
    if options.dtype.is_fp8:
        forward = Fa2FwdFp8Request  # runs wherever Fa3FwdFp8Request does, with the same kernels
    request = bare_request(backward if options.backward else forward, **fields)
    return request if options.sizes is None else _with_sizes(request, options.sizes)


def _with_sizes(request: AttentionRequest, sizes: Sequence[int]) -> AttentionRequest:
    """A dense request with operands of some sizes, for which there is no memory.

    Args:
        request: a bare cell.
        sizes: batch, seqlen_q, seqlen_k, and heads of k and v.
    """
    batch, seqlen_q, seqlen_k, heads_kv = sizes
    for size in sizes:
        if size < 1:
            raise common.reject("--sizes", size, "four positive integers", "name the sizes of the arrays")
    heads_q, dtype = heads_kv * request.gqa_ratio, request.dtype.numpy_name
    elements = (
        batch * max(seqlen_q * heads_q, seqlen_k * heads_kv) * max(request.head_dim, request.head_dim_v)
    )
    if elements > LARGEST_ARRAY:
        got = f"an array of {elements} elements"
        raise common.reject("--sizes", got, "at most 2**60 of them", "name smaller sizes, or a smaller --gqa")
    slopes = None if request.bias is PositionBias.NONE else ArrayView.imagined((heads_q,), "float32")
    operands = Operands(
        q=ArrayView.imagined((batch, seqlen_q, heads_q, request.head_dim), dtype),
        k=ArrayView.imagined((batch, seqlen_k, heads_kv, request.head_dim), dtype),
        v=ArrayView.imagined((batch, seqlen_k, heads_kv, request.head_dim_v), dtype),
        alibi_slopes=slopes,
    )
    return replace(request, operands=operands)


def _workspace_bytes(request: AttentionRequest, explanation: Explanation) -> int | None:
    """Of the scratch memory; None where nothing but sizes says how much, or nothing is launched."""
    if request.operands is None or not explanation.chosen.kernels:
        return None
    return workspace_size(request, explanation.key.arch)


def _kernel(spec: KernelSpec, cache: CubinCache, *, compile_it: bool) -> dict[str, Any]:
    found = cache.get_or_compile(spec) if compile_it else cache.lookup(spec)
    measured = (
        {"compiled": False}
        if found is None
        else {
            "compiled": True,
            "registers": found.record.registers,
            "spill_bytes": found.record.spill_bytes,
            "cubin_bytes": len(found.cubin),
            "compile_seconds": found.record.compile_seconds,
        }
    )
    return {
        "label": spec.label,
        "kind": spec.kind,
        "entry": spec.entry,
        "source": spec.source,
        "tile": spec.tile_name,
        "threads": spec.threads,
        "shared_bytes": spec.shared_bytes,
        **measured,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "implementation": candidate.implementation,
        "chosen": candidate.chosen,
        "reasons": list(candidate.reasons),
        "kernels": [spec.label for spec in candidate.kernels],
    }


def _document(
    explanation: Explanation, kernels: list[dict[str, Any]], workspace: int | None
) -> dict[str, Any]:
    key = explanation.key
    return {
        "key": {
            "arch": key.arch.target,
            "dtype": key.dtype.tag,
            **{
                name: getattr(key, name)
                for name in type(key).__dataclass_fields__
                if name not in ("arch", "dtype")
            },
        },
        "stable_hash": f"{key.stable_hash():016x}",
        "kernel_name": explanation.kernel_name,
        "chosen": explanation.chosen.implementation,
        "kernels": kernels,
        "workspace_bytes": workspace,
        "candidates": [_candidate(candidate) for candidate in explanation.candidates],
    }


def _print(explanation: Explanation, kernels: list[dict[str, Any]], workspace: int | None) -> None:
    rows = [
        ("kernel name", explanation.kernel_name),
        ("key", f"{explanation.key.stable_hash():016x} on {explanation.key.arch.target}"),
        ("computed by", explanation.chosen.implementation),
    ]
    if workspace is not None:
        rows.append(("workspace", amount(workspace)))
    print_pairs(rows)
    for kernel in kernels:
        print()
        print_pairs(_kernel_rows(kernel))
    print()
    print_table(
        ("implementation", "", "reasons"),
        [
            (
                candidate.implementation,
                "chosen" if candidate.chosen else "not chosen",
                "\n".join(candidate.reasons),
            )
            for candidate in explanation.candidates
        ],
    )


def _kernel_rows(kernel: dict[str, Any]) -> list[tuple[str, str]]:
    tile = f"{kernel['tile']}, " if kernel["tile"] else ""
    return [
        ("kernel", f"{kernel['label']} ({kernel['entry']} in kernels_cu/{kernel['source']})"),
        ("tile", f"{tile}{kernel['threads']} threads"),
        ("shared memory", amount(kernel["shared_bytes"])),
        (
            "registers",
            f"{kernel['registers']} a thread, {kernel['spill_bytes']} bytes spilled; cubin "
            f"{amount(kernel['cubin_bytes'])}, compiled in {kernel['compile_seconds']:.2f} s"
            if kernel["compiled"]
            else "not compiled yet; add --compile",
        ),
    ]
