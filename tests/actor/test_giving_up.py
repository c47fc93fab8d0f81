"""Deadlines and cancellation: what is dropped, what goes on, what the error says, and who is told."""

import asyncio
import gc
import threading
import weakref

import pytest
from actor_tools import PATIENCE, InThread, Kernels, busy, message, reply_to, wait_until
from fake_cuda import DeviceArray, FakeDriver, FakeKernels, request

from flashactor import FlashAttnActor, FlashAttnMsg
from flashactor.actor import ask
from flashactor.actor.failures import cancelled_error
from flashactor.errors import AskCancelledError, AskTimeoutError
from flashactor.executors.cuda import CudaExecutor
from flashactor.telemetry.events import Observer

LAUNCHED_BY = 0.3
"""A deadline that is later than the launch."""


# Deadlines.


def test_what_is_not_launched_at_its_deadline_never_is(start):
    actor, kernels = busy(start)
    late, next_one = actor.ask(message(1), timeout=0.03), actor.ask(message(2))
    with pytest.raises(AskTimeoutError, match=r"no reply within 0\.03 s.*it was not launched") as timeout:
        late.result(PATIENCE)
    assert timeout.value.retry_safe
    kernels.open()
    assert next_one.result(PATIENCE).out == 2
    assert kernels.launched == [0, 2]
    assert actor.stats().errors == {"AskTimeoutError": 1}


def test_what_is_launched_at_its_deadline_goes_on_unheard(start):
    actor, kernels = start()
    pending = actor.ask(message(0), timeout=LAUNCHED_BY)
    kernels.wait_launched()
    with pytest.raises(AskTimeoutError, match="its kernel still runs") as timeout:
        pending.result(PATIENCE)
    assert not timeout.value.retry_safe
    stats = actor.stats()
    assert (stats.pending, stats.in_flight) == (0, 1)
    kernels.finish(0)
    assert actor.stats().in_flight == 0
    assert isinstance(pending.error, AskTimeoutError)
    assert actor.stats().completed == 0


def test_a_kernel_that_goes_on_keeps_its_place(start):
    actor, kernels = start(max_in_flight=1)
    late = actor.ask(message(0), timeout=LAUNCHED_BY)
    kernels.wait_launched()
    late.wait(PATIENCE)
    waiting = actor.ask(message(1))
    kernels.wait_prepared(1)
    assert kernels.launched == [0]
    kernels.finish(0)
    kernels.wait_launched(2)
    kernels.finish(1)
    assert waiting.result(PATIENCE).out == 1


@pytest.mark.parametrize("how", ["deadline", "cancel", "abandoned task"])
def test_a_kernel_that_goes_on_keeps_its_arrays(how):
    alive = weakref.WeakSet()

    class Array(DeviceArray):
        def __init__(self, *shape, **options):
            super().__init__(*shape, **options)
            alive.add(self)

    driver = FakeDriver()
    with FlashAttnActor.start(executor=CudaExecutor(FakeKernels(), driver=driver)) as actor:
        if how == "abandoned task":
            asyncio.run(_abandon(actor, FlashAttnMsg.forward(request(Array)), driver))
        else:
            pending = actor.ask(
                FlashAttnMsg.forward(request(Array)), timeout=LAUNCHED_BY if how == "deadline" else None
            )
            driver.event(0)
            if how == "cancel":
                assert pending.cancel()
            pending.wait(PATIENCE)
        event = driver.event(0)
        gc.collect()
        assert len(alive) == 5
        event.complete()
        wait_until(lambda: gc.collect() is not None and not alive, "the release")
        assert actor.stats().in_flight == 0


async def _abandon(actor, msg, driver):
    task = asyncio.create_task(reply_to(actor.ask(msg)))
    await asyncio.to_thread(driver.event, 0)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
def test_a_deadline_that_is_over_is_answered_at_once(start, timeout):
    actor, kernels = start()
    with pytest.raises(AskTimeoutError) as error:
        actor.ask(message(0), timeout=timeout).result(0)
    assert error.value.retry_safe
    actor.ask(message(1))
    kernels.wait_launched()
    assert kernels.prepared == [1]


def test_deadlines_hold_while_the_actors_thread_is_busy(start):
    entered, leave = threading.Event(), threading.Event()

    class Busy(Kernels):
        def submit(self, work, done):
            super().submit(work, done)
            entered.set()
            leave.wait(PATIENCE)

    actor, kernels = start(Busy())
    launched = actor.ask(message(0), timeout=LAUNCHED_BY)
    assert entered.wait(PATIENCE)
    queued = actor.ask(message(1), timeout=0.03)
    for pending, retry_safe in ((launched, False), (queued, True)):
        with pytest.raises(AskTimeoutError) as timeout:
            pending.result(PATIENCE)
        assert timeout.value.retry_safe is retry_safe
    leave.set()
    actor.ask(message(2))
    assert kernels.wait_launched(2) == [0, 2]


def test_a_reply_in_time_is_no_timeout(start):
    actor, kernels = start(Kernels(held=False))
    pendings = [actor.ask(message(number), timeout=PATIENCE) for number in range(2000)]
    assert [pending.result(PATIENCE).out for pending in pendings] == list(range(2000))
    assert kernels.launched == list(range(2000))


def test_deadlines_come_in_their_own_order(start):
    actor, _ = busy(start)
    order = []
    timeouts = (0.2, 0.05, 0.1)
    pendings = [actor.ask(message(number), timeout=timeout) for number, timeout in enumerate(timeouts, 1)]
    for number, pending in enumerate(pendings, 1):
        pending.add_done_callback(lambda _, number=number: order.append(number))
    for pending in pendings:
        pending.wait(PATIENCE)
    assert order == [2, 3, 1]


def test_a_deadline_of_result_is_another_matter(start):
    actor, kernels = start()
    pending = actor.ask(message(0))
    with pytest.raises(AskTimeoutError, match="the request still runs"):
        pending.result(0.01)
    kernels.open()
    assert pending.result(PATIENCE).out == 0


# Cancellation.


def test_a_message_that_waits_is_dropped(start):
    actor, kernels = busy(start)
    pending, next_one = actor.ask(message(1)), actor.ask(message(2))
    assert pending.cancel()
    with pytest.raises(AskCancelledError, match="it was not launched") as cancelled:
        pending.result(0)
    assert cancelled.value.retry_safe
    kernels.open()
    next_one.result(PATIENCE)
    assert kernels.launched == [0, 2]


def test_a_message_that_is_launched_goes_on_unheard(start):
    actor, kernels = start()
    pending = actor.ask(message(0))
    kernels.wait_launched()
    assert pending.cancel()
    with pytest.raises(AskCancelledError, match="its kernel still runs") as cancelled:
        pending.result(0)
    assert not cancelled.value.retry_safe
    assert actor.stats().in_flight == 1
    kernels.finish(0)
    assert (actor.stats().in_flight, actor.stats().completed) == (0, 0)


def test_cancelling_twice_and_too_late(start):
    actor, kernels = busy(start)
    pending = actor.ask(message(1))
    assert [pending.cancel(), pending.cancel()] == [True, False]
    done = actor.ask(message(2))
    kernels.open()
    assert done.result(PATIENCE).out == 2
    assert not done.cancel()
    assert done.result(0).out == 2
    assert actor.stats().errors == {"AskCancelledError": 1}


def test_only_one_of_many_that_cancel_at_once_is_told_so(start):
    actor, _ = busy(start)
    for number in range(1, 30):
        pending = actor.ask(message(number))
        together = threading.Barrier(4)

        def cancel(together=together, pending=pending):
            together.wait(PATIENCE)
            return pending.cancel()

        assert sum(thread.result() for thread in [InThread(cancel) for _ in range(4)]) == 1
    assert actor.stats().errors == {"AskCancelledError": 29}


@pytest.mark.parametrize("how", ["cancel", "deadline", "stop"])
def test_a_message_that_is_launched_at_the_moment_it_is_given_up_says_so(start, monkeypatch, how):
    actor, _ = busy(start)
    pending, ledger = actor.ask(message(1)), actor._ledger
    ask, leave = pending._asked, ledger.leave

    def launch_and_leave(asked, error):
        if asked is ask:
            ledger.launch(ask)
        return leave(asked, error)

    monkeypatch.setattr(ledger, "leave", launch_and_leave)
    {"cancel": ask.cancel, "deadline": ask.expire, "stop": ask.stop}[how]()
    assert "its kernel still runs" in str(pending.error)
    assert not pending.error.retry_safe
    ledger.land(ask)


def test_observers_hear_once_of_what_is_given_up(start):
    heard = []

    class Listening(Observer):
        def settled(self, event):
            heard.append(type(event.error).__name__)

    actor, kernels = busy(start, observers=(Listening(),))
    actor.ask(message(1), timeout=0.01).wait(PATIENCE)
    actor.ask(message(2)).cancel()
    kernels.open()
    actor.ask(message(3)).result(PATIENCE)
    assert sorted(heard) == ["AskCancelledError", "AskTimeoutError", "NoneType", "NoneType"]


def test_what_is_launched_while_its_cancel_begins_is_not_said_to_be_safe(start, monkeypatch):
    actor, kernels = start(Kernels(not_ready=[0]))
    pending = actor.ask(message(0))
    kernels.wait_prepared(0)

    def error_while_it_is_launched(*, launched):
        error = cancelled_error(launched=launched)
        if not launched and not kernels.launched:
            kernels.deliver(0)
            kernels.wait_launched()
        return error

    monkeypatch.setattr(ask, "cancelled_error", error_while_it_is_launched)
    assert pending.cancel()
    assert "its kernel still runs" in pending.error.remedy
    assert not pending.error.retry_safe
