"""Every figure of asks in this process: of an actor on the mock executor, of bare hops and of pykka."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import pykka

from benchmarks.actor.contenders import BareHop, BareThreadHop, Echo, ask_in_thread, blocking_ask
from benchmarks.actor.measuring import Ask, Trip, in_threads, in_turn, pipelined, shared, windowed
from benchmarks.actor.scraping import Scraping
from benchmarks.report import median
from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps, MaskKind, SmArch
from flashactor.actor.reply import AttentionReply
from flashactor.errors import MockModeError
from flashactor.executors.base import Outputs, Work
from flashactor.executors.mock import MockExecutor
from flashactor.telemetry.events import Observer, RequestEvent

PIPELINED = 20_000
THREADS = 8
SCRAPED_SECONDS = 4.0


def new_message() -> FlashAttnMsg:
    """A message with a new request: construction, validation and key included."""
    return FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, MaskKind.causal()))


def _scripted(work: Work) -> Outputs:
    """A mock's reply."""
    return Outputs()


class _Counting(Observer):
    """An observer that does as little as one can."""

    def __init__(self) -> None:
        self.settled_requests = 0

    def settled(self, event: RequestEvent) -> None:
        """Count."""
        self.settled_requests += 1


@dataclass
class Figures:
    """What one run measured, in microseconds.

    Attributes:
        trips: awaited round trips, by who is asked.
        rates: time of a message when many are under way, by who is asked and how.
        scrapes: pages of metrics that were fetched during "pipelined with scrapes".
    """

    trips: dict[str, Trip]
    rates: dict[str, float]
    scrapes: int

    def document(self) -> dict[str, Any]:
        """As JSON takes it."""
        trips = {name: taken._asdict() for name, taken in self.trips.items()}
        return {"trips": trips, "rates": self.rates, "scrapes": self.scrapes}


def start(*observers: Observer) -> FlashAttnActor:
    """An actor on the mock executor, which replies on the actor's thread."""
    return FlashAttnActor.start(FlashAttnProps(observers=observers), executor=MockExecutor(script=_scripted))


async def measure(rounds: int, repeats: int) -> Figures:
    """Every figure; each kind in turn, so that what disturbs one disturbs all."""
    message = new_message()
    hop, thread_hop, echo = BareHop(), BareThreadHop(), Echo.start()
    mock = FlashAttnActor.start(executor="mock")
    observer = _Counting()
    with start() as actor, start(observer) as observed, mock:
        ask = partial(actor.ask, message)
        trips = await in_turn(
            {
                "hop": hop.ask,
                "ask": ask,
                "ask, MockModeError": partial(_ask_in_vain, mock, message),
                "ask with an observer": partial(observed.ask, message),
                "pykka, blocking the loop": blocking_ask(echo),
                "pykka in to_thread": ask_in_thread(echo),
            },
            rounds,
        )
        rates = await _rates_in_turn(
            {
                "hop pipelined": partial(pipelined, hop.ask, PIPELINED),
                "hop windowed": partial(windowed, hop.ask, PIPELINED),
                "hop tasks": partial(shared, hop.ask, PIPELINED),
                "hop threads": partial(_threads, thread_hop.ask_and_wait),
                "pipelined": partial(pipelined, ask, PIPELINED),
                "windowed": partial(windowed, ask, PIPELINED),
                "tasks": partial(shared, ask, PIPELINED),
                "threads": partial(_threads, partial(_ask_and_wait, actor, message)),
                "ask_many": partial(_ask_many, actor, message),
                "pipelined, new requests": partial(pipelined, partial(_ask_anew, actor), PIPELINED),
                "pipelined with an observer": partial(pipelined, partial(observed.ask, message), PIPELINED),
                "pykka pipelined": partial(_pykka_pipelined, echo),
                "pykka tasks": partial(shared, ask_in_thread(echo), PIPELINED),
                "pykka threads": partial(_threads, partial(echo.ask, 1)),
            },
            repeats,
        )
        with Scraping() as scraping:
            rates["pipelined with scrapes"] = await _for_seconds(ask, SCRAPED_SECONDS)
        if not observer.settled_requests or not scraping.scrapes:
            raise RuntimeError("an observer heard nothing, or a scrape showed no request")
    echo.stop()
    hop.stop()
    thread_hop.stop()
    return Figures(trips, rates, scraping.scrapes)


async def _rates_in_turn(
    kinds: Mapping[str, Callable[[], Awaitable[float]]], repeats: int
) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, measure_once in kinds.items():
            taken[name].append(await measure_once())
    return {name: median(values) for name, values in taken.items()}


async def _ask_in_vain(mock: FlashAttnActor, message: FlashAttnMsg) -> None:
    try:
        await mock.ask(message)
    except MockModeError:
        return


def _ask_anew(actor: FlashAttnActor) -> Awaitable[AttentionReply]:
    return actor.ask(new_message())


def _ask_and_wait(actor: FlashAttnActor, message: FlashAttnMsg) -> None:
    actor.ask(message).result()


async def _threads(ask_and_wait: Callable[[], Any]) -> float:
    return in_threads(ask_and_wait, PIPELINED, THREADS)


async def _ask_many(actor: FlashAttnActor, message: FlashAttnMsg) -> float:
    messages = [message] * PIPELINED
    start = perf_counter()
    await actor.ask_many(messages)
    return (perf_counter() - start) / PIPELINED * 1e6


async def _pykka_pipelined(echo: pykka.ActorRef[Echo]) -> float:
    start = perf_counter()
    for future in [echo.ask(1, block=False) for _ in range(PIPELINED)]:
        future.get()
    return (perf_counter() - start) / PIPELINED * 1e6


async def _for_seconds(ask: Ask, seconds: float) -> float:
    """As ``pipelined``, over and over for a time."""
    taken, start = [], perf_counter()
    while perf_counter() - start < seconds:
        taken.append(await pipelined(ask, PIPELINED))
    return sum(taken) / len(taken)
