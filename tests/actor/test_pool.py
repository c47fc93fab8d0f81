"""Several actors behind one address: who gets what, devices, members that go down, batches, stopping."""

import asyncio
import threading

import numpy as np
import pytest

from flashactor import (
    DType,
    Fa2FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    FlashAttnPool,
    FlashAttnProps,
    RestartPolicy,
    SmArch,
)
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    AskTimeoutError,
    LaunchError,
    MailboxFullError,
    MockModeError,
    OperandError,
    RequestError,
    UnknownImplementationError,
)
from flashactor.executors.base import Executor, Outcome, Outputs
from flashactor.executors.mock import MockExecutor

MESSAGE = FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, 64))
LAUNCH_ERROR = LaunchError("launch", "a refusal", "a launch", "ask again")


def message(head_dim):
    return FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, head_dim))


def on_device(ordinal):
    """A message whose arrays say that they are on a device."""

    class DeviceArray:
        device = type("device", (), {"id": ordinal})
        __cuda_array_interface__ = {  # noqa: RUF012  # as libraries have it
            "shape": (1, 4, 1, 64),
            "typestr": "<f2",
            "data": (4096, False),
            "version": 3,
            "strides": None,
        }

    return FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(DeviceArray(), DeviceArray(), DeviceArray()))


class HeldExecutor(Executor):
    """Launches at once, and answers when it is told to or closed."""

    name = "held"

    def __init__(self):
        self.held = []
        self.opened = threading.Event()

    def submit(self, work, done):
        if self.opened.is_set():
            done(Outcome(outputs=Outputs(out=work.key.head_dim)))
        else:
            self.held.append((work, done))

    def release(self):
        self.opened.set()
        while self.held:
            work, done = self.held.pop(0)
            done(Outcome(outputs=Outputs(out=work.key.head_dim)))


class Executors:
    """Makes the executors of a pool's actors, and remembers them in order."""

    def __init__(self, make):
        self.made = []
        self._make = make

    def __call__(self):
        self.made.append(self._make())
        return self.made[-1]


def echo(work):
    return Outputs(out=work.key.head_dim)


def scripted():
    return MockExecutor(echo)


def received(pool):
    return [stats.received for stats in pool.stats().actors.values()]


def pool_of(size, route="round_robin", make=scripted, **options):
    return FlashAttnPool.start(FlashAttnProps(label="p"), size=size, route=route, executor=make, **options)


def test_the_actors_are_numbered_over_all_devices():
    with pool_of(2, devices=[0, 3]) as pool:
        assert [(actor.props.label, actor.props.device) for actor in pool.actors] == [
            ("p-0", 0),
            ("p-1", 0),
            ("p-2", 3),
            ("p-3", 3),
        ]


def test_defaults_are_two_actors_of_the_device_of_the_props():
    with FlashAttnPool.start(FlashAttnProps(device=2, executor="mock")) as pool:
        assert [(actor.props.label, actor.props.device) for actor in pool.actors] == [
            ("flashattn-0", 2),
            ("flashattn-1", 2),
        ]
        with pytest.raises(MockModeError):
            pool.ask(MESSAGE).result(5)


def test_round_robin_spreads_evenly():
    with pool_of(3) as pool:
        for _ in range(9):
            pool.ask(MESSAGE).result(5)
        assert received(pool) == [3, 3, 3]


def test_a_pool_of_one():
    with pool_of(1, route="sticky") as pool:
        assert pool.ask(MESSAGE, key="a").result(5).out == 64
        assert received(pool) == [1]


def test_least_loaded_keeps_away_from_a_busy_actor():
    executors = Executors(HeldExecutor)
    with pool_of(2, "least_loaded", executors) as pool:
        first = pool.ask(MESSAGE)
        first.launched.result(5)
        executors.made[1].release()
        for _ in range(5):
            pool.ask(MESSAGE).result(5)
        assert received(pool) == [1, 5]
        assert not first.done
        executors.made[0].release()
        assert first.result(5).out == 64


def test_sticky_keeps_the_order_of_each_key():
    with pool_of(3, "sticky") as pool:
        keys = [f"session-{i}" for i in range(6)]
        pendings = [pool.ask(message(8 * n), key=key) for n in range(1, 9) for key in keys]
        for pending in pendings:
            pending.result(5)
        seen = [[work.key.head_dim for work in actor.seen] for actor in pool.actors]
    assert sum(map(len, seen)) == 48
    assert all(dims == sorted(dims) for dims in seen)
    assert all(len(dims) % 8 == 0 for dims in seen)


def test_sticky_without_a_key_is_answered_so():
    with pool_of(2, "sticky") as pool:
        pending = pool.ask(MESSAGE)
        with pytest.raises(RequestError, match=r"^key: got none"):
            pending.result(5)
        assert received(pool) == [0, 0]


def test_a_route_of_ones_own():
    class Last:
        def choose(self, members, key):
            return members[-1]

    with pool_of(3, Last()) as pool:
        pool.ask(MESSAGE).result(5)
        assert received(pool) == [0, 0, 1]


def test_arrays_go_to_actors_of_their_device():
    with pool_of(2, devices=[0, 1]) as pool:
        for _ in range(4):
            pool.ask(on_device(1)).result(5)
        assert received(pool) == [0, 0, 2, 2]
        pool.ask(on_device(0)).result(5)
        assert sum(received(pool)[:2]) == 1


def test_arrays_of_the_host_go_anywhere():
    array = np.zeros((1, 4, 1, 64), np.float16)
    on_host = FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(array, array, array))
    with pool_of(1, devices=[0, 1]) as pool:
        for _ in range(4):
            pool.ask(on_host).result(5)
        assert received(pool) == [2, 2]


def test_arrays_of_a_device_without_an_actor():
    with pool_of(1, devices=[0, 1]) as pool:
        pending = pool.ask(on_device(5))
        with pytest.raises(
            OperandError, match=r"^q\.device: got cuda:5; expected cuda:0 or cuda:1\. Remedy: "
        ):
            pending.result(5)
        assert received(pool) == [0, 0]


def test_a_stopped_member_is_skipped():
    with pool_of(3) as pool:
        pool.actors[1].stop()
        for _ in range(4):
            pool.ask(MESSAGE).result(5)
        assert received(pool) == [2, 0, 2]
        assert pool.is_alive


def pool_with_a_broken_member():
    """Its first actor has been given up."""

    class Broken(Executor):
        name = "broken"

        def submit(self, work, done):
            raise MemoryError("broken")

    executors = iter([Broken(), scripted()])
    props = FlashAttnProps(label="p", restart=RestartPolicy(max_restarts=0))
    pool = FlashAttnPool.start(props, size=2, executor=lambda: next(executors))
    pool.ask(MESSAGE)  # in flight when the executor breaks
    with pytest.raises(ActorFailedError):
        pool.actors[0].ask(MESSAGE).result(5)  # answered when the actor is given up
    return pool


def test_a_member_that_was_given_up_is_skipped():
    with pool_with_a_broken_member() as pool:
        assert [pool.ask(MESSAGE).result(5).out for _ in range(3)] == [64] * 3


def test_the_answer_of_nobody_left_says_why():
    with pool_with_a_broken_member() as pool:
        pool.actors[1].stop()
        with pytest.raises(ActorStoppedError, match="2 actors that are down") as caught:
            pool.ask(MESSAGE).result(5)
        assert caught.value.__cause__ is pool.actors[0].failure


def test_keys_of_a_stopped_member_move_and_no_others():
    with pool_of(4, "sticky") as pool:
        keys = range(40)
        for key in keys:
            pool.ask(MESSAGE, key=key).result(5)
        before = received(pool)
        pool.actors[2].stop()
        for key in keys:
            pool.ask(MESSAGE, key=key).result(5)
        after = received(pool)
    assert before[2] > 0
    assert after[2] == before[2]
    gained = [after[i] - 2 * before[i] for i in (0, 1, 3)]
    assert all(gain >= 0 for gain in gained)
    assert sum(gained) == before[2]


def test_nobody_left():
    pool = pool_of(2)
    pool.stop()
    assert not pool.is_alive
    with pytest.raises(ActorStoppedError, match="start another pool") as caught:
        pool.ask(MESSAGE).result(5)
    assert caught.value.retry_safe


def test_nobody_left_of_a_device():
    with pool_of(1, devices=[0, 1]) as pool:
        pool.actors[1].stop()
        with pytest.raises(ActorStoppedError, match="cuda:1"):
            pool.ask(on_device(1)).result(5)
        assert pool.ask(on_device(0)).result(5).out == 64


def test_no_message_is_answered_so():
    with pool_of(2) as pool, pytest.raises(RequestError, match="FlashAttnMsg"):
        pool.ask("a text").result(5)


def test_options_reach_the_actor():
    executors = Executors(HeldExecutor)
    with pool_of(1, make=executors) as pool:
        with pytest.raises(AskTimeoutError):
            pool.ask(MESSAGE, timeout=0.01).result(5)
        executors.made[0].release()


def test_a_batch_is_spread_and_answered_in_order():
    with pool_of(3) as pool:
        dims = [8 * n for n in range(1, 10)]
        replies = pool.ask_many([message(dim) for dim in dims]).results(5)
        assert [reply.out for reply in replies] == dims
        assert received(pool) == [3, 3, 3]


def test_a_batch_is_awaited():
    async def main():
        async with pool_of(2) as pool:
            return [reply.out for reply in await pool.ask_many([message(8), message(16), message(24)])]

    assert asyncio.run(main()) == [8, 16, 24]


def test_a_batch_with_keys():
    with pool_of(3, "sticky") as pool:
        keys = ["a", "b", "c", "a", "b", "c"]
        pool.ask_many([MESSAGE] * 6, keys=keys).results(5)
        once = received(pool)
        for key in keys:
            pool.ask(MESSAGE, key=key).result(5)
        assert received(pool) == [2 * count for count in once]


def test_a_batch_takes_a_key_for_each_message():
    with pool_of(2, "sticky") as pool:
        with pytest.raises(RequestError, match=r"^keys: got 1"):
            pool.ask_many([MESSAGE, MESSAGE], keys=["a"])
        assert received(pool) == [0, 0]


def test_errors_of_a_batch_are_those_of_its_messages():
    def script(work):
        if work.key.head_dim == 16:
            raise LAUNCH_ERROR
        return echo(work)

    messages = [message(8), message(16), message(24)]
    with pool_of(2, make=lambda: MockExecutor(script)) as pool:
        with pytest.raises(LaunchError):
            pool.ask_many(messages).results(5)
        answers = pool.ask_many(messages, return_errors=True).results(5)
        assert [type(answer).__name__ for answer in answers] == [
            "AttentionReply",
            "LaunchError",
            "AttentionReply",
        ]


def test_tell():
    with pool_of(2) as pool:
        pool.tell(MESSAGE)
        pool.tell(MESSAGE)
        pool.stop()
        assert [stats.completed for stats in pool.stats().actors.values()] == [1, 1]


def test_a_tell_that_reaches_nobody_is_logged(caplog):
    with pool_of(2, "sticky") as pool:
        pool.tell(MESSAGE)
        (record,) = caplog.records
        assert (record.levelname, record.msg, record.error) == (
            "WARNING",
            "pool.told_nobody",
            "RequestError",
        )


def test_stats_are_summed():
    def script(work):
        if work.key.head_dim == 16:
            raise LAUNCH_ERROR
        return echo(work)

    with pool_of(2, make=lambda: MockExecutor(script)) as pool:
        for dim in (8, 16, 16, 8, 24):
            pool.ask_many([message(dim)], return_errors=True).results(5)
        stats = pool.stats()
    assert list(stats.actors) == ["p-0", "p-1"]
    total = stats.total
    assert (total.received, total.completed, total.failed, total.pending) == (5, 3, 2, 0)
    assert total.errors == {"LaunchError": 2}
    assert total.phases["total"].count == sum(one.phases["total"].count for one in stats.actors.values()) == 3
    assert total.phases["total"].sum == pytest.approx(
        sum(one.phases["total"].sum for one in stats.actors.values())
    )


def test_stop_drains_all_members_at_the_same_time():
    """Each executor's close waits until both are closing: one after the other, they would never end."""
    together = threading.Barrier(2, timeout=20)

    class Meeting(MockExecutor):
        def close(self):
            together.wait()
            super().close()

    pool = pool_of(2, make=lambda: Meeting(echo))
    pool.stop()
    assert not together.broken


def test_aclose_drains_all_members_at_the_same_time():
    together = threading.Barrier(2, timeout=20)

    class Meeting(MockExecutor):
        def close(self):
            together.wait()
            super().close()

    async def main():
        async with pool_of(2, make=lambda: Meeting(echo)) as pool:
            assert (await pool.ask(MESSAGE)).out == 64

    asyncio.run(main())
    assert not together.broken


def test_leaving_the_pool_answers_everyone():
    with pool_of(2) as pool:
        pendings = [pool.ask(MESSAGE) for _ in range(10)]
    assert [pending.result(0).out for pending in pendings] == [64] * 10


def test_stop_without_drain_answers_everyone():
    with FlashAttnPool.start(FlashAttnProps(max_in_flight=1), size=2, executor=HeldExecutor) as pool:
        pendings = [pool.ask(MESSAGE) for _ in range(10)]
        pool.stop(drain=False)
        errors = [_error(pending) for pending in pendings]
    assert any(isinstance(error, ActorStoppedError) for error in errors)


def test_stopping_again_does_nothing():
    pool = pool_of(2)
    pool.stop()
    pool.stop()
    assert not pool.is_alive


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
        FlashAttnPool.start(executor=scripted())


@pytest.mark.parametrize(
    ("options", "field"), [({"route": "random"}, "route"), ({"props": "label"}, "props")], ids=str
)
def test_other_misuse_of_start(options, field):
    with pytest.raises(RequestError, match=f"^{field}: got"):
        FlashAttnPool.start(executor="mock", **options)


def test_a_member_that_does_not_start_stops_those_that_did():
    closed = []

    class Closing(MockExecutor):
        def close(self):
            closed.append(self)
            super().close()

    def make():
        if made:
            raise UnknownImplementationError("executor", "none", "one", "choose one")
        made.append(Closing(echo))
        return made[-1]

    made = []
    with pytest.raises(UnknownImplementationError):
        pool_of(2, make=make)
    assert closed == made


def test_running_actors_become_a_pool():
    actors = [FlashAttnActor.start(FlashAttnProps(label=label), scripted()) for label in ("small", "large")]
    with FlashAttnPool(actors, "least_loaded") as pool:
        pool.ask_many([MESSAGE] * 4).results(5)
    assert not any(actor.is_alive for actor in actors)


def test_actors_of_a_pool_have_labels_of_their_own():
    with FlashAttnActor.start(executor="mock") as one, FlashAttnActor.start(executor="mock") as other:
        with pytest.raises(RequestError, match=r"^actors: got the labels"):
            FlashAttnPool([one, other])
        with pytest.raises(RequestError, match=r"^actors: got the labels"):
            FlashAttnPool([])


def test_a_full_mailbox_is_that_of_the_chosen_actor():
    executors = Executors(HeldExecutor)
    props = FlashAttnProps(max_in_flight=1, mailbox_size=1, overflow="fail")
    with FlashAttnPool.start(props, size=1, executor=executors) as pool:
        first = pool.ask(MESSAGE)
        first.launched.result(5)
        second = pool.ask(MESSAGE)
        with pytest.raises(MailboxFullError):
            pool.ask(MESSAGE).result(5)
        executors.made[0].release()
        assert second.result(5).out == 64


def _error(pending):
    try:
        pending.result(5)
    except Exception as error:
        return error
    return None
