"""Several actors behind one address: who gets what, batches, devices, members that go down."""

import asyncio

import numpy as np
import pytest
from actor_tools import PATIENCE, message, number_of
from fake_cuda import DeviceArray
from pool_tools import Makes, pool_of, received
from supervision_tools import Raising

from flashactor import Fa2FwdRequest, FlashAttnMsg, MsgKind, PendingReply, RestartPolicy
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    AskTimeoutError,
    DependencyFailedError,
    LaunchError,
    MailboxFullError,
    OperandError,
    RequestError,
)
from flashactor.executors.base import Outputs
from flashactor.executors.mock import MockExecutor

LAUNCH_ERROR = LaunchError("launch", "a refusal", "a launch", "ask again")


def on_device(ordinal):
    """A message with arrays on a device."""
    q, k, v = (DeviceArray(1, 4, 1, 128, ordinal=ordinal, address=place << 20) for place in (1, 2, 3))
    return FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, k, v, softmax_scale=1.0))


def failing_at(*numbers):
    """A maker of executors that answer some messages with LAUNCH_ERROR."""

    def script(work):
        if number_of(work) in numbers:
            raise LAUNCH_ERROR
        return Outputs(out=number_of(work))

    return lambda: MockExecutor(script)


def ask(pool, msg, **options):
    return pool.ask(msg, **options).result(PATIENCE)


def test_round_robin_spreads_evenly():
    with pool_of(3) as pool:
        assert [ask(pool, message(n)).out for n in range(9)] == list(range(9))
        assert received(pool) == [3, 3, 3]


def test_a_pool_of_one():
    with pool_of(1, "sticky") as pool:
        assert ask(pool, message(7), key="a").out == 7
        assert received(pool) == [1]


def test_least_loaded_keeps_away_from_a_busy_actor():
    makes = Makes(held=True)
    with pool_of(2, "least_loaded", makes) as pool:
        busy, idle = makes.kernels
        first = pool.ask(message(0))
        idle.open()
        for n in range(1, 6):
            ask(pool, message(n))
        assert received(pool) == [1, 5]
        assert not first.done
        busy.open()
        assert first.result(PATIENCE).out == 0


def test_least_loaded_spreads_a_batch():
    makes = Makes(held=True)
    with pool_of(3, "least_loaded", makes) as pool:
        replies = pool.ask_many(message(n) for n in range(9))
        assert received(pool) == [3, 3, 3]
        for kernels in makes.kernels:
            kernels.open()
        assert [reply.out for reply in replies.results(PATIENCE)] == list(range(9))


def test_sticky_keeps_the_order_of_each_key():
    makes = Makes()
    with pool_of(3, "sticky", makes) as pool:
        replies = [pool.ask(message(10 * n + key), key=key) for n in range(8) for key in range(6)]
        for reply in replies:
            reply.result(PATIENCE)
    launched = [kernels.launched for kernels in makes.kernels]
    for key in range(6):
        (of_key,) = filter(None, ([number for number in one if number % 10 == key] for one in launched))
        assert of_key == [10 * n + key for n in range(8)]


def test_sticky_without_a_key_is_answered_so():
    with pool_of(2, "sticky") as pool:
        pending = pool.ask(message())
        with pytest.raises(RequestError, match=r"^key: got none"):
            pending.result(PATIENCE)
        assert received(pool) == [0, 0]


def test_a_route_of_ones_own():
    class Last:
        def choose(self, members, key):
            return members[-1]

    with pool_of(3, Last()) as pool:
        ask(pool, message())
        assert received(pool) == [0, 0, 1]


def test_a_batch_is_spread_and_answered_in_order():
    with pool_of(3) as pool:
        replies = pool.ask_many([message(n) for n in range(9)]).results(PATIENCE)
        assert [reply.out for reply in replies] == list(range(9))
        assert received(pool) == [3, 3, 3]


def test_a_batch_is_awaited():
    async def main():
        async with pool_of(2) as pool:
            return [reply.out for reply in await pool.ask_many([message(8), message(16), message(24)])]

    assert asyncio.run(main()) == [8, 16, 24]


def test_a_batch_with_keys():
    with pool_of(3, "sticky") as pool:
        keys = ["a", "b", "c", "a", "b", "c"]
        pool.ask_many([message()] * 6, keys=keys).results(PATIENCE)
        once = received(pool)
        for key in keys:
            ask(pool, message(), key=key)
        assert received(pool) == [2 * count for count in once]


def test_a_batch_takes_a_key_for_each_message():
    with pool_of(2, "sticky") as pool:
        with pytest.raises(RequestError, match=r"^keys: got 7; expected one for each message"):
            pool.ask_many([], keys=7)
        with pytest.raises(RequestError, match=r"^keys: got 1 keys for 2 messages"):
            pool.ask_many([message(), message()], keys=["a"])
        assert received(pool) == [0, 0]


def test_errors_of_a_batch_are_those_of_its_messages():
    messages = [message(n) for n in range(3)]
    with pool_of(2, make=failing_at(1)) as pool:
        with pytest.raises(LaunchError):
            pool.ask_many(messages).results(PATIENCE)
        first, second, third = pool.ask_many(messages, return_errors=True).results(PATIENCE)
    assert (first.out, type(second), third.out) == (0, LaunchError, 2)


def test_each_of_a_batch_comes_after_the_same_replies():
    failed = [RequestError("x", "x", "x", "x"), LAUNCH_ERROR]
    earlier = [PendingReply() for _ in failed]
    with pool_of(1) as pool:
        replies = pool.ask_many([message(0), message(1)], after=iter(earlier), return_errors=True)
        for reply, error in zip(earlier, failed, strict=True):
            reply.settle(None, error)
        assert [type(error) for error in replies.results(PATIENCE)] == [DependencyFailedError] * 2


def test_what_is_no_batch_is_refused():
    with pool_of(1) as pool, pytest.raises(RequestError, match=r"^msgs: got"):
        pool.ask_many(None)


class Erring:
    """A route that chooses the first member, until it does not."""

    def __init__(self, *choices):
        self.choices = list(choices)

    def choose(self, members, key):
        choice = self.choices.pop(0) if self.choices else None
        if isinstance(choice, BaseException):
            raise choice
        return members[0] if choice == "first" else choice


@pytest.mark.parametrize("wrong", [ValueError("no idea"), None], ids=str)
def test_a_route_that_errs_is_an_error_in_the_reply(wrong, caplog):
    with pool_of(2, Erring(wrong, wrong, "first")) as pool:
        with pytest.raises(RequestError, match=r"^route: got (ValueError: no idea|None);"):
            ask(pool, message())
        pool.tell(message())
        assert "pool.told_nobody" in caplog.text
        assert ask(pool, message(2)).out == 2


def test_a_batch_that_is_interrupted_is_cancelled():
    makes = Makes(held=True)
    with pool_of(1, Erring("first", "first", KeyboardInterrupt()), makes) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.ask_many([message(n) for n in range(3)])
        assert pool.stats().total.errors == {"AskCancelledError": 2}
        makes.kernels[0].open()


def test_tell():
    with pool_of(2) as pool:
        pool.tell(message())
        pool.tell(message())
    assert [stats.completed for stats in pool.stats().actors.values()] == [1, 1]


def test_a_tell_that_reaches_nobody_is_logged(caplog):
    with pool_of(2, "sticky") as pool:
        pool.tell(message())
    (record,) = caplog.records
    assert (record.levelname, record.event, record.error) == ("WARNING", "pool.told_nobody", "RequestError")


def test_options_reach_the_actor():
    makes = Makes(held=True)
    with pool_of(1, make=makes) as pool:
        with pytest.raises(AskTimeoutError):
            ask(pool, message(0), timeout=0.01)
        pool.tell(message(1), stream=0x77)
        (kernels,) = makes.kernels
        kernels.wait_launched(2)
        assert [work.stream for work in kernels.works] == [None, 0x77]
        kernels.open()


@pytest.mark.parametrize("wrong", ["a text", FlashAttnMsg(MsgKind.FORWARD, None)], ids=["text", "empty"])
def test_what_is_no_message_is_answered_so(wrong):
    with pool_of(2) as pool, pytest.raises(RequestError, match="FlashAttnMsg"):
        ask(pool, wrong)


def test_a_full_mailbox_is_that_of_the_chosen_actor():
    makes = Makes(held=True)
    with pool_of(1, make=makes, max_in_flight=1, mailbox_size=1, overflow="fail") as pool:
        pool.ask(message(0))
        makes.kernels[0].wait_launched()
        second = pool.ask(message(1))
        with pytest.raises(MailboxFullError):
            ask(pool, message(2))
        makes.kernels[0].open()
        assert second.result(PATIENCE).out == 1


def test_stats_are_summed():
    with pool_of(2, make=failing_at(1)) as pool:
        pool.ask_many([message(n) for n in (0, 1, 1, 0, 2)], return_errors=True).results(PATIENCE)
        stats = pool.stats()
    assert list(stats.actors) == ["p-0", "p-1"]
    total, each = stats.total, stats.actors.values()
    assert (total.received, total.completed, total.failed, total.pending) == (5, 3, 2, 0)
    assert (total.generation, total.restarts) == (1, 0)
    assert total.errors == {"LaunchError": 2}
    assert total.phases["total"].count == sum(one.phases["total"].count for one in each) == 3
    assert total.phases["total"].sum == pytest.approx(sum(one.phases["total"].sum for one in each))


def test_arrays_go_to_actors_of_their_device():
    with pool_of(2, devices=[0, 1]) as pool:
        for _ in range(4):
            ask(pool, on_device(1))
        assert received(pool) == [0, 0, 2, 2]
        ask(pool, on_device(0))
        assert received(pool) == [1, 0, 2, 2]


def test_arrays_of_the_host_go_anywhere():
    array = np.zeros((1, 4, 1, 64), np.float16)
    on_host = FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(array, array, array, softmax_scale=1.0))
    with pool_of(1, devices=[0, 1]) as pool:
        for _ in range(4):
            ask(pool, on_host)
        assert received(pool) == [2, 2]


def test_arrays_of_a_device_without_an_actor():
    with pool_of(1, devices=[0, 1]) as pool:
        with pytest.raises(
            OperandError, match=r"^q\.device: got cuda:5; expected cuda:0 or cuda:1\. Remedy: "
        ):
            ask(pool, on_device(5))
        assert received(pool) == [0, 0]


def test_a_stopped_member_is_skipped():
    with pool_of(3) as pool:
        pool.actors[1].stop()
        for _ in range(4):
            ask(pool, message())
        assert received(pool) == [2, 0, 2]
        assert pool.is_alive


def test_keys_of_a_stopped_member_move_and_no_others():
    with pool_of(4, "sticky") as pool:
        keys = range(40)
        for key in keys:
            ask(pool, message(), key=key)
        before = received(pool)
        pool.actors[2].stop()
        for key in keys:
            ask(pool, message(), key=key)
        after = received(pool)
    assert before[2] > 0
    assert after[2] == before[2]
    gained = [after[i] - 2 * before[i] for i in (0, 1, 3)]
    assert all(gain >= 0 for gain in gained)
    assert sum(gained) == before[2]


def broken():
    """An executor that fails as none should, at its first launch."""
    return Raising(submit=MemoryError("broken"))


def pool_with_a_broken_member():
    """Its first actor has been given up."""
    executors = iter([broken(), Makes()()])
    pool = pool_of(2, make=lambda: next(executors), restart=RestartPolicy(max_restarts=0))
    pool.ask(message())  # in flight when the executor breaks
    with pytest.raises(ActorFailedError):
        pool.actors[0].ask(message()).result(PATIENCE)  # answered when the actor is given up
    return pool


def test_a_member_that_was_given_up_is_skipped():
    with pool_with_a_broken_member() as pool:
        assert [ask(pool, message(n)).out for n in range(3)] == [0, 1, 2]


def test_a_member_that_is_restarted_is_not_skipped():
    makes = Makes()
    executors = iter([broken(), makes(), makes()])
    with pool_of(2, make=lambda: next(executors)) as pool:
        with pytest.raises(ActorFailedError):
            ask(pool, message())
        assert [ask(pool, message(n)).out for n in range(4)] == [0, 1, 2, 3]
        assert received(pool) == [3, 2]
        assert (pool.stats().total.restarts, pool.stats().total.generation) == (1, 2)


def test_nobody_left():
    pool = pool_of(2)
    pool.stop()
    assert not pool.is_alive
    with pytest.raises(ActorStoppedError, match="start another pool") as caught:
        ask(pool, message())
    assert caught.value.retry_safe
    assert caught.value.__cause__ is None


def test_nobody_left_says_why():
    with pool_with_a_broken_member() as pool:
        pool.actors[1].stop()
        with pytest.raises(ActorStoppedError, match="2 actors that are down") as caught:
            ask(pool, message())
        assert caught.value.__cause__ is pool.actors[0].failure


def test_nobody_left_of_a_device():
    with pool_of(1, devices=[0, 1]) as pool:
        pool.actors[1].stop()
        with pytest.raises(ActorStoppedError, match="1 actors of cuda:1"):
            ask(pool, on_device(1))
        assert ask(pool, on_device(0)).out == 0
