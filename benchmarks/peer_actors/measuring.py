"""What the scripts of peers share: their options, what they measure, and what they print."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

from benchmarks.actor.measuring import Ask, awaited, pipelined, repeated, shared, trip, windowed

REPEATS = 3
WARM_UP = 100


class Running(NamedTuple):
    """An actor that can be asked.

    Attributes:
        name: what it is called in the table.
        ask: what one awaits.
        send: an ask that is under way before it is awaited.
    """

    name: str
    ask: Ask
    send: Ask


async def _measure(actor: Running, count: int) -> dict[str, Any]:
    """Every figure of one actor, in microseconds."""
    await awaited(actor.ask, WARM_UP)
    return {
        "awaited": trip(await awaited(actor.ask, count))._asdict(),
        "pipelined": await repeated(partial(pipelined, actor.send, count), REPEATS),
        "windowed": await repeated(partial(windowed, actor.send, count), REPEATS),
        "tasks": await repeated(partial(shared, actor.ask, count), REPEATS),
    }


def run_peer(peer: str, description: str | None, actors: Callable[[], AsyncIterator[Running]]) -> None:
    """Read the options, measure and print one JSON document.

    Args:
        peer: the package's name.
        description: of the script.
        actors: gives each kind of actor, running.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--messages", type=int, default=2000, help="messages of each measurement, 1000 or more"
    )
    options = parser.parse_args()

    async def measure_all() -> dict[str, Any]:
        return {actor.name: await _measure(actor, options.messages) async for actor in actors()}

    print(json.dumps({"peer": peer, "version": version(peer), "actors": asyncio.run(measure_all())}))
