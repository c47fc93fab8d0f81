"""Stops: in threads, in coroutines, in callbacks, several at once, and with work that never ends."""

import asyncio

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, wait_until
from supervision_tools import Stuck

from flashactor import FlashAttnActor
from flashactor.errors import ActorStoppedError, BlockingAskError, RequestError


def test_what_is_asked_while_it_stops_is_refused_and_the_rest_is_done(start):
    actor, kernels = start(max_in_flight=1)
    before = [actor.ask(message(number)) for number in range(3)]
    kernels.wait_launched()
    stopping = InThread(actor.stop)
    wait_until(lambda: not actor.is_alive)
    assert isinstance(actor.ask(message(9)).error, ActorStoppedError)
    assert stopping.running
    kernels.open()
    stopping.result()
    assert [pending.result(0).out for pending in before] == [0, 1, 2]


def test_stop_on_a_loops_thread_is_refused_while_there_is_work(start):
    actor, kernels = start()

    async def main():
        pending = actor.ask(message(0))
        with pytest.raises(BlockingAskError, match=r"await actor\.aclose\(\)"):
            actor.stop()
        assert actor.is_alive
        await asyncio.to_thread(kernels.wait_launched)
        kernels.finish(0)
        await pending
        actor.stop()
        assert not actor.is_alive

    asyncio.run(main())


def test_stop_without_waiting_is_fine_on_a_loops_thread(start):
    actor, _ = start()

    async def main():
        pending = actor.ask(message(0))
        actor.stop(drain=False)
        with pytest.raises(ActorStoppedError):
            await pending

    asyncio.run(main())


def test_a_with_block_in_a_coroutine_ends_the_actor_and_says_how_to_write_it():
    kernels = Kernels()

    async def main():
        with (
            pytest.raises(BlockingAskError, match="aclose"),
            FlashAttnActor.start(executor=kernels) as actor,
        ):
            pending = actor.ask(message(0))
        assert not actor.is_alive
        assert isinstance(pending.error, ActorStoppedError)

    asyncio.run(main())


def test_a_with_block_in_a_coroutine_whose_work_is_done_is_fine():
    async def main():
        with FlashAttnActor.start(executor=Kernels(held=False)) as actor:
            return (await actor.ask(message(3))).out, actor

    out, actor = asyncio.run(main())
    assert out == 3
    assert not actor.is_alive


def test_async_with_finishes_the_work():
    kernels = Kernels(held=False)

    async def main():
        async with FlashAttnActor.start(executor=kernels) as actor:
            pendings = [actor.ask(message(number)) for number in range(50)]
        assert not actor.is_alive
        return [pending.result().out for pending in pendings]

    assert asyncio.run(main()) == list(range(50))


@pytest.mark.parametrize("kind", ["with", "async with"])
def test_a_block_that_fails_does_not_wait_for_the_work(kind):
    kernels = Kernels()
    pendings = []

    async def use():
        async with FlashAttnActor.start(executor=kernels) as actor:
            pendings.append(actor.ask(message(0)))
            raise ZeroDivisionError

    def run():
        if kind == "async with":
            asyncio.run(use())
        with FlashAttnActor.start(executor=kernels) as actor:
            pendings.append(actor.ask(message(0)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert [type(pending.error) for pending in pendings] == [ActorStoppedError]


def test_aclose_leaves_the_loop_free(start):
    actor, kernels = start()

    async def main():
        pending = actor.ask(message(0))
        closing = asyncio.create_task(actor.aclose())
        await asyncio.to_thread(kernels.wait_launched)
        assert not closing.done()
        kernels.finish(0)
        await closing
        return pending.result().out

    assert asyncio.run(main()) == 0


def test_stop_from_a_callback_does_not_wait_and_the_rest_is_done(start):
    actor, kernels = start()
    pendings = [actor.ask(message(number)) for number in range(3)]
    pendings[0].add_done_callback(lambda reply: actor.stop())
    kernels.wait_launched(3)
    kernels.finish(0)
    assert not actor.is_alive
    kernels.open()
    assert [pending.result(PATIENCE).out for pending in pendings] == [0, 1, 2]
    actor.stop()


def test_stop_without_draining_from_a_callback_answers_everybody(start):
    actor, kernels = start()
    pendings = [actor.ask(message(number)) for number in range(3)]
    pendings[0].add_done_callback(lambda reply: actor.stop(drain=False))
    kernels.wait_launched(3)
    kernels.finish(0)
    assert [type(pending.error) for pending in pendings] == [type(None), *[ActorStoppedError] * 2]


def test_stop_from_an_executor(reentrant):
    actor = reentrant(lambda actor, work: actor.stop())
    first = actor.ask(message(0))
    first.wait(PATIENCE)
    assert not actor.is_alive
    assert first.error is None
    actor.stop()


def test_stops_from_many_threads_all_end(start):
    for drain in (True, False, True, False):
        actor, kernels = start()
        pendings = [actor.ask(message(number)) for number in range(20)]
        stops = [InThread(lambda actor=actor, drain=drain: actor.stop(drain=drain)) for _ in range(6)]
        kernels.open()
        for thread in stops:
            thread.result()
        assert all(pending.done for pending in pendings)


def test_a_stop_during_a_stop_may_be_less_patient(start):
    actor, kernels = start()
    pending = actor.ask(message(0))
    kernels.wait_launched()
    patient = InThread(actor.stop, None)
    wait_until(lambda: not actor.is_alive)
    actor.stop(drain=False)
    patient.result()
    assert isinstance(pending.error, ActorStoppedError)


@pytest.mark.parametrize("timeout", [0, 0.05, -1])
def test_a_kernel_that_never_ends_does_not_keep_stop_from_ending(start, timeout):
    actor, kernels = start(max_in_flight=1)
    launched, queued = actor.ask(message(0)), actor.ask(message(1))
    kernels.wait_launched()
    InThread(actor.stop, timeout).result()
    assert [pending.error.retry_safe for pending in (launched, queued)] == [False, True]
    assert "its kernel still runs" in str(launched.error)


def test_a_launch_that_never_returns_does_not_keep_stop_from_ending(start):
    actor, kernels = start(Stuck(submitting=0))
    pending = actor.ask(message(0))
    assert kernels.entered.wait(PATIENCE)
    InThread(actor.stop, 0.05).result()
    assert isinstance(pending.error, ActorStoppedError)
    kernels.release.set()


@pytest.mark.parametrize("timeout", ["soon", float("nan"), float("inf"), [1]], ids=str)
def test_a_limit_that_is_none_stops_nothing(start, timeout):
    actor, _ = start(Kernels(held=False))
    with pytest.raises(RequestError, match="timeout"):
        actor.stop(timeout)
    with pytest.raises(RequestError, match="timeout"):
        asyncio.run(actor.aclose(timeout))
    assert actor.ask(message(0)).result(PATIENCE).out == 0
