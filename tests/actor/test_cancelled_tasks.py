"""Tasks that await a reply and are cancelled: the request goes with the last one who wants it."""

import asyncio

import pytest
from actor_tools import PATIENCE, Kernels, busy, message, reply_to, wait_until

from flashactor.errors import AskCancelledError, AskTimeoutError


def test_a_cancelled_task_cancels_what_it_awaits(start):
    actor, kernels = busy(start)

    async def main():
        pending = actor.ask(message(1))
        task = asyncio.create_task(reply_to(pending))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(pending.error, AskCancelledError)

    asyncio.run(main())
    kernels.open()
    actor.ask(message(2)).result(PATIENCE)
    assert kernels.launched == [0, 2]


def test_wait_for_cancels_what_it_gives_up(start):
    actor, kernels = busy(start)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply_to(actor.ask(message(1))), 0.02)

    asyncio.run(main())
    assert actor.stats().errors == {"AskCancelledError": 1}
    kernels.open()
    actor.ask(message(2)).result(PATIENCE)
    assert kernels.launched == [0, 2]


def test_a_gather_that_is_cancelled_cancels_them_all(start):
    actor, _ = busy(start)

    async def main():
        pendings = [actor.ask(message(number)) for number in range(1, 20)]
        gathered = asyncio.gather(*map(reply_to, pendings))
        await asyncio.sleep(0)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        assert all(isinstance(pending.error, AskCancelledError) for pending in pendings)

    asyncio.run(main())
    assert actor.stats().pending == 1


def test_a_task_group_cancels_the_rest_when_one_fails(start):
    actor, kernels = start()

    async def main():
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(reply_to(actor.ask(message(number))))
            await asyncio.to_thread(kernels.wait_launched, 3)
            kernels.fail(1, AskTimeoutError("kernel", "a failure", "a result", "ask again"))

    with pytest.raises(ExceptionGroup) as group:
        asyncio.run(main())
    assert [type(error) for error in group.value.exceptions] == [AskTimeoutError]
    assert actor.stats().errors == {"AskTimeoutError": 1, "AskCancelledError": 2}


@pytest.mark.parametrize("other", ["coroutine", "thread", "callback"])
def test_what_somebody_else_waits_for_is_not_cancelled(start, other):
    actor, kernels = start()
    heard = []

    async def main():
        pending = actor.ask(message(0))
        task = asyncio.create_task(reply_to(pending))
        if other == "coroutine":
            stays = asyncio.create_task(reply_to(pending))
        elif other == "thread":
            stays = asyncio.create_task(asyncio.to_thread(pending.result, PATIENCE))
            await asyncio.to_thread(wait_until, lambda: pending._threads)
        else:
            pending.add_done_callback(heard.append)
            stays = None
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not pending.done
        await asyncio.to_thread(kernels.wait_launched)
        kernels.finish(0)
        if stays is not None:
            assert (await stays).out == 0
        else:
            assert [reply.result().out for reply in heard] == [0]

    asyncio.run(main())


def test_the_last_one_who_goes_cancels(start):
    actor, _ = busy(start)

    async def main():
        pending = actor.ask(message(1))
        tasks = [asyncio.create_task(reply_to(pending)) for _ in range(3)]
        await asyncio.sleep(0)
        for left, task in zip((2, 1, 0), tasks, strict=True):
            assert not pending.done
            task.cancel()
            await asyncio.wait([task])
            assert pending.done is (left == 0)

    asyncio.run(main())


def test_a_shield_protects(start):
    actor, kernels = start()

    async def main():
        inner = asyncio.ensure_future(reply_to(actor.ask(message(0))))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(inner), 0.02)
        await asyncio.to_thread(kernels.wait_launched)
        kernels.finish(0)
        return await inner

    assert asyncio.run(main()).out == 0


def test_a_task_that_is_cancelled_when_its_reply_is_there_is_cancelled_and_the_reply_stays(start):
    actor, _ = start(Kernels(held=False))

    async def main():
        pending = actor.ask(message(0))
        task = asyncio.create_task(reply_to(pending))
        await asyncio.to_thread(pending.result, PATIENCE)
        task.cancel()
        await asyncio.wait([task])
        return pending

    assert asyncio.run(main()).result().out == 0
    assert actor.stats().errors == {}


def test_what_another_message_comes_after_is_not_cancelled(start):
    actor, kernels = busy(start)

    async def main():
        first = actor.ask(message(1))
        second = actor.ask(message(2), after=first)
        task = asyncio.create_task(reply_to(first))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        kernels.open()
        return await second

    assert asyncio.run(main()).out == 2
    assert kernels.launched == [0, 1, 2]
