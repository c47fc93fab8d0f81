"""Compiling kernels in the background: ask for many, go on, and await each where it is needed."""

import asyncio
import tempfile
from pathlib import Path

from flashactor import DType, Fa2FwdRequest, MaskKind, NvrtcActor, SmArch
from flashactor.cache import CubinCache
from flashactor.kernels.select import choose_kernels


async def main() -> None:
    """Warm what two cells may take while the event loop serves others, asking for one kernel twice."""
    arch = SmArch.SM90A
    requests = [Fa2FwdRequest(arch, DType.BF16, head_dim, mask=MaskKind.causal()) for head_dim in (64, 96)]
    # A cell takes several kernels: for many queries, for few, and the one that merges splits.
    specs = list(dict.fromkeys(spec for request in requests for spec in choose_kernels(request, arch)))
    with tempfile.TemporaryDirectory() as folder, NvrtcActor(CubinCache(Path(folder))) as nvrtc:
        pending = [nvrtc.ask(spec) for spec in (*specs, specs[0])]  # returns at once
        beats = asyncio.create_task(heartbeat())
        for kernel in await asyncio.gather(*pending):
            print(f"{kernel.record.label}: {kernel.record.registers} registers, {kernel.source}")
        beats.cancel()
        stats = nvrtc.stats()
        print(f"{stats.asked} asks, {stats.delivered} kernels, {stats.joined} ask shared another's compile")


async def heartbeat() -> None:
    """What a server does meanwhile."""
    while True:
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main())
