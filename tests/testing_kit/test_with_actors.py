"""The kit under real actors: what a script or a fault does to those who ask."""

import asyncio

import pytest
from kit_tools import BACKWARD, LARGE, SMALL

from flashactor import FlashAttnActor, FlashAttnMsg, FlashAttnProps
from flashactor.actor.restarts import RestartPolicy
from flashactor.errors import (
    ActorFailedError,
    AskTimeoutError,
    CompileError,
    ContextPoisonedError,
)
from flashactor.testing import (
    Fault,
    FaultInjectingExecutor,
    FaultKind,
    FaultPlan,
    Recorder,
    ScriptedExecutor,
    matching,
)
from flashactor.types import Direction

SMALL_MESSAGE, LARGE_MESSAGE = FlashAttnMsg.forward(SMALL), FlashAttnMsg.forward(LARGE)
AT_ONCE = RestartPolicy(max_restarts=3, backoff=0.0)


@pytest.fixture
def script():
    return ScriptedExecutor().reply(out="o")


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def start(script, recorder):
    """Starts an actor that fails by a plan and gets a new executor after each failure."""
    started = []

    def start_actor(*faults, plan=None, renewable=None, **props):
        shared = FaultPlan(*faults) if plan is None else plan

        def make():
            return recorder.watch(FaultInjectingExecutor(script, plan=shared, renewable=renewable))

        started.append(FlashAttnActor.start(FlashAttnProps(restart=AT_ONCE, **props), make))
        return started[-1]

    yield start_actor
    for actor in started:
        actor.stop(5.0, drain=False)


def test_the_order_of_priorities_shows_in_the_recorder(start, script, recorder):
    gate = script.hold()
    actor = start(max_in_flight=1)
    replies = [actor.ask(SMALL_MESSAGE)]
    gate.wait()
    replies.append(actor.ask(LARGE_MESSAGE))
    replies.append(actor.ask(FlashAttnMsg.backward(BACKWARD), priority=1))
    gate.release()
    for reply in replies:
        reply.result(5)
    assert [launch.request for launch in recorder] == [SMALL, BACKWARD, LARGE]
    recorder.assert_asked(times=1, direction=Direction.BACKWARD)


def test_a_held_answer_and_coroutines(start, script):
    gate = script.hold(when=matching(head_dim=128))

    async def asks():
        held = asyncio.ensure_future(actor.ask(LARGE_MESSAGE))
        await asyncio.to_thread(gate.wait)
        assert not held.done()
        gate.release()
        return (await held).out

    actor = start()
    assert asyncio.run(asks()) == "o"


def test_a_crash_fails_what_was_launched_and_the_rest_goes_on(start, recorder):
    plan = FaultPlan(Fault.crash(2))
    actor = start(plan=plan)
    replies = [actor.ask(SMALL_MESSAGE) for _ in range(4)]
    assert replies[0].result(5).out == "o"
    with pytest.raises(ActorFailedError, match="injected: the executor broke") as caught:
        replies[1].result(5)
    assert not caught.value.retry_safe
    assert [reply.result(5).out for reply in replies[2:]] == ["o", "o"]
    assert actor.stats().restarts == 1
    assert plan.injected == ((2, FaultKind.CRASH),)
    assert [launch.outcome is None for launch in recorder] == [False, True, False, False]


def test_a_poison_that_a_new_context_cures(start, recorder):
    actor = start(Fault.poison(1), renewable=True)
    replies = [actor.ask(SMALL_MESSAGE) for _ in range(3)]
    with pytest.raises(ContextPoisonedError) as caught:
        replies[0].result(5)
    assert caught.value.retry_safe
    assert [reply.result(5).out for reply in replies[1:]] == ["o", "o"]
    assert actor.stats().restarts == 1
    recorder.assert_asked(times=3)


def test_a_poison_for_good(start):
    actor = start(Fault.poison(2), renewable=False)
    assert actor.ask(SMALL_MESSAGE).result(5).out == "o"
    for _ in range(2):
        with pytest.raises(ContextPoisonedError) as caught:
            actor.ask(SMALL_MESSAGE).result(5)
        assert not caught.value.retry_safe
    assert actor.stats().restarts == 0


def test_a_hang_is_noticed_and_the_executor_replaced(start):
    actor = start(Fault.hang(1), hang_seconds=0.05)
    with pytest.raises(ActorFailedError, match="hang_seconds"):
        actor.ask(SMALL_MESSAGE).result(5)
    assert actor.ask(SMALL_MESSAGE).result(5).out == "o"


def test_a_hang_ends_at_the_askers_deadline(start):
    actor = start(Fault.hang(1))
    with pytest.raises(AskTimeoutError) as caught:
        actor.ask(SMALL_MESSAGE, timeout=0.05).result(5)
    assert not caught.value.retry_safe
    assert actor.stats().in_flight == 1


def test_a_compile_error_is_its_requests_alone(start, recorder):
    actor = start(Fault.compile_error(2))
    replies = actor.ask_many([SMALL_MESSAGE] * 3, return_errors=True).results(5)
    assert [type(reply) for reply in replies].index(CompileError) == 1
    assert [reply.out for reply in (replies[0], replies[2])] == ["o", "o"]
    recorder.assert_asked(times=2)
    assert actor.stats().restarts == 0


def test_random_faults_leave_no_ask_unanswered(start):
    plan = FaultPlan(Fault.randomly(0.2, 3, ("fail_launch", "out_of_memory", "compile_error")))
    actor = start(plan=plan)
    replies = actor.ask_many([SMALL_MESSAGE] * 500, return_errors=True).results(20)
    failed = sum(isinstance(reply, Exception) for reply in replies)
    assert failed == len(plan.injected)
    assert 100 < failed < 250
    stats = actor.stats()
    assert (stats.completed, stats.failed, stats.pending) == (500 - failed, failed, 0)
