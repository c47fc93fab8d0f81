"""A reply to come: coroutines and threads wait for it, each exactly as long as needed."""

import asyncio
import threading
import time

import pytest

from flashactor.actor.reply import PendingReply
from flashactor.errors import AskTimeoutError, BlockingAskError, LaunchError, RequestError

REPLY = object()  # whatever carries it does not look into it


def later(pending, seconds=0.02, **outcome):
    thread = threading.Timer(seconds, lambda: pending.settle(outcome.get("reply"), outcome.get("error")))
    thread.start()
    return thread


def test_await_a_reply_that_is_there():
    pending = PendingReply()
    assert pending.settle(REPLY)

    async def main():
        return await pending

    assert asyncio.run(main()) is REPLY


def test_await_a_reply_that_comes_later():
    async def main():
        pending = PendingReply()
        later(pending, reply=REPLY)
        assert not pending.done
        return await pending, await pending

    assert asyncio.run(main()) == (REPLY, REPLY)


def test_many_wait_for_one_reply():
    async def main():
        pending = PendingReply()

        async def wait():
            return await pending

        waiting = [asyncio.create_task(wait()) for _ in range(20)]
        in_thread = asyncio.create_task(asyncio.to_thread(pending.result, 5))
        await asyncio.sleep(0.01)
        later(pending, reply=REPLY)
        return await asyncio.gather(*waiting, in_thread)

    assert asyncio.run(main()) == [REPLY] * 21


def test_waiting_does_not_block_the_loop():
    async def main():
        pending = PendingReply()
        later(pending, seconds=0.1, reply=REPLY)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await pending
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) >= 5


def test_cancelling_a_waiter_cancels_only_the_waiting():
    async def main():
        pending = PendingReply()

        async def wait():
            return await pending

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        first.cancel()
        later(pending, reply=REPLY)
        return await asyncio.gather(first, second, return_exceptions=True)

    cancelled, reply = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert reply is REPLY


def test_an_error_is_raised_to_everyone():
    error = LaunchError("launch", 1, "0", "try again")

    async def main():
        pending = PendingReply()
        later(pending, error=error)
        with pytest.raises(LaunchError):
            await pending
        with pytest.raises(LaunchError):
            pending.result()

    asyncio.run(main())


def test_only_the_first_answer_counts():
    pending = PendingReply()
    assert pending.settle(REPLY)
    assert not pending.settle(None, LaunchError("launch", 1, "0", "try again"))
    assert pending.result() is REPLY


def test_result_waits_in_a_thread():
    pending = PendingReply()
    later(pending, reply=REPLY)
    assert pending.result(5) is REPLY


def test_result_times_out_and_may_be_called_again():
    pending = PendingReply()
    start = time.monotonic()
    with pytest.raises(AskTimeoutError, match=r"no reply within 0\.01 s"):
        pending.result(0.01)
    assert time.monotonic() - start < 1
    pending.settle(REPLY)
    assert pending.result(0.01) is REPLY


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_over(timeout):
    with pytest.raises(AskTimeoutError):
        PendingReply().result(timeout)


@pytest.mark.parametrize(
    "timeout",
    [float("nan"), float("inf"), 1e300, 10**5000, "x", "1", [1]],
    ids=["nan", "inf", "1e300", "10**5000", "x", "text", "list"],
)
@pytest.mark.parametrize("settled", [False, True])
def test_a_timeout_that_is_none(timeout, settled):
    pending = PendingReply()
    if settled:
        pending.settle(REPLY)
    with pytest.raises(RequestError, match=r"timeout: got .* expected seconds, at most"):
        pending.result(timeout)


def test_the_longest_timeout():
    pending = PendingReply()
    later(pending, reply=REPLY)
    assert pending.result(threading.TIMEOUT_MAX) is REPLY


def test_result_on_the_loops_thread_is_refused():
    async def main():
        with pytest.raises(BlockingAskError, match="await"):
            PendingReply().result(1)

    asyncio.run(main())


def test_result_on_the_loops_thread_is_fine_once_it_is_there():
    async def main():
        pending = PendingReply()
        pending.settle(REPLY)
        return pending.result()

    assert asyncio.run(main()) is REPLY


def test_a_loop_that_closed_meanwhile_does_not_disturb_the_settling_thread():
    pending = PendingReply()

    async def give_up():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(_wait(pending)), 0.01)

    asyncio.run(give_up())
    assert pending.settle(REPLY)
    assert pending.result() is REPLY


def test_replies_to_several_loops():
    pending = PendingReply()
    results = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(_wait(pending)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    pending.settle(REPLY)
    for thread in threads:
        thread.join(5)
    assert results == [REPLY] * 4


def test_a_burst_from_many_threads_loses_no_wake_up():
    async def main():
        pendings = [PendingReply() for _ in range(2000)]
        threads = [
            threading.Thread(target=lambda part=pendings[i::4]: [p.settle(REPLY) for p in part])
            for i in range(4)
        ]
        tasks = [asyncio.create_task(_wait(p)) for p in pendings]
        await asyncio.sleep(0)
        for thread in threads:
            thread.start()
        return await asyncio.wait_for(asyncio.gather(*tasks), 30)

    assert asyncio.run(main()) == [REPLY] * 2000


async def _wait(pending):
    return await pending
