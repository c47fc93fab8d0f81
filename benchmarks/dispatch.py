"""What dispatch costs: an awaited ask beside the bare thread hop that it needs, and pipelined asks.

    python -m benchmarks.dispatch            # writes benchmarks/results/dispatch.{json,md}

The hop, the ask and the peers are sampled in turn in one run, so that a noisy machine disturbs all alike.
They run on one processor: with two, every one of them, the bare hop included, takes either about 25 us or
about 85, as the kernel happens to place the two threads, and a ratio of two such samples means nothing. The
unpinned figures stand in the table too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import pykka

from benchmarks.report import median, seconds, write
from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind, SmArch, lookup
from flashactor.errors import MockModeError
from flashactor.executors.base import Outputs, Work
from flashactor.executors.mock import MockExecutor

PIPELINED = 20_000


def new_message() -> FlashAttnMsg:
    """A message with a new request: construction, validation and key included."""
    return FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, MaskKind.causal()))


def scripted(work: Work) -> Outputs:
    """A mock's reply."""
    return Outputs()


class Echo(pykka.ThreadingActor):
    """What pykka alone does with a message."""

    def on_receive(self, message: Any) -> Any:
        return message


class BareHop:
    """The least that a reply from another thread costs: a queue there, call_soon_threadsafe back."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (item := self._inbox.get()) is not None:
            loop, future = item
            loop.call_soon_threadsafe(future.set_result, None)

    async def ask(self) -> None:
        """One round trip."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._inbox.put((loop, future))
        await future

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self._thread.join()


async def sample_in_turn(
    candidates: dict[str, Callable[[], Awaitable[Any]]], rounds: int, batch: int = 50
) -> dict[str, float]:
    """Median microseconds of one awaited call of each candidate, taken in turn in small batches."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            for _ in range(batch):
                start = perf_counter()
                await call()
                samples[name].append(perf_counter() - start)
    return {name: median(values) * 1e6 for name, values in samples.items()}


async def pipelined(actor: FlashAttnActor, make: Callable[[], FlashAttnMsg]) -> float:
    """Microseconds a message of PIPELINED asks that are all sent before the first is awaited."""
    start = perf_counter()
    pending = [actor.ask(make()) for _ in range(PIPELINED)]
    for reply in pending:
        await reply
    return (perf_counter() - start) / PIPELINED * 1e6


async def measure(rounds: int, repeats: int) -> dict[str, float]:
    """Every figure of this benchmark, in microseconds."""
    hop, echo = BareHop(), Echo.start()
    actor = FlashAttnActor.start(executor=MockExecutor(script=scripted))
    mock = FlashAttnActor.start(executor="mock")
    message = new_message()

    async def ask_mock() -> None:
        try:
            await mock.ask(message)
        except MockModeError:
            return

    async def ask_actor() -> None:
        await actor.ask(message)

    async def ask_pykka() -> None:
        echo.ask(message)  # blocks the loop: what pykka offers

    async def ask_in_thread() -> None:
        await asyncio.to_thread(echo.ask, message)

    figures = await sample_in_turn(
        {
            "bare hop": hop.ask,
            "awaited ask": ask_actor,
            "awaited ask, MockModeError": ask_mock,
            "pykka ask (blocks the loop)": ask_pykka,
            "asyncio.to_thread(pykka ask)": ask_in_thread,
        },
        rounds,
    )
    for name, make in (("one message", lambda: message), ("new requests", new_message)):
        figures[f"pipelined, {name}"] = median([await pipelined(actor, make) for _ in range(repeats)])
    request = message.request
    calls = 20_000
    figures["dispatch_key + lookup"] = (
        seconds(lambda: [lookup(request.dispatch_key()) for _ in range(calls)]) / calls * 1e6
    )
    for running in (actor, mock):
        running.stop()
    echo.stop()
    hop.stop()
    return figures


def import_milliseconds(repeats: int) -> tuple[float, float]:
    """Median time of a process that imports flashactor, and of one that imports nothing."""

    def run(statement: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", statement], check=True)) * 1e3

    bare, importing = [], []
    for _ in range(repeats):
        bare.append(run("pass"))
        importing.append(run("import flashactor"))
    return median(importing), median(bare)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60, help="rounds of 50 samples of each kind of ask")
    parser.add_argument("--repeats", type=int, default=9, help="repeats of the other measurements")
    options = parser.parse_args()
    unpinned = asyncio.run(measure(options.rounds, options.repeats))
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    figures = asyncio.run(measure(options.rounds, options.repeats))
    os.sched_setaffinity(0, processors)
    with_import, bare_process = import_milliseconds(options.repeats)
    ratio = figures["awaited ask"] / figures["bare hop"]
    unpinned_ratio = unpinned["awaited ask"] / unpinned["bare hop"]
    rows = [
        ("bare SimpleQueue + call_soon_threadsafe hop", f"{figures['bare hop']:.1f} us", ""),
        (
            "awaited ask, mock with a scripted reply",
            f"{figures['awaited ask']:.1f} us = {ratio:.2f} x the hop",
            "1.3 x",
        ),
        (
            "the same two with the threads on any processor",
            f"{unpinned['awaited ask']:.1f} us beside {unpinned['bare hop']:.1f} us = {unpinned_ratio:.2f} x",
            "",
        ),
        (
            "awaited ask, mock that raises MockModeError",
            f"{figures['awaited ask, MockModeError']:.1f} us",
            "",
        ),
        ("pykka's ask, which blocks the loop", f"{figures['pykka ask (blocks the loop)']:.1f} us", ""),
        ("asyncio.to_thread(pykka's ask)", f"{figures['asyncio.to_thread(pykka ask)']:.1f} us", ""),
        (
            f"{PIPELINED} pipelined asks of one message, validation and key included",
            f"{figures['pipelined, one message']:.1f} us each; "
            f"on any processor {unpinned['pipelined, one message']:.1f}",
            "20 us",
        ),
        (
            f"{PIPELINED} pipelined asks, each constructing its request",
            f"{figures['pipelined, new requests']:.1f} us each; "
            f"on any processor {unpinned['pipelined, new requests']:.1f}",
            "",
        ),
        ("dispatch_key + lookup", f"{figures['dispatch_key + lookup']:.2f} us", "5 us"),
        (
            "process that imports flashactor",
            f"{with_import:.0f} ms, {with_import - bare_process:.0f} ms of it the import",
            "150 ms",
        ),
    ]
    results = {
        "microseconds": figures,
        "microseconds_unpinned": unpinned,
        "import_ms": with_import,
        "bare_process_ms": bare_process,
    }
    page = write("dispatch", results, rows)
    print(page.read_text())


if __name__ == "__main__":
    main()
