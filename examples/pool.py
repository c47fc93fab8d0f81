"""Conversations share a pool of actors; each keeps to one of them, and so does the order of its requests."""

import asyncio
from collections.abc import Sequence

import numpy as np

from flashactor import AttentionReply, Fa2FwdRequest, FlashAttnMsg, FlashAttnPool, FlashAttnProps, MaskKind

HEADS, HEAD_DIM = 4, 64


def decode_step(rng: np.random.Generator, tokens: int) -> FlashAttnMsg:
    """One new query against the keys and values of so many tokens."""
    q = rng.standard_normal((1, 1, HEADS, HEAD_DIM)).astype(np.float16)
    k, v = (rng.standard_normal((1, tokens, HEADS, HEAD_DIM)).astype(np.float16) for _ in "kv")
    return FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, mask=MaskKind.causal()))


async def converse(pool: FlashAttnPool, name: str, steps: int) -> Sequence[AttentionReply]:
    """A conversation that grows by a token each step."""
    rng = np.random.default_rng(sum(name.encode()))
    return [await pool.ask(decode_step(rng, 16 + step), key=name) for step in range(steps)]


async def main() -> None:
    """Converse, then send one batch that any of the actors may take its share of."""
    names = ("ada", "grace", "alan", "edsger")
    async with FlashAttnPool.start(FlashAttnProps(label="decode"), size=2, route="sticky") as pool:
        replies = await asyncio.gather(*(converse(pool, name, steps=5) for name in names))
        print(f"{sum(map(len, replies))} replies")
        for label, stats in pool.stats().actors.items():
            print(f"{label}: {stats.completed} requests")

    rng = np.random.default_rng(0)
    batch = [decode_step(rng, tokens) for tokens in (300, 8, 8, 8)]
    async with FlashAttnPool.start(FlashAttnProps(label="batch"), size=2, route="least_loaded") as pool:
        lengths = [float(np.exp(reply.lse).sum()) > 0 for reply in await pool.ask_many(batch)]
        print(f"batch: {len(lengths)} replies in order, {pool.stats().total.failed} failed")


if __name__ == "__main__":
    asyncio.run(main())
