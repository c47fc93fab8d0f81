"""Callbacks on threads that many actors need: what would make them wait there is refused."""

import threading

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, wait_until

from flashactor import FlashAttnActor, FlashAttnProps
from flashactor.actor.restarts import RestartPolicy
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ActorFailedError, AskTimeoutError, BlockingAskError, MailboxFullError

SOON = 0.1
"""A deadline that comes later than the callback is left."""


@pytest.fixture
def full(start):
    """An actor with a kernel in flight and one message, which fills its mailbox."""
    actor, kernels = start(max_in_flight=1, mailbox_size=1)
    actor.ask(message(1))
    kernels.wait_launched(1)
    actor.ask(message(2))
    return actor


class Callback:
    """Does something when a reply is there, and keeps what comes of it."""

    def __init__(self, pending, action):
        self._action, self._there, self._found = action, threading.Event(), None
        pending.add_done_callback(self._run)

    def _run(self, _pending):
        try:
            self._found = self._action()
        except Exception as error:
            self._found = error
        self._there.set()

    def result(self):
        assert self._there.wait(PATIENCE), "the callback waits"
        return self._found


def test_an_ask_on_the_thread_of_the_deadlines_waits_for_no_room(start, full):
    late = start()[0].ask(message(3), timeout=SOON)
    refused = Callback(late, lambda: full.ask(message(4))).result()
    assert isinstance(late.error, AskTimeoutError)
    assert isinstance(refused.error, MailboxFullError)


def test_nor_does_a_result_or_a_stop(start, full):
    other = start()[0]
    open_reply = other.ask(message(5))
    late = other.ask(message(6), timeout=SOON)
    reading, stopping = Callback(late, lambda: open_reply.result(PATIENCE)), Callback(late, full.stop)
    assert isinstance(reading.result(), BlockingAskError)
    assert stopping.result() is None
    assert not full.is_alive
    assert full.unanswered == 2


class Broken(Kernels):
    """Fails at its first launch, when it is told to."""

    def __init__(self, go):
        super().__init__()
        self._go = go

    def submit(self, work, done):
        assert self._go.wait(PATIENCE)
        raise OSError("broken")


def test_an_ask_on_the_thread_of_a_supervisor_waits_for_no_room(full):
    go = threading.Event()
    props = FlashAttnProps(restart=RestartPolicy(max_restarts=0))
    with FlashAttnActor.start(props, Broken(go), supervisor=Supervisor("device")) as broken:
        broken.ask(message(3))
        queued = broken.ask(message(4))
        callback = Callback(queued, lambda: full.ask(message(5)))
        go.set()
        refused = callback.result()
    assert isinstance(queued.error, ActorFailedError)
    assert isinstance(refused.error, MailboxFullError)


def test_a_callback_within_a_callback_does_not_forget_whose_thread_it_is_on(start):
    """Stopping another actor on this one's thread runs the callbacks of its replies there, too."""
    actor, kernels = start(max_in_flight=1, mailbox_size=1)
    first = actor.ask(message(1))
    kernels.wait_launched()
    waiting = [InThread(actor.ask, message(number)) for number in (2, 3, 4)]
    wait_until(lambda: actor.stats().waiting == 2)
    other = start()[0]
    asking = Callback(other.ask(message(5)), lambda: actor.ask(message(6)))
    stopping = Callback(first, lambda: other.stop(drain=False))
    ending = InThread(kernels.finish, 1)
    assert isinstance(asking.result().error, MailboxFullError)
    assert stopping.result() is None
    ending.result()
    kernels.open()
    assert [thread.result().result(PATIENCE).out for thread in waiting] == [2, 3, 4]
