"""Sentences of different lengths in one request: packed, no padding, found by cu_seqlens."""

import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np

from flashactor import FlashAttnActor, FlashAttnMsg, VarlenFwdRequest

SAMPLE = Path(__file__).parent / "data" / "minilm_layer.npz"


async def main() -> None:
    """Attend within each of four real sentences, and compare with what the model itself computed."""
    with np.load(SAMPLE) as sample:
        q, k, v = (sample[f"packed_{name}"] for name in "qkv")
        offsets, expected = sample["cu_seqlens"], sample["packed_out_float32"]

    with FlashAttnActor.start() as actor:
        request = VarlenFwdRequest.from_arrays(q, k, v, offsets, offsets)
        reply = await actor.ask(FlashAttnMsg.forward(request))

    print(f"{reply.kernel_name} on {reply.executor}")
    for number, (start, stop) in enumerate(pairwise(offsets)):
        error = np.abs(reply.out[start:stop] - expected[start:stop]).max()
        print(f"sentence {number}: {stop - start} tokens, max difference from the model {error:.1e}")


if __name__ == "__main__":
    asyncio.run(main())
