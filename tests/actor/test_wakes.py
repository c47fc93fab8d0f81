"""Wake-ups of event loops that threads put off."""

import asyncio

from actor_tools import PATIENCE, InThread, message, reply_to
from supervision_tools import Stuck

from flashactor.actor.wakes import DeferredWakes, running_loop_waker


def test_a_wake_up_that_one_thread_puts_off_and_never_sends_does_not_hold_up_anothers():
    async def main():
        waker = running_loop_waker()
        stuck, free = (waker.loop.create_future() for _ in range(2))
        DeferringThread(waker, stuck, flush=False).result()
        DeferringThread(waker, free, flush=True).result()
        await asyncio.wait_for(asyncio.gather(stuck, free), PATIENCE)

    asyncio.run(main())


class DeferringThread(InThread):
    """An actor's thread that has answered what a coroutine waits for."""

    def __init__(self, waker, waiter, *, flush):
        super().__init__(self._answer, waker, waiter, flush)

    @staticmethod
    def _answer(waker, waiter, flush):
        wakes = DeferredWakes()
        wakes.install()
        waker.wake(waiter)
        if flush:
            wakes.flush()


def test_a_preparation_that_takes_long_keeps_no_reply_back(start):
    stuck = Stuck(preparing=1)
    actor, _ = start(stuck)

    async def main():
        first, _ = actor.ask(message(0)), actor.ask(message(1))
        try:
            return await asyncio.wait_for(reply_to(first), PATIENCE / 2)
        finally:
            stuck.release.set()

    assert asyncio.run(main()).out == 0
