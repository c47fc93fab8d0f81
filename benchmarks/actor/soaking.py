"""Very many messages to one actor whose executors fail, from tasks and threads that give up now and then."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.actor.account import Account, result_or_error
from benchmarks.actor.stream_mock import StreamMock
from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps, SmArch
from flashactor.actor.restarts import RestartPolicy
from flashactor.errors import FlashAttnError
from flashactor.executors.base import Executor
from flashactor.executors.mock import MockExecutor
from flashactor.testing import Fault, FaultInjectingExecutor, FaultKind, FaultPlan

TASKS, THREADS, MANY = 64, 4, 16
# Together 1 % of the launches. A hang costs HANG_SECONDS in which nothing is launched, so it is rarer.
FAULT_RATE, COMPILE_ERROR_RATE, HANG_RATE = 0.008, 0.001, 0.001
KINDS = (FaultKind.FAIL_LAUNCH, FaultKind.OUT_OF_MEMORY, FaultKind.POISON, FaultKind.CRASH, FaultKind.SLOW)
SLOW_SECONDS, HANG_SECONDS = 0.002, 0.05
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 0.0001, 0.01
ENDING_SECONDS = 10.0
# Smaller than the number of those who ask, so that asks wait outside of it.
MAILBOX_SIZE = 32


@dataclass
class Soak:
    """What a soak found.

    Attributes:
        messages: how many were sent.
        seconds: how long that took.
        outcomes: how the messages ended: in a result ("reply"), or in which error.
        injected: how often each fault happened.
        restarts: of the actor.
        wrong: what was against the rules; empty for a sound actor.
        resident_bytes: memory of the process after each part of the messages.
        threads, files: number of threads and of open files, before the actor started and after it stopped.
    """

    messages: int
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    injected: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    wrong: list[str] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    threads: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)


def soak(messages: int, seed: int = 1, parts: int = 20) -> Soak:
    """Send messages, in so many parts, and hold each of them to the rules."""
    found, account, plan = Soak(messages), Account(messages), _plan(seed)
    _once()
    before, files = threading.enumerate(), _open_files()
    start = perf_counter()
    props = FlashAttnProps(
        mailbox_size=MAILBOX_SIZE,
        hang_seconds=HANG_SECONDS,
        restart=RestartPolicy(max_restarts=messages, within=1.0, backoff=0.0),
        observers=(account,),
    )
    actor = FlashAttnActor.start(props, executor=_executors(account, plan))
    asyncio.run(_send_in_parts(actor, account, seed, parts, found))
    actor.stop()
    stats = actor.stats()
    account.close(stats.received, stats.completed + stats.failed)
    found.seconds = perf_counter() - start
    found.outcomes, found.wrong = dict(account.outcomes), account.wrong
    found.injected = dict(Counter(kind.value for _, kind in plan.injected))
    found.restarts = stats.restarts
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(ENDING_SECONDS)  # of a generation that failed: nobody waited for it
    found.threads = len(before), threading.active_count()
    found.files = files, _open_files()
    return found


def _plan(seed: int) -> FaultPlan:
    return FaultPlan(
        Fault.randomly(FAULT_RATE, seed, KINDS, SLOW_SECONDS),
        Fault.randomly(COMPILE_ERROR_RATE, seed + 1, [FaultKind.COMPILE_ERROR]),
        Fault.randomly(HANG_RATE, seed + 2, [FaultKind.HANG]),
    )


def _executors(account: Account, plan: FaultPlan) -> Callable[[], Executor]:
    """Makes the executor of each generation: one that answers in ``submit``, one on a thread, in turn."""
    numbers = count()

    def make() -> Executor:
        inline = next(numbers) % 2 == 0
        inner = MockExecutor(script=account.compute) if inline else StreamMock(account.compute)
        return FaultInjectingExecutor(inner, plan=plan)

    return make


def _once() -> None:
    """Start what a process starts once and keeps, such as the thread of the deadlines."""
    with FlashAttnActor.start(executor=MockExecutor(script=Account(1).compute)) as actor:
        actor.ask(_message(0), timeout=60.0).result()


async def _send_in_parts(actor: FlashAttnActor, account: Account, seed: int, parts: int, found: Soak) -> None:
    bounds = [found.messages * part // parts for part in range(parts + 1)]
    for first, end in pairwise(bounds):
        numbers = iter(range(first, end))
        sources = [random.Random(f"{seed} {first} {asker}") for asker in range(TASKS + THREADS)]
        async with asyncio.TaskGroup() as group:
            for source in sources[:TASKS]:
                group.create_task(_ask_in_task(actor, account, numbers, source))
            for source in sources[TASKS:]:
                group.create_task(asyncio.to_thread(_ask_in_thread, actor, account, numbers, source))
        gc.collect()
        found.resident_bytes.append(_resident_bytes())


async def _ask_in_task(
    actor: FlashAttnActor, account: Account, numbers: Iterator[int], source: random.Random
) -> None:
    """Send what is left: most is awaited, some with a timeout, some is cancelled, some sent in one go."""
    for number in numbers:
        way, options = source.random(), _options(source)
        if way < 0.02:
            several = [number, *(following for _, following in zip(range(MANY - 1), numbers, strict=False))]
            messages = [_message(each) for each in several]
            replies: list[Any] = await actor.ask_many(messages, return_errors=True, **options)
            for each, reply in zip(several, replies, strict=True):
                account.answered(each, *result_or_error(reply))
            continue
        pending = actor.ask(_message(number), **options)
        account.follow(number, pending)
        if way < 0.05:
            pending.cancel()
        if 0.05 <= way < 0.10:
            waiting = asyncio.ensure_future(_awaited(pending))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        else:
            await _awaited(pending)


async def _awaited(pending: Any) -> None:
    try:
        await pending
    except FlashAttnError:
        return  # the account has it


def _ask_in_thread(
    actor: FlashAttnActor, account: Account, numbers: Iterator[int], source: random.Random
) -> None:
    """Send what is left: most is waited for, some with a timeout, some is cancelled."""
    for number in numbers:
        pending = actor.ask(_message(number), **_options(source))
        account.follow(number, pending)
        if source.random() < 0.05:
            pending.cancel()
        try:
            pending.result()
        except FlashAttnError:
            continue  # the account has it


def _options(source: random.Random) -> dict[str, Any]:
    """How to ask: a third has a caller, a tenth a priority, a tenth a timeout."""
    return {
        "caller": source.choice((None, None, "one", "other", None, None)),
        "priority": int(source.random() < 0.1),
        "timeout": source.uniform(SHORTEST_TIMEOUT, LONGEST_TIMEOUT) if source.random() < 0.1 else None,
    }


def _message(number: int) -> FlashAttnMsg:
    return FlashAttnMsg.forward(
        Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, softmax_scale=float(number + 1))
    )


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
