"""How asks are measured: one code for flashactor, for bare primitives and for peers. It needs no package.

An *ask* is a function without arguments that sends one message when it is called, and whose result is
awaited for the reply. Times are microseconds a message.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

Ask = Callable[[], Awaitable[Any]]

TASKS = 1000
"""Coroutines that share one actor."""


class Trip(NamedTuple):
    """Round trips of one kind, in microseconds: the middle one, and the one that 99 of 100 stay below."""

    median: float
    p99: float


def trip(seconds: Sequence[float]) -> Trip:
    """The median and the 99th percentile of round trips."""
    ordered = sorted(seconds)
    return Trip(ordered[len(ordered) // 2] * 1e6, ordered[len(ordered) * 99 // 100] * 1e6)


async def awaited(ask: Ask, count: int) -> list[float]:
    """Seconds of each of so many round trips: one coroutine, which awaits each reply before the next ask."""
    taken = []
    for _ in range(count):
        start = perf_counter()
        await ask()
        taken.append(perf_counter() - start)
    return taken


async def in_turn(asks: Mapping[str, Ask], rounds: int, batch: int = 50) -> dict[str, Trip]:
    """Round trips of each kind, taken in turn in small batches: what disturbs one disturbs all."""
    samples: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(rounds):
        for name, ask in asks.items():
            samples[name] += await awaited(ask, batch)
    return {name: trip(taken) for name, taken in samples.items()}


async def pipelined(ask: Ask, count: int) -> float:
    """One coroutine sends all messages, then awaits the replies in order: microseconds a message."""
    start = perf_counter()
    pending = [ask() for _ in range(count)]
    for reply in pending:
        await reply
    return (perf_counter() - start) / count * 1e6


async def windowed(ask: Ask, count: int, window: int = TASKS) -> float:
    """One coroutine keeps so many messages under way, awaiting the oldest before it sends the next one."""
    start = perf_counter()
    pending: deque[Awaitable[Any]] = deque()
    for _ in range(count):
        if len(pending) == window:
            await pending.popleft()
        pending.append(ask())
    while pending:
        await pending.popleft()
    return (perf_counter() - start) / count * 1e6


async def shared(ask: Ask, count: int, tasks: int = TASKS) -> float:
    """So many coroutines share the messages, each awaiting its reply before its next ask.

    The time runs from before the tasks are made until the last one has ended.
    """

    async def one_task(messages: int) -> None:
        for _ in range(messages):
            await ask()

    start = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(one_task(count // tasks))
    return (perf_counter() - start) / (count // tasks * tasks) * 1e6


async def repeated(measure: Callable[[], Awaitable[float]], repeats: int) -> float:
    """The median of several measurements."""
    taken = sorted([await measure() for _ in range(repeats)])
    return taken[len(taken) // 2]


def in_threads(ask_and_wait: Callable[[], Any], count: int, threads: int) -> float:
    """So many threads share the messages, each waiting for its reply before its next ask.

    The time runs from the moment that all threads have started until the last one has ended.
    """
    together = threading.Barrier(threads + 1)

    def one_thread() -> None:
        together.wait()
        for _ in range(count // threads):
            ask_and_wait()

    members = [threading.Thread(target=one_thread) for _ in range(threads)]
    for member in members:
        member.start()
    together.wait()
    start = perf_counter()
    for member in members:
        member.join()
    return (perf_counter() - start) / (count // threads * threads) * 1e6
