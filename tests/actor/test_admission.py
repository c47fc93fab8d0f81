"""Who gets in: mailbox size, overflow, places in flight."""

import asyncio

import numpy as np
import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, reply_to, run_script, wait_until

from flashactor import FlashAttnProps
from flashactor.actor.messages import Overflow
from flashactor.errors import AskTimeoutError, MailboxFullError, RequestError
from flashactor.telemetry.request_log import RequestLog

# The mailbox.


def test_a_full_mailbox_refuses_at_once_where_it_is_told_to(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=2, overflow="fail")
    pendings = [actor.ask(message(0))]
    kernels.wait_launched()
    pendings += [actor.ask(message(number)) for number in (1, 2)]
    refused = actor.ask(message(3))
    assert refused.done
    with pytest.raises(MailboxFullError, match="mailbox_size: got a message more than 2") as full:
        refused.result()
    assert full.value.retry_safe
    assert actor.stats().errors == {"MailboxFullError": 1}
    kernels.open()
    assert [pending.result(PATIENCE).out for pending in pendings] == [0, 1, 2]
    assert kernels.launched == [0, 1, 2]


def test_there_is_room_again_when_a_message_is_launched(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1, overflow=Overflow.FAIL)
    actor.ask(message(0))
    kernels.wait_launched()
    actor.ask(message(1))
    assert actor.ask(message(2)).done
    kernels.finish(0)
    kernels.wait_launched(2)
    assert not actor.ask(message(3)).done


def test_there_is_room_again_when_a_message_that_waits_is_cancelled(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1, overflow="fail")
    actor.ask(message(0))
    kernels.wait_launched()
    assert actor.ask(message(1)).cancel()
    assert not actor.ask(message(2)).done


def test_a_told_message_that_is_refused_is_counted(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1, overflow="fail")
    actor.ask(message(0))
    kernels.wait_launched()
    actor.tell(message(1))
    actor.tell(message(2))
    assert actor.stats().errors == {"MailboxFullError": 1}


def test_a_thread_waits_in_ask_until_there_is_room(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1)
    actor.ask(message(0))
    kernels.wait_launched()
    actor.ask(message(1))
    third = InThread(actor.ask, message(2))
    wait_until(lambda: actor.stats().waiting == 1)
    assert third.running
    assert 2 not in kernels.prepared
    kernels.finish(0)
    assert not third.result().done
    kernels.open()
    kernels.wait_launched(3)
    assert kernels.launched == [0, 1, 2]


def test_threads_that_wait_go_on_in_the_order_in_which_they_came(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1)
    actor.ask(message(0))
    kernels.wait_launched()
    actor.ask(message(1))
    threads = []
    for number in range(2, 7):
        threads.append(InThread(actor.ask, message(number)))
        wait_until(lambda number=number: actor.stats().waiting == number - 1)
    for number in range(5):
        kernels.finish(number)
        threads[number].result()
        assert [thread.running for thread in threads] == [False] * (number + 1) + [True] * (4 - number)
        kernels.wait_launched(number + 2)
    kernels.finish(5)
    assert kernels.wait_launched(7) == list(range(7))


def test_a_coroutine_goes_on_and_its_message_waits_outside(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1)

    async def main():
        pendings = [actor.ask(message(number)) for number in range(20)]
        await asyncio.to_thread(wait_until, lambda: actor.stats().waiting == 18)
        stats = actor.stats()
        assert (stats.in_flight, stats.queued, stats.pending) == (1, 19, 20)
        assert kernels.prepared == [0, 1]
        kernels.open()
        return [reply.out for reply in await asyncio.gather(*map(reply_to, pendings))]

    assert asyncio.run(main()) == list(range(20))
    assert kernels.launched == list(range(20))


def test_what_waits_outside_comes_in_by_priority(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1)

    async def main():
        pendings = [actor.ask(message(0))]
        await asyncio.to_thread(kernels.wait_launched)
        pendings.append(actor.ask(message(1)))
        await asyncio.to_thread(kernels.wait_prepared, 1)
        pendings += [actor.ask(message(number), priority=number) for number in (2, 3)]
        await asyncio.to_thread(wait_until, lambda: actor.stats().waiting == 2)
        kernels.open()
        await asyncio.gather(*map(reply_to, pendings))

    asyncio.run(main())
    assert kernels.launched == [0, 1, 3, 2]


def test_a_thread_that_waits_in_ask_is_answered_at_its_deadline(start):
    actor, kernels = start(max_in_flight=1, mailbox_size=1)
    actor.ask(message(0))
    kernels.wait_launched()
    actor.ask(message(1))
    late = InThread(lambda: actor.ask(message(2), timeout=0.05)).result()
    with pytest.raises(AskTimeoutError, match="it was not launched") as timeout:
        late.result(0)
    assert timeout.value.retry_safe
    assert 2 not in kernels.prepared


@pytest.mark.parametrize("how", ["deadline", "stop"])
def test_a_message_that_ends_just_before_its_thread_waits_for_room(start, monkeypatch, how):
    """It is answered between its entry and the wait, so nobody will make room for it."""
    actor, kernels = start(max_in_flight=1, mailbox_size=1)
    actor.ask(message(0))
    kernels.wait_launched()
    actor.ask(message(1))
    waits = actor._wait_for_room

    def end_first(ask):
        if how == "stop":
            actor.stop(drain=False)
        else:
            ask.expire()
        waits(ask)

    monkeypatch.setattr(actor, "_wait_for_room", end_first)
    assert InThread(actor.ask, message(2)).result().error is not None


def test_ctrl_c_in_ask_takes_the_message_back():
    printed = run_script(
        """
kernels = Kernels()
actor = FlashAttnActor.start(FlashAttnProps(max_in_flight=1, mailbox_size=1), kernels)
actor.ask(message(0))
kernels.wait_launched()
actor.ask(message(1))

def interrupt():
    wait_until(lambda: actor.stats().waiting == 1)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    actor.ask(message(2))
except KeyboardInterrupt:
    print(dict(actor.stats().errors), actor.stats().pending)
kernels.open()
actor.stop()
print(kernels.launched)
"""
    )
    assert "".join(printed) == "{'AskCancelledError':1}2[0,1]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"mailbox_size": 0},
        {"mailbox_size": 1.5},
        {"mailbox_size": True},
        {"overflow": "drop"},
        {"overflow": None},
        {"max_in_flight": "8"},
        {"hang_seconds": 0},
        {"restart": 3},
        {"completion": "magic"},
        {"label": 7},
        {"label": "\ud800"},
        {"label": "two\nlines"},
        {"executor": 7},
        {"observers": None},
        {"observers": "log"},
        {"observers": (RequestLog,)},
    ],
    ids=str,
)
def test_props_that_make_no_sense_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(RequestError, match=f"^{name}: got"):
        FlashAttnProps(**wrong)


def test_numpys_integers_in_props_become_pythons():
    props = FlashAttnProps(max_in_flight=np.int8(3), mailbox_size=np.uint8(4), device=np.int64(1))
    assert [type(number) for number in (props.max_in_flight, props.mailbox_size, props.device)] == [int] * 3


# Places in flight.


@pytest.mark.parametrize("places", [1, 3])
def test_no_more_than_the_places_are_in_flight(start, places):
    actor, kernels = start(max_in_flight=places)
    pendings = [actor.ask(message(number)) for number in range(10)]
    kernels.wait_prepared(9)
    for finished in range(10 - places):
        assert kernels.wait_launched(places + finished) == list(range(places + finished))
        assert actor.stats().in_flight == places
        kernels.finish(finished)
        pendings[finished].result(PATIENCE)
    kernels.open()
    assert [pending.result(PATIENCE).out for pending in pendings] == list(range(10))


def test_kernels_may_end_in_any_order(start):
    actor, kernels = start(max_in_flight=3)
    pendings = [actor.ask(message(number)) for number in range(3)]
    kernels.wait_launched(3)
    for number in (2, 0, 1):
        kernels.finish(number)
        assert pendings[number].result(PATIENCE).out == number


def test_a_refused_request_takes_no_place(start):
    class Refusing(Kernels):
        def prepare(self, work):
            super().prepare(work)
            raise RequestError("request", "this one", "another", "send another")

    actor, _ = start(Refusing(), max_in_flight=1)
    for number in range(3):
        with pytest.raises(RequestError, match="this one"):
            actor.ask(message(number)).result(PATIENCE)
    assert actor.stats().in_flight == 0


def test_ctrl_c_before_the_mailbox_leaves_nothing_to_do(start, monkeypatch):
    actor, _ = start()
    enter = actor._ledger.enter

    def interrupted(ask):
        enter(ask)
        raise KeyboardInterrupt

    monkeypatch.setattr(actor._ledger, "enter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        actor.ask(message(0))
    assert actor.is_idle


def test_ctrl_c_before_a_message_is_entered(start, monkeypatch):
    actor, _ = start()

    def interrupted(ask):
        raise KeyboardInterrupt

    monkeypatch.setattr(actor._ledger, "enter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        actor.ask(message(0))
    assert actor.stats().received == 0


def test_a_signal_handler_may_cancel_while_its_thread_asks():
    """As may a finalizer, which the garbage collector runs anywhere."""
    printed = run_script("""
class Signalling(set):
    def add(self, ask):
        set.add(self, ask)
        signal.raise_signal(signal.SIGUSR1)

with FlashAttnActor.start(FlashAttnProps(), Kernels()) as actor:
    first = actor.ask(message(0))
    signal.signal(signal.SIGUSR1, lambda *_: first.cancel())
    actor._ledger._open = Signalling(actor._ledger._open)
    actor.ask(message(1))
    print(type(first.error).__name__)
    actor.stop(drain=False)
""")
    assert printed == ["AskCancelledError"]
