"""A stop that does not wait: what runs is left to itself."""

import asyncio
import threading

from actor_tools import PATIENCE, Kernels, message, wait_until

from flashactor import FlashAttnActor, FlashAttnProps, RestartPolicy
from flashactor.actor.supervisor import Supervisor
from flashactor.service import live_actors


class Ending(Kernels):
    """Notes how it is ended."""

    def __init__(self):
        super().__init__()
        self.ends, self.ended = [], threading.Event()

    def close(self):
        self.ends.append("closed")
        self.ended.set()

    def abandon(self):
        self.ends.append("abandoned")
        self.ended.set()


class SlowSupervisor(Supervisor):
    """Lets an actor go only when its executor has ended, or after a while."""

    def __init__(self, executor):
        super().__init__("device")
        self._executor = executor

    def release(self, child):
        self._executor.ended.wait(0.2)
        super().release(child)


def test_an_executor_with_a_kernel_in_flight_is_abandoned_and_not_closed():
    executor = Ending()
    actor = FlashAttnActor.start(FlashAttnProps(), executor, supervisor=SlowSupervisor(executor))
    pending = actor.ask(message(0))
    executor.wait_launched()
    actor.stop(drain=False)
    assert pending.done
    assert executor.ended.wait(PATIENCE)
    assert executor.ends == ["abandoned"]
    executor.open()  # nobody hears it
    assert actor.stats().completed == 0


def test_nothing_waits_in_an_actor_that_has_ended(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1)

    async def main():
        for number in range(3):
            actor.ask(message(number))
        kernels.wait_launched()
        wait_until(lambda: actor.stats().waiting == 1)
        actor.stop(drain=False)

    asyncio.run(main())
    stats = actor.stats()
    assert (stats.pending, stats.queued, stats.waiting) == (0, 0, 0)


class SlowToLeave(FlashAttnActor):
    """Tells late that it has ended."""

    def on_end(self):
        threading.Event().wait(0.1)
        super().on_end()


def test_an_actor_that_was_stopped_is_among_those_alive_no_more():
    actor = SlowToLeave.start(FlashAttnProps(), Kernels)
    actor.stop()
    assert actor not in live_actors()


def test_nor_is_one_that_was_given_up_and_then_stopped():
    actor = SlowToLeave.start(FlashAttnProps(restart=RestartPolicy(max_restarts=0)), Kernels)
    actor._life.fail(OSError("broken"))
    wait_until(lambda: actor.failure is not None)
    actor.stop()
    assert actor not in live_actors()
