"""``flashactor explain``: what a request would run, and why not something else."""

from __future__ import annotations

import argparse
from typing import Any

from flashactor.cli import options as common
from flashactor.cli.output import amount, print_json, print_pairs, print_table
from flashactor.kernels.select import Candidate, Explanation, explain
from flashactor.kernels.spec import KernelSpec
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.requests.bare import bare_request
from flashactor.types import DType, PositionBias, SmArch

REQUEST_TYPES_OF_KIND: dict[str, tuple[type[AttentionRequest], type[AttentionRequest]]] = {
    "dense": (Fa2FwdRequest, Fa2BwdRequest),
    "varlen": (VarlenFwdRequest, VarlenBwdRequest),
    "paged": (PagedAttentionRequest, PagedAttentionRequest),
    "chunked": (ChunkedPrefillRequest, ChunkedPrefillRequest),
}
"""What runs forward and backward; the last two have no backward pass, and are refused before."""


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "explain",
        help="say which kernel a request would run, and why not another",
        description="Plan a request without arrays: its key, its kernel, and each implementation's reasons.",
    )
    parser.add_argument("--arch", type=common.arch, default=SmArch.SM80, help="default: sm_80")
    parser.add_argument("--dtype", type=common.dtype, default=DType.BF16, help="default: bf16")
    parser.add_argument("--head-dim", type=int, default=128, metavar="N", help="default: 128")
    parser.add_argument("--gqa", type=int, default=1, metavar="N", help="query heads for each key/value head")
    common.add_mask_options(parser)
    parser.add_argument("--sink", type=int, default=0, metavar="N", help="leading keys that stay visible")
    parser.add_argument("--alibi", action="store_true", help="with ALiBi slopes")
    parser.add_argument("--softcap", type=float, default=0.0, help="cap of the scores; 0 is off")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="P", help="dropout probability")
    parser.add_argument(
        "--kind", choices=tuple(REQUEST_TYPES_OF_KIND), default="dense", help="layout of the batch"
    )
    parser.add_argument("--backward", action="store_true", help="the gradients (dense and varlen)")
    parser.add_argument("--implementation", metavar="NAME", help="insist on one implementation")
    parser.add_argument("--compile", action="store_true", help="compile the kernel if the cache lacks it")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--support-table", action="store_true", help="what each implementation supports")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain, and print for people or programs."""
    if options.support_table:
        from flashactor.cli.tables import support_table

        print(support_table())
        return 0
    explanation = explain(_request(options))
    spec = explanation.chosen.spec
    kernel = {} if spec is None else _kernel(spec, compile_it=options.compile)
    if options.json:
        print_json(_document(explanation, kernel))
    else:
        _print(explanation, kernel)
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
    }
    if options.dtype.is_fp8 and (options.kind != "dense" or options.backward):
        raise common.reject(
            "--dtype", options.dtype.tag, "a dense forward request for fp8", "drop the others"
        )
    if options.backward and options.kind not in ("dense", "varlen"):
        raise common.reject("--kind", options.kind, "dense or varlen for --backward", "drop one of the two")
    if options.dtype.is_fp8:
        return bare_request(Fa3FwdFp8Request, **fields)
    forward, backward = REQUEST_TYPES_OF_KIND[options.kind]
    return bare_request(backward if options.backward else forward, **fields)


def _kernel(spec: KernelSpec, *, compile_it: bool) -> dict[str, Any]:
    from flashactor.cache import CubinCache

    cache = CubinCache.from_settings()
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
        "entry": spec.entry,
        "source": spec.source,
        "tile_m": spec.tile_m,
        "tile_n": spec.tile_n,
        "warps": spec.warps,
        "threads": spec.threads,
        "shared_bytes": spec.shared_bytes,
        **measured,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "implementation": candidate.implementation,
        "chosen": candidate.chosen,
        "reasons": list(candidate.reasons),
        "kernel": candidate.spec.label if candidate.spec else None,
    }


def _document(explanation: Explanation, kernel: dict[str, Any]) -> dict[str, Any]:
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
        "kernel": kernel or None,
        "candidates": [_candidate(candidate) for candidate in explanation.candidates],
    }


def _print(explanation: Explanation, kernel: dict[str, Any]) -> None:
    rows = [
        ("kernel name", explanation.kernel_name),
        ("key", f"{explanation.key.stable_hash():016x} on {explanation.key.arch.target}"),
        ("computed by", explanation.chosen.implementation),
    ]
    if kernel:
        rows += [
            ("kernel", f"{kernel['label']} ({kernel['entry']} in kernels_cu/{kernel['source']})"),
            ("tile", f"{kernel['tile_m']} queries x {kernel['tile_n']} keys, {kernel['threads']} threads"),
            ("shared memory", amount(kernel["shared_bytes"])),
        ]
        rows.append(
            (
                "registers",
                f"{kernel['registers']} a thread, {kernel['spill_bytes']} bytes spilled; cubin "
                f"{amount(kernel['cubin_bytes'])}, compiled in {kernel['compile_seconds']:.2f} s",
            )
            if kernel["compiled"]
            else ("registers", "not compiled yet; add --compile")
        )
    print_pairs(rows)
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
