"""What is launched after what: kernels that are not ready, ``after=``, ``launched``."""

import asyncio

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, number_of, reply_to, wait_until

from flashactor.errors import (
    AskCancelledError,
    AskTimeoutError,
    DependencyFailedError,
    LaunchError,
)

LAUNCH_ERROR = LaunchError("launch", "a refusal", "a launch", "ask again")

# Kernels that are not compiled yet.


def test_launches_are_in_the_order_of_the_asks(start):
    actor, kernels = start(Kernels(held=False), max_in_flight=2)
    pendings = [actor.ask(message(number)) for number in range(500)]
    assert [pending.result(PATIENCE).out for pending in pendings] == list(range(500))
    assert kernels.launched == list(range(500))


def test_a_kernel_that_is_not_ready_holds_up_its_own_caller_only(start):
    actor, kernels = start(Kernels(not_ready=[0]))
    for number, caller in enumerate("aabab"):
        actor.ask(message(number), caller=caller)
    assert kernels.wait_launched(2) == [2, 4]
    kernels.wait_prepared(0, 1, 2, 3, 4)
    kernels.deliver(0)
    assert kernels.wait_launched(5) == [2, 4, 0, 1, 3]


def test_a_kernel_that_is_not_ready_lets_lower_priorities_go_first(start):
    actor, kernels = start(Kernels(not_ready=[0]))
    actor.ask(message(0), priority=5)
    actor.ask(message(1), priority=5)
    actor.ask(message(2))
    assert kernels.wait_launched(1) == [2]
    kernels.deliver(0)
    assert kernels.wait_launched(3) == [2, 0, 1]


def test_compiles_begin_while_messages_wait_for_their_turn(start):
    actor, kernels = start(Kernels(not_ready=[1, 2, 3]), max_in_flight=1)
    for number in range(4):
        actor.ask(message(number))
    kernels.wait_prepared(0, 1, 2, 3)
    assert kernels.wait_launched() == [0]


def test_a_kernel_that_comes_before_its_turn_does_not_jump_the_queue(start):
    actor, kernels = start(Kernels(not_ready=[0, 1]))
    for number in range(3):
        actor.ask(message(number))
    kernels.wait_prepared(2)
    kernels.deliver(1)
    other = actor.ask(message(3), caller="other")
    kernels.wait_launched()
    assert kernels.launched == [3]
    kernels.deliver(0)
    assert kernels.wait_launched(4) == [3, 0, 1, 2]
    kernels.open()
    assert other.result(PATIENCE).out == 3


def test_a_message_that_is_dropped_while_its_kernel_compiles_lets_the_next_one_go(start):
    actor, kernels = start(Kernels(not_ready=[0]))
    first = actor.ask(message(0))
    actor.ask(message(1))
    kernels.wait_prepared(1)
    assert kernels.launched == []
    assert first.cancel()
    assert kernels.wait_launched() == [1]
    kernels.deliver(0)
    actor.ask(message(2))
    assert kernels.wait_launched(2) == [1, 2]


# after=, on executors without a device.


def test_after_waits_for_the_result_on_a_host(start):
    actor, kernels = start()
    first = actor.ask(message(0))
    second = actor.ask(message(1), after=first)
    actor.ask(message(2), caller="other")
    kernels.wait_launched(2)
    assert kernels.launched == [0, 2]
    kernels.finish(0)
    assert kernels.wait_launched(3) == [0, 2, 1]
    kernels.finish(1)
    assert second.result(PATIENCE).out == 1


def test_after_holds_back_what_its_own_caller_asks_later(start):
    actor, kernels = start()
    elsewhere, other = start()
    first = elsewhere.ask(message(0))
    for number, options in ((1, {"after": first}), (2, {}), (3, {"caller": "b"})):
        actor.ask(message(number), **options)
    assert kernels.wait_launched() == [3]
    other.wait_launched()
    kernels.wait_prepared(1, 2, 3)
    assert kernels.launched == [3]
    other.finish(0)
    assert kernels.wait_launched(3) == [3, 1, 2]


def test_after_several_waits_for_them_all(start):
    actor, kernels = start()
    firsts = [start() for _ in range(3)]
    replies = [other.ask(message(number)) for number, (other, _) in enumerate(firsts)]
    last = actor.ask(message(9), after=replies)
    kernels.wait_prepared(9)
    for number, (_, others) in enumerate(firsts):
        assert kernels.launched == []
        others.wait_launched()
        others.finish(number)
    kernels.wait_launched()
    kernels.finish(9)
    assert last.result(PATIENCE).out == 9


def test_after_what_is_done_does_not_wait(start):
    actor, kernels = start(Kernels(held=False))
    first = actor.ask(message(0))
    first.result(PATIENCE)
    for nothing in ((), [], None):
        assert actor.ask(message(1), after=nothing).result(PATIENCE).out == 1
    assert actor.ask(message(2), after=[first, first]).result(PATIENCE).out == 2
    assert len(kernels.launched) == 5


def test_a_chain_over_two_actors(start):
    one, first_kernels = start(Kernels(held=False))
    two, second_kernels = start(Kernels(held=False))
    reply = None
    for number in range(100):
        reply = (one, two)[number % 2].ask(message(number), after=reply)
    assert reply.result(PATIENCE).out == 99
    assert first_kernels.launched == list(range(0, 100, 2))
    assert second_kernels.launched == list(range(1, 100, 2))


def fail(actor, kernels, pending):
    kernels.fail(0, LAUNCH_ERROR)


def cancel(actor, kernels, pending):
    pending.cancel()


def expire(actor, kernels, pending):
    pending.wait(PATIENCE)


def stop(actor, kernels, pending):
    actor.stop(drain=False)


@pytest.mark.parametrize(
    ("end", "launched"),
    [(fail, True), *[(end, launched) for end in (cancel, expire, stop) for launched in (True, False)]],
)
def test_after_something_that_fails(start, end, launched):
    before, others = start(Kernels(not_ready=() if launched else [0]))
    actor, kernels = start()
    first = before.ask(message(0), timeout=0.3 if end is expire else None)
    second = actor.ask(message(1), after=first)
    third = actor.ask(message(2), after=second)
    fourth = actor.ask(message(3), caller="another")
    if launched:
        others.wait_launched()
    kernels.wait_prepared(1, 2)
    end(before, others, first)
    for pending in (second, third):
        with pytest.raises(DependencyFailedError, match=r"after: got .*this one was not launched") as failed:
            pending.result(PATIENCE)
        assert failed.value.retry_safe
    assert second.error.__cause__ is first.error
    assert third.error.__cause__ is second.error
    kernels.open()
    assert fourth.result(PATIENCE).out == 3
    assert kernels.launched == [3]


def test_after_something_that_was_refused(start):
    actor, kernels = start()
    first = actor.ask("no message")
    with pytest.raises(DependencyFailedError, match="RequestError"):
        actor.ask(message(1), after=first).result(PATIENCE)
    assert kernels.launched == []


def test_a_message_that_waits_for_another_has_a_deadline(start):
    actor, kernels = start()
    first = actor.ask(message(0))
    with pytest.raises(AskTimeoutError, match="it was not launched"):
        actor.ask(message(1), after=first, timeout=0.02).result(PATIENCE)
    kernels.open()
    first.result(PATIENCE)
    assert kernels.launched == [0]


def test_a_cancelled_message_forgets_what_it_waits_for(start):
    actor, kernels = start()
    first = actor.ask(message(0))
    second = actor.ask(message(1), after=first)
    assert second.cancel()
    third = actor.ask(message(2), after=second)
    with pytest.raises(DependencyFailedError) as failed:
        third.result(PATIENCE)
    assert isinstance(failed.value.__cause__, AskCancelledError)
    kernels.open()
    assert first.result(PATIENCE).out == 0


@pytest.mark.parametrize("order", ["priorities against it", "callers"])
def test_chains_through_full_mailboxes_do_not_deadlock(start, order):
    """What fills the only room waits for what is outside."""
    one, _ = start(Kernels(held=False), max_in_flight=1, mailbox_size=1)
    two, _ = start(Kernels(held=False), max_in_flight=1, mailbox_size=1)

    async def main():
        gate, kernels = start(max_in_flight=1)
        reply = gate.ask(message(0))
        replies = []
        for number in range(40):
            options = {"caller": number} if order == "callers" else {"priority": number}
            reply = (one, two)[number % 2].ask(message(number), after=reply, **options)
            replies.append(reply)
        await asyncio.to_thread(wait_until, lambda: one.stats().queued + two.stats().queued == 40)
        kernels.open()
        answers = await asyncio.wait_for(asyncio.gather(*map(reply_to, replies)), PATIENCE)
        return [reply.out for reply in answers]

    assert asyncio.run(main()) == list(range(40))


def test_threads_that_wait_for_room_behind_a_chain_go_on(start):
    one, first_kernels = start(max_in_flight=1, mailbox_size=1)
    two, _ = start(Kernels(held=False), max_in_flight=1, mailbox_size=1)
    first = one.ask(message(0))
    second = two.ask(message(1), after=first)
    waiting = [InThread(two.ask, message(number)) for number in range(2, 5)]
    wait_until(lambda: two.stats().queued == 4)
    first_kernels.open()
    assert second.result(PATIENCE).out == 1
    assert [thread.result().result(PATIENCE).out for thread in waiting] == [2, 3, 4]


# pending.launched


def test_launched_has_no_value_on_a_host_and_comes_nevertheless(start):
    actor, kernels = start()
    asked_early = actor.ask(message(0))
    launched = asked_early.launched
    assert launched.result(PATIENCE) is None
    assert not asked_early.done
    asked_late = actor.ask(message(1))
    kernels.wait_launched(2)
    assert asked_late.launched.result(PATIENCE) is None
    assert not asked_late.done


def test_who_waits_for_the_launch_no_more_does_not_cancel(start):
    actor, kernels = start(max_in_flight=1)
    actor.ask(message(0))
    kernels.wait_launched()

    async def main():
        pending = actor.ask(message(1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply_to(pending.launched), 0.02)
        kernels.open()
        return await pending

    assert asyncio.run(main()).out == 1


def test_launched_fails_with_what_is_not_launched(start):
    actor, kernels = start(max_in_flight=1)
    actor.ask(message(0))
    kernels.wait_launched()
    pending = actor.ask(message(1))
    launched = pending.launched
    assert pending.cancel()
    for waiting in (launched, pending.launched):
        with pytest.raises(AskCancelledError):
            waiting.result(0)
    assert not launched.cancel()


def test_what_all_wait_for_comes_in_as_soon_as_nothing_else_can_be_launched(start):
    actor, kernels = start(Kernels(not_ready=[0]), max_in_flight=3, mailbox_size=1)

    async def main():
        first = actor.ask(message(0))
        outside = actor.ask(message(1), priority=-1)
        before_it = actor.ask(message(2), after=outside)  # comes in first, and fills the mailbox
        await asyncio.to_thread(wait_until, lambda: actor.stats().waiting == 2)
        kernels.deliver(0)
        await asyncio.to_thread(kernels.wait_prepared, 2)
        await asyncio.to_thread(kernels.wait_launched)
        kernels.finish(0)
        await first
        await asyncio.to_thread(kernels.wait_launched, 2)
        kernels.open()
        return (await outside).out, (await before_it).out

    assert asyncio.run(main()) == (1, 2)
    assert kernels.launched == [0, 1, 2]


class SlowToPrepare(Kernels):
    """Lets one kernel end while it prepares another message."""

    def prepare(self, work):
        if number_of(work) == 2:
            self.finish(0)
        return super().prepare(work)


def test_a_kernel_that_ends_while_messages_are_taken_in_makes_room_for_them(start):
    kernels = SlowToPrepare()
    actor, _ = start(kernels, max_in_flight=1)
    pendings = []

    def ask_for_more(_reply):
        pendings.extend(actor.ask(message(number)) for number in (1, 2, 3))

    first = actor.ask(message(0))
    first.launched.add_done_callback(ask_for_more)  # on the actor's thread: it finds them all at once
    assert kernels.wait_launched(2) == [0, 1]
    assert first.result(PATIENCE).out == 0
    kernels.open()
    assert [pending.result(PATIENCE).out for pending in pendings] == [1, 2, 3]


def test_what_is_done_is_not_waited_for_on_the_device(start):
    """Its marker may be of a context that is lost by now, and an error of that is not this device's."""

    class OnDevice(Kernels):
        waits_on_device = True

        def submit(self, work, done):
            super().submit(work, done)
            return object()

    actor, kernels = start(OnDevice())
    done, running = (actor.ask(message(number)) for number in range(2))
    kernels.wait_launched(2)
    kernels.finish(0)
    assert done.launched.result(PATIENCE) is not None
    markers = (running.launched.result(PATIENCE),)
    actor.ask(message(2), after=[done, running])
    kernels.wait_launched(3)
    assert [work.after for work in kernels.works] == [(), (), markers]
