"""One forward pass, awaited: arrays in, arrays of the same library out."""

import asyncio

import ml_dtypes
import numpy as np

from flashactor import Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind


async def main() -> None:
    """Attend over random bf16 arrays, 8 query heads sharing 2 key/value heads."""
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 100, 8, 64)).astype(ml_dtypes.bfloat16)
    k, v = (rng.standard_normal((2, 120, 2, 64)).astype(ml_dtypes.bfloat16) for _ in "kv")

    with FlashAttnActor.start() as actor:  # cuda where there is a device, else the NumPy reference
        request = Fa2FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal())
        reply = await actor.ask(FlashAttnMsg.forward(request))

    print(f"{reply.kernel_name} on {reply.executor}: out {reply.out.shape} {reply.out.dtype}")
    print(f"{reply.timings.total * 1e3:.1f} ms, lse of the first row {reply.lse[0, 0, 0]:.4f}")


if __name__ == "__main__":
    asyncio.run(main())
