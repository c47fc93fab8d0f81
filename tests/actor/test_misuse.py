"""What one should not do, and what happens then: event loops, asks from callbacks, observers that raise."""

import asyncio
import logging
import threading
from contextlib import nullcontext, suppress

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, number_of, reply_to, wait_until

from flashactor import FlashAttnActor, FlashAttnProps
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    AskCancelledError,
    BlockingAskError,
    FlashAttnError,
    MailboxFullError,
)
from flashactor.telemetry.events import Observer

# Asking a stopped actor.


@pytest.mark.parametrize("drain", [True, False])
def test_a_stopped_actor_answers_at_once(start, drain):
    actor, kernels = start()
    actor.stop(drain=drain)
    pending = actor.ask(message(0))
    assert pending.done
    with pytest.raises(ActorStoppedError, match="start another") as stopped:
        pending.result()
    assert stopped.value.retry_safe
    with pytest.raises(ActorStoppedError):
        asyncio.run(reply_to(actor.ask(message(1))))
    many = actor.ask_many([message(2), message(3)], return_errors=True).results(0)
    assert [type(error) for error in many] == [ActorStoppedError] * 2
    actor.tell(message(4))
    assert actor.stats().errors == {"ActorStoppedError": 5}
    assert kernels.prepared == []


# On the thread of an event loop.


def test_result_on_a_loops_thread_is_refused_and_the_request_goes_on(start):
    actor, kernels = start()

    async def main():
        pending = actor.ask(message(0))
        for wait in (pending.result, pending.launched.result, actor.ask_many([message(1)]).results):
            with pytest.raises(BlockingAskError, match="await"):
                wait(1)
        await asyncio.to_thread(kernels.wait_launched, 2)
        kernels.open()
        assert (await pending).out == 0
        assert pending.result().out == 0

    asyncio.run(main())


def test_a_loop_that_is_closed_disturbs_nobody(start, caplog):
    actor, kernels = start()
    loop = asyncio.new_event_loop()
    pending = actor.ask(message(0))
    waiting = loop.create_task(reply_to(pending))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    waiting._log_destroy_pending = False  # that is the point
    kernels.wait_launched()
    kernels.finish(0)
    assert pending.result(PATIENCE).out == 0
    again = actor.ask(message(1))
    kernels.wait_launched(2)
    kernels.finish(1)
    assert asyncio.run(reply_to(again)).out == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_loops_in_several_threads_share_an_actor(start):
    actor, _ = start(Kernels(held=False))

    async def main(part):
        replies = [await actor.ask(message(number)) for number in range(part, 200, 4)]
        return [reply.out for reply in replies]

    threads = [InThread(asyncio.run, main(part)) for part in range(4)]
    assert [thread.result() for thread in threads] == [list(range(part, 200, 4)) for part in range(4)]


# Asks from the actor's own threads.


def test_an_ask_from_an_executor_is_fine(reentrant):
    inner = []

    def ask(actor, work):
        if not inner:
            inner.append(actor.ask(message(1)))
        return len(inner)

    actor = reentrant(ask)
    assert actor.ask(message(0)).result(PATIENCE).out == 1
    assert inner[0].result(PATIENCE).out == 1


def test_waiting_for_oneself_in_an_executor_is_refused(reentrant):
    actor = reentrant(lambda actor, work: actor.ask(message(1)).result())
    with pytest.raises(BlockingAskError, match="the very actor that has to answer"):
        actor.ask(message(0)).result(PATIENCE)


@pytest.mark.parametrize("what", ["result", "launch", "results"])
def test_waiting_for_oneself_in_a_callback_is_refused(start, what):
    actor, kernels = start()
    caught = []

    def wait(_reply):
        try:
            if what == "results":
                actor.ask_many([message(1)]).results()
            else:
                pending = actor.ask(message(1))
                (pending.launched if what == "launch" else pending).result()
        except FlashAttnError as error:
            caught.append(error)

    pending = actor.ask(message(0))
    pending.add_done_callback(wait)
    kernels.wait_launched()
    finishing = InThread(kernels.finish, 0)
    finishing.result()
    assert [type(error) for error in caught] == [BlockingAskError]


def test_a_callback_may_ask_and_read_what_is_there(start):
    actor, _ = start(Kernels(held=False))
    outs, last = [], threading.Event()

    def ask_next(reply):
        outs.append(reply.result().out)
        if len(outs) < 100:
            actor.ask(message(len(outs))).add_done_callback(ask_next)
        else:
            last.set()

    actor.ask(message(0)).add_done_callback(ask_next)
    assert last.wait(PATIENCE)
    assert outs == list(range(100))


def test_no_callback_waits_for_room_in_its_own_mailbox(reentrant):
    inner = []

    def flood(actor, work):
        if not inner:
            inner.extend(actor.ask(message(number)) for number in range(1, 4))
        return 0

    actor = reentrant(flood, mailbox_size=2)
    actor.ask(message(0)).result(PATIENCE)
    refused = [pending for pending in inner if isinstance(_settled(pending).error, MailboxFullError)]
    assert len(refused) == 1
    assert "on a thread that would make room" in str(refused[0].error)


def test_two_actors_that_wait_for_each_other_do_not_for_ever(reentrant):
    actors = []
    both = threading.Barrier(2)

    def ask_the_other(actor, work):
        if number_of(work) == 1:
            return 1
        other = actors[1 - actors.index(actor)]
        both.wait(PATIENCE)
        return other.ask(message(1)).result().out

    actors.extend(reentrant(ask_the_other) for _ in range(2))
    pendings = [actor.ask(message(0)) for actor in actors]
    for pending in pendings:
        pending.wait(PATIENCE)
    assert BlockingAskError in [type(pending.error) for pending in pendings]


def test_an_actor_may_wait_for_another_one_and_later_the_other_for_it(reentrant):
    actors = []

    def ask_the_other(actor, work):
        if number_of(work) == 1:
            return 7
        return actors[1 - actors.index(actor)].ask(message(1)).result(PATIENCE).out

    actors.extend(reentrant(ask_the_other) for _ in range(2))
    assert [actor.ask(message(0)).result(PATIENCE).out for actor in actors * 2] == [7] * 4


def test_a_callback_that_fails_is_logged_and_the_others_are_called(start, caplog):
    actor, kernels = start()
    heard = []
    pending = actor.ask(message(0))
    pending.add_done_callback(lambda reply: 1 / 0)
    pending.add_done_callback(heard.append)
    kernels.wait_launched()
    kernels.finish(0)
    assert heard == [pending]
    assert "a callback of a reply failed" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_observer_that_raises_keeps_no_reply_back(error):
    """``sys.exit`` in an observer is no way to end; Ctrl-C may come while one is called."""

    class Raising(Observer):
        def settled(self, event):
            raise error("from an observer")

    kernels = Kernels()
    with FlashAttnActor.start(FlashAttnProps(observers=(Raising(),)), kernels) as actor:
        pendings = [actor.ask(message(number)) for number in range(2)]
        kernels.wait_launched(2)
        for answer in (InThread(kernels.finish, 0), InThread(pendings[1].cancel)):
            with pytest.raises(KeyboardInterrupt) if error is KeyboardInterrupt else nullcontext():
                answer.result()
        assert pendings[0].result(PATIENCE).out == 0
        assert isinstance(pendings[1].error, AskCancelledError)
        with suppress(KeyboardInterrupt):
            kernels.open()


def test_a_log_handler_that_raises_costs_neither_messages_nor_threads(capsys):
    class Raising(logging.Handler):
        def emit(self, record):
            raise ZeroDivisionError(record.getMessage())

    class CrashingOnce(Kernels):
        def submit(self, work, done):
            if not self.launched:
                self.launched.append(0)
                raise RuntimeError("it breaks")
            super().submit(work, done)

    events = ("executor.failed", "actor.failed", "actor.restarted", "tell.failed", "a callback of a")
    printed = ""

    def all_are_printed():  # by whichever thread logs them: the caller may have its answer before
        nonlocal printed
        printed += capsys.readouterr().err
        return all(f"ZeroDivisionError: {event}" in printed for event in events)

    logger, handler = logging.getLogger("flashactor"), Raising()
    logger.addHandler(handler)
    try:
        with FlashAttnActor.start(executor=CrashingOnce(held=False)) as actor:
            with pytest.raises(ActorFailedError, match="it breaks"):
                actor.ask(message(0)).result(PATIENCE)
            actor.tell("nonsense")
            pending = actor.ask(message(1))
            pending.add_done_callback(lambda reply: 1 / 0)
            assert pending.result(PATIENCE).out == 1
            assert actor.stats().generation == 2
            wait_until(all_are_printed, "the last of the log")
    finally:
        logger.removeHandler(handler)


def test_observers_that_raise_at_every_step_are_logged(start, caplog):
    class Raising(Observer):
        def asked(self, event):
            raise ZeroDivisionError("asked")

        launching = launched = settled = asked

    actor, _ = start(Kernels(held=False), observers=(Raising(),))
    assert actor.ask(message(0)).result(PATIENCE).out == 0
    wait_until(lambda: caplog.text.count("an observer failed") == 4, "the fourth step")


def _settled(pending):
    pending.wait(PATIENCE)
    return pending
