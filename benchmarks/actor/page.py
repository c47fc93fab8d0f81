"""The figures of asks as rows of a table, each beside its goal."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.actor.figures import PIPELINED, THREADS, Figures
from benchmarks.actor.measuring import TASKS

Row = tuple[str, str, str]

NOTES = f"""Goals are held by the figures on one processor. With two, every pair of threads, the bare hop
included, is as quick as the kernel happens to place the two, and a ratio of two such samples says little.

- *Hop*: `queue.SimpleQueue` to a thread that answers with `call_soon_threadsafe`. It computes, keeps, counts
  and limits nothing. In the row of the threads it answers by releasing a lock.
- *Awaited*: one coroutine asks and awaits, again and again; each kind in turn, 50 at a time.
- *Pipelined*: one coroutine sends {PIPELINED} messages, then awaits the replies in order.
- *In a window of {TASKS}*: one coroutine sends {PIPELINED} messages, and once {TASKS} are under way it
  awaits the oldest before it sends the next one.
- *{TASKS} tasks*: {TASKS} asyncio tasks send {PIPELINED // TASKS} messages each, and await each reply
  before the next ask. So as many are under way as in the window. The time runs from before the first task is
  made until the last one has ended.
- The actors' own meters are always on, in every row. The observer counts answers; the scrapes fetch the
  Prometheus page over HTTP once a second."""


def ask_rows(one: Figures, free: Figures) -> list[Row]:
    """Rows of an actor in this process; ``one`` on one processor, ``free`` on any."""
    hop, ask = one.trips["hop"], one.trips["ask"]
    free_hop, free_ask = free.trips["hop"], free.trips["ask"]
    pykka = one.trips["pykka, blocking the loop"]

    def rates(name: str) -> str:
        return f"{one.rates[name]:.1f} us a message; on any processor {free.rates[name]:.1f}"

    def shares(name: str) -> str:
        """The throughput of the tasks beside that of one task, of the actor and of the hop."""
        share, free_share = (every.rates[name] / every.rates["tasks"] for every in (one, free))
        hop_share = one.rates[f"hop {name}"] / one.rates["hop tasks"]
        return f"{share:.0%}; on any processor {free_share:.0%}; the hop's {hop_share:.0%}"

    return [
        (
            "bare hop: median, p99",
            f"{hop.median:.1f} us, {hop.p99:.0f} us = {hop.p99 / hop.median:.1f} x",
            "",
        ),
        (
            "awaited ask, mock with a scripted reply: median",
            f"{ask.median:.1f} us = {ask.median / hop.median:.2f} x the hop",
            "1.3 x",
        ),
        ("its p99", f"{ask.p99:.0f} us = {ask.p99 / ask.median:.1f} x its median", "3 x"),
        (
            "the same two with the threads on any processor",
            f"{free_ask.median:.1f} us beside {free_hop.median:.1f} us = "
            f"{free_ask.median / free_hop.median:.2f} x",
            "",
        ),
        ("their p99", f"{free_ask.p99:.0f} us beside {free_hop.p99:.0f} us", ""),
        ("awaited ask with an observer", f"{one.trips['ask with an observer'].median:.1f} us", ""),
        ("awaited ask that ends in MockModeError", f"{one.trips['ask, MockModeError'].median:.1f} us", ""),
        ("pykka's ask, which blocks the loop", f"{pykka.median:.1f} us", ""),
        ("asyncio.to_thread(pykka's ask)", f"{one.trips['pykka in to_thread'].median:.1f} us", ""),
        ("pipelined asks", rates("pipelined"), "15 us"),
        ("pipelined asks, metrics scraped every second", rates("pipelined with scrapes"), "15 us"),
        ("pipelined asks with an observer", rates("pipelined with an observer"), ""),
        ("pipelined asks, each constructing its request", rates("pipelined, new requests"), ""),
        ("ask_many", rates("ask_many"), ""),
        ("the hop pipelined", rates("hop pipelined"), ""),
        ("pykka pipelined, which blocks the loop", rates("pykka pipelined"), ""),
        (f"asks in a window of {TASKS}", rates("windowed"), ""),
        (f"{TASKS} tasks share one actor", rates("tasks"), ""),
        ("their throughput beside that of one task that pipelines as many", shares("pipelined"), "80 %"),
        ("the same beside one task with a window", shares("windowed"), ""),
        (f"the hop in a window of {TASKS}", rates("hop windowed"), ""),
        (f"{TASKS} tasks share one hop", rates("hop tasks"), ""),
        (f"{TASKS} tasks, asyncio.to_thread(pykka's ask)", rates("pykka tasks"), ""),
        (f"{THREADS} threads ask and wait", rates("threads"), ""),
        (f"{THREADS} threads share one hop", rates("hop threads"), ""),
        (f"{THREADS} threads ask pykka and wait", rates("pykka threads"), ""),
    ]


def peer_table(free: Figures, rows: Sequence[tuple[str, ...]]) -> str:
    """Ours on any processor, pykka and the peers, as Markdown."""
    lines = [
        "## Beside other packages, on any processor",
        "",
        f"| | awaited | p99 | pipelined | window of {TASKS} | {TASKS} tasks |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    ours, blocking = free.trips["ask"], free.trips["pykka in to_thread"]
    rates = free.rates
    own = (
        "flashactor, mock, in a thread of its own",
        *(f"{value:.0f} us" for value in (*ours, rates["pipelined"], rates["windowed"], rates["tasks"])),
    )
    pykka = (
        "pykka, in a thread of its own, asked in asyncio.to_thread",
        *(f"{value:.0f} us" for value in blocking),
        "",
        "",
        f"{rates['pykka tasks']:.0f} us",
    )
    lines += [f"| {' | '.join(row)} |" for row in (own, pykka, *rows)]
    notes = (
        "Microseconds a message but for the first two columns. The peers' actors return an integer. Compare "
        "rows of one run only: the machine is shared, and its speed changes."
    )
    return "\n".join([*lines, "", notes])
