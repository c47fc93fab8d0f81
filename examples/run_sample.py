"""Send one attention layer of a real text encoder through the actor, and compile its kernels for every GPU.

    make run          # or: python examples/run_sample.py

The sample (examples/data) goes through as four requests: causal, bidirectional, with grouped heads, and a few
heads as FlashAttention-3 on Hopper. What computes them is the real kernels, which NVRTC compiles here: on the
GPU where there is one, else in the emulator, which runs their PTX on the host. They are compiled for every
other architecture too. Outputs go to examples/output/.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from flashactor import (
    AttentionReply,
    Fa2FwdRequest,
    Fa3FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    MaskKind,
    PersistentMode,
    SmArch,
    explain,
)
from flashactor.cache import CubinCache
from flashactor.executors.cuda import device_arch, device_count
from flashactor.requests import AttentionRequest

HERE = Path(__file__).parent
OUTPUT = HERE / "output"


def requests() -> dict[str, AttentionRequest]:
    """The sample's requests, as far as they can run here."""
    with np.load(HERE / "data" / "minilm_layer.npz") as sample:
        q, k, v = sample["q"], sample["k"], sample["v"]
    # Every third key/value head for three query heads each: a strided view, which no one copies.
    grouped_k, grouped_v = k[:, :, ::3], v[:, :, ::3]
    made: dict[str, AttentionRequest] = {
        "causal": Fa2FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal()),
        "bidirectional": Fa2FwdRequest.from_arrays(q, k, v),
        "grouped": Fa2FwdRequest.from_arrays(q, grouped_k, grouped_v, mask=MaskKind.causal()),
    }
    if not device_count() or device_arch().supports_fa3:
        few = (x[:, :, ::4] for x in (q, k, v))
        resident = PersistentMode.persistent(num_sms=2)  # blocks that walk over all tiles
        made["hopper"] = Fa3FwdRequest.from_arrays(*few, mask=MaskKind.causal(), persistent=resident)
    return made


def exact(request: AttentionRequest) -> NDArray[np.float64]:
    """The textbook formula in float64, written apart from the reference so that it can disagree with it."""
    operands = request.require_operands()
    q, k, v = (view.to_numpy().astype(np.float64) for view in (operands.q, operands.k, operands.v))
    k, v = (np.repeat(x, request.gqa_ratio, axis=2) for x in (k, v))
    scores = np.einsum("bihd,bjhd->bhij", q, k) * request.scale
    if request.mask.is_causal:
        rows, columns = scores.shape[-2:]
        scores[..., ~np.tri(rows, columns, columns - rows, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    result: NDArray[np.float64] = np.einsum("bhij,bjhd->bihd", weights, v)
    return result


async def compute(asked: dict[str, AttentionRequest]) -> dict[str, AttentionReply]:
    """The actor's replies, all requests in flight at once."""
    with FlashAttnActor.start(executor="cuda" if device_count() else "emulator") as actor:
        pending = {name: actor.ask(FlashAttnMsg.forward(request)) for name, request in asked.items()}
        return {name: await reply for name, reply in pending.items()}


def kernel_rows(name: str, request: AttentionRequest, cache: CubinCache) -> list[tuple[str, ...]]:
    """One row for each kernel on each architecture: the request's name there, compiled or from the cache."""
    rows: list[tuple[str, ...]] = []
    for arch in SmArch:
        if isinstance(request, Fa3FwdRequest) and not arch.supports_fa3:
            continue
        explanation = explain(request, arch)
        if not explanation.chosen.kernels:
            raise SystemExit(f"no kernel for {explanation.kernel_name} on {arch.target}")
        for spec in explanation.chosen.kernels:
            kernel = cache.get_or_compile(spec)
            rows.append(
                (
                    name,
                    arch.target,
                    explanation.kernel_name,
                    explanation.chosen.implementation,
                    f"{explanation.key.stable_hash():016x}",
                    f"{len(kernel.cubin) / 1024:.1f} KiB",
                    f"{kernel.record.compile_seconds:.2f} s ({kernel.source})",
                )
            )
    return rows


def table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """Rows as rich prints them."""
    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*row)
    return made


def main() -> None:
    """Compute, compile, compare, print and write."""
    start = perf_counter()
    console = Console(width=None if Console().is_terminal else 160)
    asked = requests()
    replies = asyncio.run(compute(asked))
    results: list[tuple[str, ...]] = []
    saved: dict[str, Any] = {}
    for name, reply in replies.items():
        error = float(np.abs(reply.out.astype(np.float64) - exact(asked[name])).max())
        results.append(
            (
                name,
                reply.kernel_name,
                "x".join(map(str, reply.out.shape)),
                reply.executor,
                f"{reply.timings.total * 1e3:.0f} ms",
                f"{error:.1e}",
            )
        )
        saved |= {f"{name}_out": reply.out, f"{name}_lse": reply.lse}
    cache = CubinCache.from_settings()
    kernels = [row for name, request in asked.items() for row in kernel_rows(name, request, cache)]
    of_kernel = ("request", "architecture", "kernel name", "implementation", "key", "cubin", "compiled in")
    console.print(table("Kernels", of_kernel, kernels))
    of_result = ("request", "kernel name", "output", "computed by", "time", "max error against float64")
    console.print(table("Results", of_result, results))
    OUTPUT.mkdir(exist_ok=True)
    np.savez(OUTPUT / "sample.npz", **saved)
    console.print(f"wrote {OUTPUT / 'sample.npz'} in {perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
