"""How a pool starts and ends, and misuse of it."""

import asyncio
import contextlib
import threading

import pytest
from actor_tools import PATIENCE, Kernels, message
from pool_tools import Makes, pool_of

from flashactor import FlashAttnActor, FlashAttnPool, FlashAttnProps
from flashactor.errors import (
    ActorStoppedError,
    BlockingAskError,
    MockModeError,
    RequestError,
    UnknownImplementationError,
)


def test_the_actors_are_numbered_over_all_devices():
    with pool_of(2, devices=[0, 3]) as pool:
        assert [(actor.label, actor.props.device) for actor in pool.actors] == [
            ("p-0", 0),
            ("p-1", 0),
            ("p-2", 3),
            ("p-3", 3),
        ]


def test_defaults_are_two_actors_of_the_device_of_the_props():
    with FlashAttnPool.start(FlashAttnProps(device=2, executor="mock")) as pool:
        assert [(actor.label, actor.props.device) for actor in pool.actors] == [
            ("flashattn-0", 2),
            ("flashattn-1", 2),
        ]
        with pytest.raises(MockModeError):
            pool.ask(message()).result(PATIENCE)


def test_running_actors_become_a_pool():
    actors = [FlashAttnActor.start(FlashAttnProps(label=label), Kernels(held=False)) for label in ("a", "b")]
    with FlashAttnPool(actors, "least_loaded") as pool:
        pool.ask_many([message(n) for n in range(4)]).results(PATIENCE)
    assert not any(actor.is_alive for actor in actors)


@pytest.mark.parametrize("actors", [None, 3, "actors", [FlashAttnActor], []], ids=repr)
def test_a_pool_of_what_is_no_actor(actors):
    with pytest.raises(RequestError, match=r"^actors: got"):
        FlashAttnPool(actors)


def test_actors_of_a_pool_have_labels_of_their_own():
    with FlashAttnActor.start(executor="mock") as one, FlashAttnActor.start(executor="mock") as other:
        for actors in ([one, other], []):
            with pytest.raises(RequestError, match=r"^actors: got the labels"):
                FlashAttnPool(actors)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None, "2"])
def test_the_size_is_a_positive_number(size):
    with pytest.raises(RequestError, match=r"^size: got .*at least 1"):
        FlashAttnPool.start(size=size, executor="mock")


@pytest.mark.parametrize("devices", [[], [0, 0], [-1], ["0"], 3], ids=repr)
def test_devices_are_different_ordinals(devices):
    with pytest.raises(RequestError, match=r"^devices: got .*ordinals"):
        FlashAttnPool.start(devices=devices, executor="mock")


def test_one_executor_is_not_shared():
    with pytest.raises(RequestError, match=r"^executor: got .*a function that makes one"):
        FlashAttnPool.start(executor=Kernels())


@pytest.mark.parametrize(
    ("options", "field"), [({"route": "random"}, "route"), ({"props": "label"}, "props")], ids=str
)
def test_other_misuse_of_start(options, field):
    with pytest.raises(RequestError, match=f"^{field}: got"):
        FlashAttnPool.start(executor="mock", **options)


class Closing(Kernels):
    """Tells when it is closed; its closing waits for others where it is given a barrier."""

    def __init__(self, together=None):
        super().__init__(held=False)
        self.closed = False
        self._together = together

    def close(self):
        if self._together is not None:
            self._together.wait()
        self.closed = True


def test_a_member_that_does_not_start_stops_those_that_did():
    made = []

    def make():
        if made:
            raise UnknownImplementationError("executor", "none", "one", "choose one")
        made.append(Closing())
        return made[0]

    with pytest.raises(UnknownImplementationError):
        pool_of(2, make=make)
    assert made[0].closed


def test_stop_closes_all_members_at_the_same_time():
    """Each executor's close waits until both are closing: one after the other, they would never end."""
    together = threading.Barrier(2, timeout=PATIENCE)
    made = []

    def make():
        made.append(Closing(together))
        return made[-1]

    pool = pool_of(2, make=make)
    pool.stop()
    assert [executor.closed for executor in made] == [True, True]


def test_aclose_closes_all_members_at_the_same_time():
    together = threading.Barrier(2, timeout=PATIENCE)
    made = []

    def make():
        made.append(Closing(together))
        return made[-1]

    async def main():
        async with pool_of(2, make=make) as pool:
            return (await pool.ask(message(5))).out

    assert asyncio.run(main()) == 5
    assert [executor.closed for executor in made] == [True, True]


def test_leaving_the_pool_does_what_was_asked():
    with pool_of(2) as pool:
        replies = pool.ask_many([message(n) for n in range(10)])
    assert [reply.out for reply in replies.results(0)] == list(range(10))


def test_leaving_the_pool_after_an_error_answers_everyone():
    pool = pool_of(2, make=Makes(held=True), max_in_flight=1)
    with contextlib.suppress(KeyError), pool:
        replies = pool.ask_many([message(n) for n in range(10)], return_errors=True)
        raise KeyError
    assert [type(error) for error in replies.results(0)] == [ActorStoppedError] * 10


def test_stop_without_drain_answers_everyone():
    makes = Makes(held=True)
    with pool_of(2, make=makes, max_in_flight=1) as pool:
        replies = pool.ask_many([message(n) for n in range(10)], return_errors=True)
        for kernels in makes.kernels:
            kernels.wait_launched()
        pool.stop(drain=False)
        errors = replies.results(0)
    assert [type(error) for error in errors] == [ActorStoppedError] * 10
    assert [error.retry_safe for error in errors] == [False] * 2 + [True] * 8


def test_the_limit_of_stop_is_for_all_actors_together():
    with pool_of(2, make=Makes(held=True)) as pool:
        replies = pool.ask_many([message(n) for n in range(4)], return_errors=True)
        pool.stop(0.01)
        assert [type(error) for error in replies.results(0)] == [ActorStoppedError] * 4


def test_stop_takes_seconds():
    with pool_of(2) as pool:
        with pytest.raises(RequestError, match=r"^timeout: got"):
            pool.stop("soon")
        with pytest.raises(RequestError, match=r"^timeout: got"):
            asyncio.run(pool.aclose("soon"))
        assert pool.is_alive


def test_stopping_again_does_nothing():
    pool = pool_of(2)
    pool.stop()
    pool.stop()
    assert not pool.is_alive


def test_stop_would_block_the_event_loop():
    makes = Makes(held=True)

    async def main():
        async with pool_of(2, make=makes) as pool:
            reply = pool.ask(message(3))
            with pytest.raises(BlockingAskError, match=r"aclose\(\)"):
                pool.stop()
            assert pool.is_alive
            for kernels in makes.kernels:
                kernels.open()
            return (await reply).out

    assert asyncio.run(main()) == 3


def test_a_plain_with_in_a_coroutine_answers_everyone():
    async def main():
        with pytest.raises(BlockingAskError), pool_of(2, make=Makes(held=True)) as pool:
            replies = pool.ask_many([message(n) for n in range(4)], return_errors=True)
        return [type(error) for error in await replies]

    assert asyncio.run(main()) == [ActorStoppedError] * 4


def test_stop_in_a_callback_of_a_reply_does_not_wait_for_itself():
    makes = Makes(held=True)
    stopped = threading.Event()
    with pool_of(2, make=makes) as pool:

        def stop(_reply):
            pool.stop()
            stopped.set()

        first = pool.ask(message(0))
        makes.kernels[0].wait_launched()
        first.add_done_callback(stop)
        for kernels in makes.kernels:
            kernels.open()
        assert stopped.wait(PATIENCE)
        assert not pool.is_alive
