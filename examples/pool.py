"""Conversations share a pool of actors; each keeps to one of them, and so does the order of its requests."""

import asyncio

import numpy as np

from flashactor import Fa2FwdRequest, FlashAttnMsg, FlashAttnPool, FlashAttnProps, MaskKind

HEADS, HEAD_DIM = 4, 64


def attend(rng: np.random.Generator, queries: int, keys: int) -> FlashAttnMsg:
    """The last tokens of a text of so many against all of it."""
    q, k, v = (
        rng.standard_normal((1, tokens, HEADS, HEAD_DIM)).astype(np.float16)
        for tokens in (queries, keys, keys)
    )
    return FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal()))


async def converse(pool: FlashAttnPool, name: str, steps: int) -> None:
    """A conversation that grows by a token each step."""
    rng = np.random.default_rng(sum(name.encode()))
    for step in range(steps):
        await pool.ask(attend(rng, 1, 16 + step), key=name)


async def main() -> None:
    """Converse, then send prompts of different lengths to whoever has the least to do."""
    props = FlashAttnProps(label="decode", max_in_flight=4)
    async with FlashAttnPool.start(props, size=2, route="sticky") as pool:
        await asyncio.gather(*(converse(pool, name, steps=5) for name in ("ada", "alan", "grace", "edsger")))
        for label, stats in pool.stats().actors.items():
            print(f"{label}: {stats.completed} requests")

    rng = np.random.default_rng(0)
    prompts = [attend(rng, tokens, tokens) for tokens in (300, 8, 16, 24)]
    async with FlashAttnPool.start(FlashAttnProps(label="prefill"), size=2, route="least_loaded") as pool:
        replies = await pool.ask_many(prompts)
        print(f"replies for {[reply.out.shape[1] for reply in replies]} tokens, in the order of the prompts")


if __name__ == "__main__":
    asyncio.run(main())
