"""The generated tables of the pages: supported features, tiles, the emulator's instructions.

python -m flashactor.cli.tables --update README.md     # make docs
python -m flashactor.cli.tables --check README.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashactor.kernels.backward_spec import backward_specs
from flashactor.kernels.backward_tiles import DKDV_TILES, DQ_TILES, BackwardTile
from flashactor.kernels.select import IMPLEMENTATIONS
from flashactor.kernels.sm80 import FAMILY, TILE_TABLES, ForwardSpec, TileChoice
from flashactor.kernels.sm80_fp8 import (
    FP8_DECODE_TILES,
    FP8_DROPOUT_TILES,
    FP8_TILES,
    Fp8ForwardSpec,
)
from flashactor.kernels.sm90 import FAMILY as HOPPER
from flashactor.kernels.sm90 import TILE_TABLES as HOPPER_TILES
from flashactor.kernels.sm90 import HopperSpec, HopperTile
from flashactor.kernels.sm90_fp8 import FP8_TILE_TABLES, HopperFp8Spec, HopperFp8Tile
from flashactor.kernels.spec import Scores, Tile
from flashactor.requests import (
    AttentionRequest,
    ChunkedPrefillRequest,
    ChunkLayout,
    CumulativeSeqlens,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    MergeStatesRequest,
    PagedAttentionRequest,
    VarlenBwdRequest,
    VarlenFwdRequest,
)
from flashactor.requests.bare import bare_request
from flashactor.types import DType, MaskKind, PositionBias, SmArch

HOPPER_TILE_TABLES: dict[str, tuple[HopperTile, ...]] = {**HOPPER_TILES, **FP8_TILE_TABLES}
"""All tiles of the family that loads by TMA, by what they are for."""

SEQLENS = CumulativeSeqlens(1, 1, 1, 1, 1)


def _cell(**fields: Any) -> dict[str, Any]:
    return {"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 128, **fields}


def _dense(**fields: Any) -> AttentionRequest:
    return Fa2FwdRequest(**_cell(**fields))


def _paged(**fields: Any) -> AttentionRequest:
    return bare_request(PagedAttentionRequest, **_cell(**fields))


def _used_lengths() -> AttentionRequest:
    """Only arrays say that lengths are used."""
    import numpy as np

    q, offsets = np.zeros((1, 1, 128), np.float16), np.array([0, 1], np.int32)
    return VarlenFwdRequest.from_arrays(q, q, q, offsets, offsets, seqused_k=np.array([1], np.int32))


def _rotary_append() -> AttentionRequest:
    import numpy as np

    q, table = np.zeros((1, 1, 1, 128), np.float16), np.zeros((1, 64), np.float32)
    return ChunkedPrefillRequest.from_arrays(
        q, q, q, q.copy(), q.copy(), chunk=ChunkLayout(1, 0), rotary_cos=table, rotary_sin=table
    )


def _all_gradients() -> AttentionRequest:
    import numpy as np

    q, lse, per_head = (
        np.zeros((1, 1, 1, 128), np.float16),
        np.zeros((1, 1, 1), np.float32),
        np.zeros(1, np.float32),
    )
    return Fa2BwdRequest.from_arrays(
        q, q, q, q, q, lse, alibi_slopes=per_head, sink_logits=per_head, dlse=lse
    )


FEATURES: tuple[tuple[str, Callable[[], AttentionRequest]], ...] = (
    ("forward, bf16", lambda: _dense()),
    ("forward, f16", lambda: _dense(dtype=DType.F16)),
    ("forward, fp8 (e4m3; v in e5m2, too)", lambda: Fa3FwdFp8Request(**_cell(dtype=DType.F8E4M3))),
    (
        "forward, fp8, k in e5m2",
        lambda: Fa3FwdFp8Request(**_cell(dtype=DType.F8E4M3), kv_dtype=DType.F8E5M2),
    ),
    ("head_dim: every multiple of 8 up to 256", lambda: _dense(head_dim=72)),
    ("another head_dim of v and out", lambda: _dense(head_dim=192, head_dim_v=128)),
    ("causal mask, seqlen_q and seqlen_k may differ", lambda: _dense(mask=MaskKind.causal())),
    ("sliding window, causal", lambda: _dense(mask=MaskKind.sliding_causal(8))),
    ("sliding window, both sides", lambda: _dense(mask=MaskKind.sliding_full(8))),
    ("sliding window, each side its own", lambda: _dense(mask=MaskKind.sliding(7, 3))),
    ("sink tokens", lambda: _dense(mask=MaskKind.causal(), sink_tokens=4)),
    ("learned sink logits", lambda: bare_request(Fa2FwdRequest, sink_logits=True, **_cell())),
    ("ALiBi", lambda: _dense(bias=PositionBias.ALIBI)),
    ("softcap", lambda: _dense(softcap=30.0)),
    ("dropout", lambda: _dense(dropout_p=0.1)),
    ("GQA and MQA", lambda: _dense(gqa_ratio=8)),
    ("packed sequences (varlen)", lambda: VarlenFwdRequest(**_cell(), seqlens=SEQLENS)),
    ("packed sequences of which a part is used (seqused)", _used_lengths),
    ("the same bits whatever else is in the batch (batch_invariant)", lambda: _dense(batch_invariant=True)),
    ("paged KV cache, NHD and HND", _paged),
    ("fp8 KV cache under 16-bit queries", lambda: _paged(kv_dtype=DType.F8E4M3)),
    ("page indices checked on the device (guard)", lambda: _paged(guard=True)),
    (
        "chunked prefill with append",
        lambda: ChunkedPrefillRequest(**_cell(), seqlens=SEQLENS, chunk=ChunkLayout(1, 0)),
    ),
    ("append with rotary embedding", _rotary_append),
    ("two attention states merged (merge_states)", lambda: MergeStatesRequest(**_cell())),
    ("backward, dense, deterministic", lambda: Fa2BwdRequest(**_cell())),
    ("backward, dense, in no fixed order", lambda: Fa2BwdRequest(**_cell(), deterministic=False)),
    ("backward, packed", lambda: VarlenBwdRequest(**_cell(), seqlens=SEQLENS)),
    ("backward, from lse too, and of sink logits and ALiBi slopes", _all_gradients),
)
"""Every feature of a request, as a request that needs it."""


def refusals() -> dict[str, dict[str, tuple[str, ...]]]:
    """The reasons of each implementation against each feature; none if it supports it."""
    requests = {feature: make() for feature, make in FEATURES}
    return {
        feature: {impl.name: impl.reasons_against(request, SmArch.SM90A) for impl in IMPLEMENTATIONS}
        for feature, request in requests.items()
    }


def support_table() -> str:
    """The table in Markdown: a tick, or the first reason against."""
    names = [impl.name for impl in IMPLEMENTATIONS]
    lines = [
        "| feature | " + " | ".join(f"`{name}`" for name in names) + " |",
        "| --- " * (len(names) + 1) + "|",
    ]
    for feature, reasons in refusals().items():
        lines.append(f"| {feature} | " + " | ".join(_verdict(reasons[name]) for name in names) + " |")
    return "\n".join(lines)


def support_document() -> list[dict[str, Any]]:
    """The table for programs: a feature, and whether each implementation supports it, or why not."""
    return [
        {
            "feature": feature,
            "implementations": {
                name: {"supported": not against, "reasons": against} for name, against in reasons.items()
            },
        }
        for feature, reasons in refusals().items()
    ]


def _verdict(reasons: tuple[str, ...]) -> str:
    return f"no: {reasons[0]}" if reasons else "✓"


def tile_table() -> str:
    """The tiles in Markdown, with the reason for each."""
    lines = [
        "| kernel | head_dim up to | architectures | tile (queries x keys) | warps | shared memory | why |",
        "| --- " * 7 + "|",
    ]
    for kernel, rows in TILE_TABLES.items():
        lines += [_forward_row(kernel, row, fp8_kv="fp8" in kernel) for row in rows]
    lines += [_hopper_row(kernel, row) for kernel, rows in HOPPER_TILE_TABLES.items() for row in rows]
    lines += [_fp8_row("fp8 operands", row) for row in FP8_TILES]
    lines += [_fp8_row("fp8 operands, dropout", row) for row in FP8_DROPOUT_TILES]
    lines += [_fp8_row("fp8 operands, decoding", row) for row in FP8_DECODE_TILES]
    lines += [_backward_row("gradients of k and v", row, "bwd_dkdv") for row in DKDV_TILES]
    lines += [_backward_row("gradient of q", row, "bwd_dq") for row in DQ_TILES]
    return "\n".join(lines)


def _forward_row(kernel: str, row: TileChoice, *, fp8_kv: bool) -> str:
    head_dim = row.head_dim
    spec = ForwardSpec(
        FAMILY, row.archs[0], DType.BF16, head_dim, head_dim, Scores.PLAIN, row.tile, fp8_kv, fp8_kv
    )
    return _tile_row(kernel, str(head_dim), row, spec.shared_bytes)


def _hopper_row(kernel: str, row: HopperTile) -> str:
    e4m3, arch, (qk, v) = DType.F8E4M3, SmArch.SM90A, row.head_dims
    spec = HopperSpec(HOPPER, arch, DType.BF16, qk, v, Scores.PLAIN, row.tile, row.stages)
    if isinstance(row, HopperFp8Tile):
        fp8 = e4m3, row.piece_dims
        spec = HopperFp8Spec(HOPPER, arch, e4m3, qk, v, Scores.PLAIN, row.tile, row.stages, *fp8)
    head_dims = str(qk) if qk == v else f"{qk}, v {v}"
    return _tile_line(
        f"`{HOPPER}`, {kernel}", head_dims, arch.target, row.tile, spec.shared_bytes, row.reason
    )


def _fp8_row(kernel: str, row: TileChoice) -> str:
    e4m3, head_dim = DType.F8E4M3, row.head_dim
    spec = Fp8ForwardSpec(FAMILY, row.archs[0], e4m3, head_dim, head_dim, Scores.PLAIN, row.tile, e4m3, e4m3)
    return _tile_row(kernel, str(head_dim), row, spec.shared_bytes)


def _backward_row(kernel: str, row: BackwardTile, kind: str) -> str:
    head_dim = row.head_dim
    specs = backward_specs(row.archs[0], DType.BF16, head_dim, head_dim, Scores.PLAIN, deterministic=True)
    shared = max(spec.shared_bytes for spec in specs.all if spec.kind == kind)
    return _tile_row(kernel, str(head_dim), row, shared)


def _tile_row(kernel: str, head_dims: str, row: TileChoice | BackwardTile, shared: int) -> str:
    archs = "all" if len(row.archs) == len(SmArch) else ", ".join(arch.target for arch in row.archs)
    return _tile_line(kernel, head_dims, archs, row.tile, shared, row.reason)


def _tile_line(kernel: str, head_dims: str, archs: str, tile: Tile, shared: int, reason: str) -> str:
    return (
        f"| {kernel} | {head_dims} | {archs} | {tile.m} x {tile.n} | {tile.warps} | {shared // 1024} KiB "
        f"| {reason} |"
    )


def opcode_table() -> str:
    """The emulator's instructions in Markdown."""
    from flashactor.emulator.translate import translator
    from flashactor.emulator.translate.emitters import EMITTERS

    opcodes: dict[str, list[str]] = {}
    for opcode, emitter in EMITTERS.items():
        summary = (emitter.__doc__ or "").partition("\n\n")[0]
        opcodes.setdefault(" ".join(summary.split()), []).append(f"`{opcode}`")
    lines = ["| instructions | forms |", "| --- | --- |"]
    lines += [f"| {', '.join(names)} | {summary} |" for summary, names in opcodes.items()]
    control = ", ".join(f"`{opcode}`" for opcode in sorted(translator.CONTROL))
    return "\n".join([*lines, f"| {control} | control flow |"])


TABLES: dict[str, Callable[[], str]] = {
    "support-table": support_table,
    "tile-table": tile_table,
    "opcode-table": opcode_table,
}
"""The generated tables, by the name in their markers."""


def refreshed(page: str) -> str:
    """A page with each table between its markers brought up to date.

    Raises:
        ValueError: the page has no markers.
    """
    found = False
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, begins, rest = page.partition(begin)
        _, ends, after = rest.partition(end)
        if begins and ends:
            found = True
            page = f"{before}{begin}\n{make()}\n{end}{after}"
    if not found:
        raise ValueError(f"none of the tables {', '.join(TABLES)} is in the page")
    return page


def main() -> int:
    """Update the pages, or say which are stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--update", action="store_true", help="rewrite the table in each page")
    mode.add_argument("--check", action="store_true", help="exit with 1 if a page is stale")
    parser.add_argument("pages", type=Path, nargs="+")
    options = parser.parse_args()
    stale = [page for page in options.pages if refreshed(page.read_text()) != page.read_text()]
    for page in stale:
        if options.update:
            page.write_text(refreshed(page.read_text()))
        print(f"{page}: {'updated' if options.update else 'stale, run make docs'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
