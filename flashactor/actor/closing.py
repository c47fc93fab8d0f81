"""How actors end, alone and together: ``stop`` in threads, ``aclose`` in coroutines, ``with`` in both."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from flashactor.actor.blocking import refuse_on_event_loop
from flashactor.actor.handle import EXIT_SECONDS, ActorHandle
from flashactor.actor.pool_stats import PoolStats, pool_stats
from flashactor.actor.reply import to_seconds
from flashactor.errors import BlockingAskError


class Closing(ABC):
    """A context manager, also an asynchronous one, of something that stops."""

    @abstractmethod
    def stop(self, timeout: float | None = EXIT_SECONDS, *, drain: bool = True) -> None:
        """Stop; everything that was asked is answered when this returns."""

    @abstractmethod
    def begin_stop(self) -> None:
        """Take no more messages, and end when the others are done; it does not wait."""

    async def aclose(self, timeout: float | None = EXIT_SECONDS, *, drain: bool = True) -> None:
        """``stop``, for coroutines."""
        seconds = None if timeout is None else to_seconds("timeout", timeout)
        self.begin_stop()
        await asyncio.to_thread(self.stop, seconds, drain=drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: after an error, or where waiting would stop an event loop, without doing what is left."""
        try:
            self.stop(drain=kind is None)
        except BlockingAskError:
            self.stop(drain=False)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: after an error without doing what is left."""
        await self.aclose(drain=kind is None)


class ActorGroup(Closing):
    """Actors that are stopped and counted together."""

    @abstractmethod
    def members(self) -> Sequence[ActorHandle]:
        """The actors of this moment."""

    def stats(self) -> PoolStats:
        """What each actor did and has to do, and their sum."""
        return pool_stats({actor.label: actor.stats() for actor in self.members()})

    def stop(self, timeout: float | None = EXIT_SECONDS, *, drain: bool = True) -> None:
        """Stop all actors at the same time; everything that was asked is answered when this returns.

        Args:
            timeout: seconds for all of them together; None: as long as it takes.
            drain: as of FlashAttnActor.stop.

        Raises:
            BlockingAskError: called on the thread of a running event loop, with work to wait for.
            RequestError: the limit is no number of seconds.
        """
        end = None if timeout is None else perf_counter() + to_seconds("timeout", timeout)
        actors = self.members()
        if drain and not all(actor.is_idle for actor in actors):
            refuse_on_event_loop("stop()", "write `await ....aclose()`, or stop(drain=False)")
        self.begin_stop()
        for actor in actors:
            actor.stop_with_others(None if end is None else max(end - perf_counter(), 0.0), drain=drain)
        for actor in actors:
            actor.stop()  # nothing is left to wait for but the threads, which go all at the same time

    def begin_stop(self) -> None:
        """Take no more messages, and have all actors end when the others are done; it does not wait."""
        for actor in self.members():
            actor.begin_stop()
