"""What asks are measured beside: the least that a reply from another thread costs, and pykka alone."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

import pykka

from benchmarks.actor.measuring import Ask


class BareHop:
    """A queue to another thread, and call_soon_threadsafe back: nothing is computed, kept or counted."""

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

    def ask(self) -> asyncio.Future[None]:
        """One round trip."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._inbox.put((loop, future))
        return future

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self._thread.join()


class BareThreadHop:
    """A queue to another thread, and a lock that it releases for the one who waits."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[threading.Lock | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (blocked := self._inbox.get()) is not None:
            blocked.release()

    def ask_and_wait(self) -> None:
        """One round trip."""
        blocked = threading.Lock()
        blocked.acquire()
        self._inbox.put(blocked)
        blocked.acquire()

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self._thread.join()


class Echo(pykka.ThreadingActor):
    """What pykka alone does with a message."""

    def on_receive(self, message: Any) -> Any:
        """Return it."""
        return message


def blocking_ask(echo: pykka.ActorRef[Echo]) -> Ask:
    """What pykka offers in a coroutine: the loop stands still until the reply is there."""

    async def ask() -> None:
        echo.ask(1)

    return ask


def ask_in_thread(echo: pykka.ActorRef[Echo]) -> Ask:
    """pykka's ask in a thread of asyncio's pool, so that the loop goes on."""

    async def ask() -> None:
        await asyncio.to_thread(echo.ask, 1)

    return ask
