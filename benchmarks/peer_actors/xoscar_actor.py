"""How long asks of a xoscar actor take.

    pip install xoscar  # in an environment of its own
    python -m benchmarks.peer_actors.xoscar_actor --messages 5000

Prints one JSON document, in microseconds. The actor returns the integer that it gets. It runs once on the
event loop of its caller, where a message changes neither thread nor process, and once in another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import Any

import xoscar

from benchmarks.actor.measuring import Ask
from benchmarks.peer_actors.measuring import Running, run_peer


class Echo(xoscar.Actor):  # type: ignore[misc]  # xoscar tells no types
    """Returns what it gets."""

    async def echo(self, value: int) -> int:
        """The value."""
        return value


async def actors() -> AsyncIterator[Running]:
    """The same actor in two places."""
    for name, processes in (("on the caller's loop", 0), ("in another process", 1)):
        pool = await xoscar.create_actor_pool("127.0.0.1", n_process=processes)
        async with pool:
            reference: Any = await xoscar.create_actor(
                Echo,
                address=pool.external_address,
                allocate_strategy=xoscar.allocate_strategy.ProcessIndex(processes),
            )
            ask = partial(reference.echo, 1)
            yield Running(name, ask, partial(_as_task, ask))


def _as_task(ask: Ask) -> Awaitable[Any]:
    """An ask here is a coroutine, which sends nothing before somebody awaits it."""
    return asyncio.ensure_future(ask())


if __name__ == "__main__":
    run_peer("xoscar", __doc__, actors)
