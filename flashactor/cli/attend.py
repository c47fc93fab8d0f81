"""``flashactor attend``: arrays from files through a real actor, and the outputs into a file."""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashactor.cli import options as common
from flashactor.cli.output import print_pairs
from flashactor.settings import Settings
from flashactor.types import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flashactor.actor.reply import AttentionReply
    from flashactor.requests import Fa2FwdRequest, VarlenFwdRequest

    Request = Fa2FwdRequest | VarlenFwdRequest

DESCRIPTION = """\
Compute attention of arrays in files and write out and lse into an .npz file.

Files: q.npy k.npy v.npy; or one .npz or .safetensors file with arrays q, k, v and, optionally, alibi_slopes,
sink_logits, softmax_scale, cu_seqlens_q and cu_seqlens_k.
Shapes: [batch, seqlen, heads, head_dim] or, for one sequence, [seqlen, heads, head_dim]; with cu_seqlens
[total_tokens, heads, head_dim].
The output file holds out in q's type (bfloat16 as float32, which .npz files can hold) and lse as float32.
"""


def add_parser(commands: Any) -> None:
    """The command's options."""
    parser = commands.add_parser(
        "attend",
        help="compute attention of arrays in files",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="q.npy k.npy v.npy, or one file")
    common.add_mask_options(parser)
    parser.add_argument(
        "--sink", type=common.size, default=0, metavar="N", help="leading keys that stay visible"
    )
    parser.add_argument("--alibi", type=Path, metavar="FILE", help="ALiBi slopes, .npy of [heads]")
    parser.add_argument("--scale", type=float, help="softmax scale; default 1 / sqrt(head_dim)")
    parser.add_argument("--softcap", type=float, default=0.0, help="cap of the scores; 0 is off")
    parser.add_argument("--dtype", type=common.dtype, help="convert q, k and v to f16 or bf16 first")
    parser.add_argument("--arch", type=common.arch, help="architecture to plan for; default: the device's")
    parser.add_argument(
        "--executor",
        choices=("auto", "cuda", "emulator", "reference"),
        default="auto",
        help="what computes; the emulator runs the compiled kernels on the host",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out.npz"), metavar="FILE", help="default: out.npz"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, ask, write, report."""
    from flashactor.actor.messages import FlashAttnMsg
    from flashactor.cli.device import from_device, require_torch, to_device
    from flashactor.cli.loading import load_arrays, load_npy, prepare
    from flashactor.service import FlashAttnActor

    if options.dtype is not None and options.dtype.is_fp8:
        raise common.reject(
            "--dtype", options.dtype.tag, "f16 or bf16", "store fp8 arrays with their descales"
        )
    _require_folder(options.output)
    arrays = load_arrays(options.files)
    if options.alibi is not None:
        arrays["alibi_slopes"] = load_npy(options.alibi)
    for name in "qkv":
        arrays[name] = prepare(name, arrays[name], options.dtype)
    operands, fields = _operands(arrays, options)
    request = _request(operands, fields)
    executor = options.executor if options.executor != "auto" else _best_executor(request)
    with FlashAttnActor.start(executor=executor) as actor:
        if executor == "cuda":
            require_torch()
            request = _request({name: to_device(x, "cuda") for name, x in operands.items()}, fields)
        reply = actor.ask(FlashAttnMsg.forward(request)).result()
        out, lse = (x if executor != "cuda" else from_device(x) for x in (reply.out, reply.lse))
    squeeze = arrays["q"].ndim == 3 and "cu_seqlens_q" not in arrays
    _write(options.output, *((out[0], lse[0]) if squeeze else (out, lse)))
    _report(options.output, reply, out)
    return 0


def _best_executor(request: Request) -> str:
    """``auto`` for arrays of files: the device if it has a kernel for them, else the reference."""
    from flashactor.cli.device import has_torch
    from flashactor.executors.cuda import device_arch
    from flashactor.executors.select import auto_executor
    from flashactor.kernels.select import explain

    chosen = auto_executor(Settings.from_environment())
    if chosen == "cuda" and not (has_torch() and explain(request, device_arch()).chosen.kernels):
        return "reference"
    return chosen


def _require_folder(output: Path) -> None:
    """Before anything is computed: can the output be written?"""
    if not output.parent.is_dir():
        raise common.reject(
            "--output", output, "a file in a folder that exists", f"make {output.parent} first"
        )
    if output.is_dir():
        raise common.reject("--output", output, "a file, not a folder", "name a file")


def _operands(
    arrays: dict[str, NDArray[Any]], options: argparse.Namespace
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays that a request takes, by argument, and its other fields."""
    from flashactor.cli.loading import prepare_number, prepare_offsets, prepare_vector

    operands = {name: arrays[name] for name in "qkv"}
    for name in ("alibi_slopes", "sink_logits"):
        if name in arrays:
            operands[name] = prepare_vector(name, arrays[name])
    for name in ("cu_seqlens_q", "cu_seqlens_k"):
        if name in arrays:
            operands[name] = prepare_offsets(name, arrays[name])
    if "cu_seqlens_q" in operands:
        operands.setdefault("cu_seqlens_k", operands["cu_seqlens_q"])
    elif "cu_seqlens_k" in operands:
        raise common.reject("cu_seqlens_q", "no array", "one beside cu_seqlens_k", "store both, or neither")
    elif all(operands[name].ndim == 3 for name in "qkv"):
        operands |= {name: operands[name][None] for name in "qkv"}
    scale = options.scale
    if scale is None and "softmax_scale" in arrays:
        scale = prepare_number("softmax_scale", arrays["softmax_scale"])
    fields = {
        "mask": common.mask_of(options),
        "sink_tokens": options.sink,
        "softmax_scale": scale,
        "softcap": options.softcap,
        "arch": options.arch,
    }
    return operands, fields


def _request(operands: dict[str, Any], fields: dict[str, Any]) -> Request:
    from flashactor.requests import Fa2FwdRequest, VarlenFwdRequest

    request_type = VarlenFwdRequest if "cu_seqlens_q" in operands else Fa2FwdRequest
    return request_type.from_arrays(**operands, **fields)


def _write(output: Path, out: NDArray[Any], lse: NDArray[Any]) -> None:
    """As a whole, or OutputError."""
    import numpy as np

    from flashactor.cache.output import write_output

    if out.dtype.name == DType.BF16.numpy_name:
        out = out.astype(np.float32)
    content = BytesIO()
    np.savez(content, out=out, lse=lse)
    write_output(output, content.getvalue())


def _report(output: Path, reply: AttentionReply, out: NDArray[Any]) -> None:
    timings = reply.timings
    print_pairs(
        (
            ("kernel name", reply.kernel_name),
            ("key", f"{reply.key.stable_hash():016x}"),
            ("computed by", reply.executor),
            ("out", f"{'x'.join(map(str, out.shape))} {out.dtype.name}"),
            ("time", f"{timings.total * 1e3:.1f} ms, {timings.compiled * 1e3:.1f} of it for the kernel"),
            ("written to", str(output)),
        ),
    )
