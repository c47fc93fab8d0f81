"""Executors that do not come back: kernels that never end, launches and preparations that never return."""

import threading

import pytest
from actor_tools import PATIENCE, Compiling, InThread, Kernels, message, number_of, wait_until
from supervision_tools import AT_ONCE, Factory, Stuck, ask_all, faulty, kinds, launched, settled, start

from flashactor import DeviceActor, FlashAttnProps
from flashactor.actor import incarnation
from flashactor.actor.incarnation import DispatchActor
from flashactor.actor.reply import PendingReply
from flashactor.errors import ActorFailedError, RequestError
from flashactor.executors.cuda_errors import poisoned_error
from flashactor.testing import Fault

HANGS = 0.05
"""After so many seconds a kernel counts as hung."""


@pytest.fixture(autouse=True)
def _threads_are_left_soon(monkeypatch):
    monkeypatch.setattr(incarnation, "STUCK_SECONDS", 0.05)


def test_a_kernel_that_never_ends_is_answered_and_the_rest_goes_on():
    factory = faulty(Fault.hang(2), held=False)
    with start(factory, max_in_flight=1, hang_seconds=HANGS) as actor:
        answers = settled(ask_all(actor, 4))
        assert kinds(answers) == [0, "ActorFailedError", 2, 3]
        error = answers[1]
        assert "a launched request that is not done after 0.05 s" in error.got
        assert "its kernel still runs" in error.remedy
        assert not error.retry_safe
        assert actor.stats().restarts == 1
        assert len(factory.made) == 2


def test_a_kernel_that_ends_in_time_is_no_failure():
    factory = faulty(Fault.slow(1, HANGS / 5), held=False)
    with start(factory, hang_seconds=HANGS) as actor:
        assert kinds(settled(ask_all(actor, 3))) == [0, 1, 2]
        late = actor.ask(message(3), timeout=2 * HANGS, after=never())  # by then the limits have come
        settled([late])
        assert actor.stats().generation == 1


def never():
    """A reply that does not come."""
    return PendingReply()


def test_without_a_limit_a_kernel_may_take_as_long_as_it_likes():
    factory = faulty(Fault.hang(1))
    with start(factory) as actor:
        pending = actor.ask(message(0))
        pending.launched.result(PATIENCE)
        with pytest.raises(TimeoutError):
            pending.result(2 * HANGS)
        assert actor.stats().generation == 1
        actor.stop(drain=False)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), "1", True, 1e300, 10**400])
def test_the_limit_is_a_number_of_seconds(seconds):
    with pytest.raises(RequestError, match=r"^hang_seconds: got "):
        FlashAttnProps(hang_seconds=seconds)


@pytest.mark.parametrize("refusing", [False, True], ids=["launches late", "refuses late"])
def test_a_launch_that_never_returns_costs_its_own_message_and_its_thread(refusing):
    stuck = Stuck(submitting=1, refusing=refusing)
    made = iter([stuck])
    factory = Factory(lambda: next(made, None) or Stuck())
    with start(factory, hang_seconds=HANGS) as actor:
        pendings = ask_all(actor, 4)
        answers = settled(pendings)
        assert kinds(answers) == [0, "ActorFailedError", 2, 3]
        assert not answers[1].retry_safe
        stats = actor.stats()
        assert stats.generation == 2
        # The old thread comes back, and does no harm.
        stuck.release.set()
        stuck.thread.join(PATIENCE)
        assert not stuck.thread.is_alive()
        assert actor.ask(message(4)).result(PATIENCE).out == 4
        assert pendings[1].error is answers[1]
        after = actor.stats()
        assert (after.failed, after.generation, after.in_flight) == (1, 2, 0)
        assert after.completed == stats.completed + 1
        assert factory.made[1].launched == [2, 3, 4]


def test_a_preparation_that_never_returns_keeps_no_message():
    """Another child has lost the context meanwhile: all begin again, this one's thread cannot."""
    stuck = Stuck(preparing=1)
    made = iter([stuck])
    factory = Factory(lambda: next(made, None) or Stuck())
    with DeviceActor.start(0, restart=AT_ONCE) as device:
        actor = device.spawn(executor=factory)
        other = device.spawn(executor=faulty(Fault.poison(1), held=False))
        pendings = ask_all(actor, 4)
        assert stuck.entered.wait(PATIENCE)
        assert kinds(settled([other.ask(message(0))])) == ["ContextPoisonedError"]
        assert kinds(settled(pendings)) == [0, 1, 2, 3]
        stuck.release.set()
        stuck.thread.join(PATIENCE)
        assert not stuck.thread.is_alive()
        assert actor.ask(message(4)).result(PATIENCE).out == 4
        assert launched(factory) == [0, 1, 2, 3, 4]
        stats = actor.stats()
        assert (stats.received, stats.completed, stats.queued, stats.in_flight) == (5, 5, 0, 0)


def test_a_thread_that_is_left_between_a_message_and_its_launch_loses_nothing(monkeypatch):
    taken, go_on, launch = threading.Event(), threading.Event(), DispatchActor._launch

    def launch_late(self, ask):
        if ask.generation == 1 and not ask.desk.ledger.in_flight and taken_out:
            taken.set()
            assert go_on.wait(PATIENCE)
        taken_out.append(ask)
        launch(self, ask)

    taken_out = []
    monkeypatch.setattr(DispatchActor, "_launch", launch_late)
    factory = Factory()
    with start(factory, max_in_flight=1) as actor:
        pendings = ask_all(actor, 4)
        factory.made[0].wait_prepared(3)
        factory.made[0].finish(0)
        assert taken.wait(PATIENCE)
        actor._life.fail(OSError("broken"))
        factory.wait(2).open()
        assert kinds(settled([pendings[0], *pendings[2:]])) == [0, 2, 3]
        go_on.set()
        (error,) = settled([pendings[1]])
        assert "a thread that did not notice in time: OSError: broken" in error.got
        assert error.retry_safe
        assert launched(factory) == [0, 2, 3]
        assert actor.stats().in_flight == 0


def test_what_a_thread_that_was_left_prepares_is_not_launched():
    stuck = Stuck(preparing=0)
    made = iter([stuck])
    factory = Factory(lambda: next(made, None) or Kernels(held=False, not_ready=[0]))
    with start(factory) as actor:
        pending = actor.ask(message(0))
        assert stuck.entered.wait(PATIENCE)
        actor._life.fail(RuntimeError("of another thread"))
        replacing = factory.wait(2)
        replacing.wait_prepared(0)
        stuck.release.set()
        stuck.thread.join(PATIENCE)
        replacing.deliver(0)
        assert pending.result(PATIENCE).out == 0
        assert [type(work) for work in replacing.works] == [Compiling]


def test_stop_leaves_a_thread_that_is_stuck():
    stuck = Stuck(submitting=0)
    actor = start(Factory(lambda: stuck))
    pending = actor.ask(message(0))
    assert stuck.entered.wait(PATIENCE)
    actor.stop(HANGS)
    assert kinds(settled([pending])) == ["ActorStoppedError"]
    assert not pending.error.retry_safe
    stuck.release.set()
    stuck.thread.join(PATIENCE)
    assert not stuck.thread.is_alive()


def test_hangs_count_for_the_policy():
    factory = faulty(Fault.hang(1), Fault.hang(2), Fault.hang(3), Fault.hang(4))
    with start(factory, hang_seconds=HANGS, max_in_flight=1) as actor:
        answers = settled(ask_all(actor, 5))
        assert kinds(answers) == ["ActorFailedError"] * 5
        assert "failure 4 within 60 s: ActorFailedError: hang_seconds" in answers[4].got
        assert isinstance(answers[4].__cause__, ActorFailedError)
        wait_until(lambda: not actor.is_alive, "the end")


def test_a_lost_context_that_an_executor_reports_after_it_was_left_is_not_heard():
    factory = Factory()
    with start(factory, hang_seconds=HANGS) as actor:
        settled([actor.ask(message(0))])
        factory.wait(2)
        factory.made[0].fail(0, poisoned_error("an illegal address"))
        pending = actor.ask(message(1))
        factory.made[1].wait_launched()
        factory.made[1].finish(1)
        assert pending.result(PATIENCE).out == 1
        assert actor.stats().generation == 2


class FailsMeanwhile(Kernels):
    """Another thread finds that the actor has failed while it prepares number 1; 1 to 3 come at once."""

    def submit(self, work, done):
        self.pendings = [self.actor.ask(message(number)) for number in (1, 2, 3)]
        super().submit(work, done)

    def prepare(self, work):
        if number_of(work) == 1:
            self.actor._life.fail(OSError("broken"))
        return super().prepare(work)


def test_a_thread_whose_incarnation_has_failed_takes_no_more_messages():
    first = FailsMeanwhile()
    made = iter([first])
    factory = Factory(lambda: next(made, None) or Kernels(held=False))
    with start(factory) as actor:
        first.actor = actor
        assert kinds(settled([actor.ask(message(0))])) == ["ActorFailedError"]
        assert kinds(settled(first.pendings)) == [1, 2, 3]
        assert first.prepared == [0, 1]
        assert factory.made[1].prepared == [1, 2, 3]


def test_a_message_whose_preparation_was_stuck_stays_behind_its_callers_others():
    stuck = Stuck(preparing=2)
    stuck._held = True
    made = iter([stuck])
    factory = Factory(lambda: next(made, None) or Kernels(held=False))
    with start(factory, max_in_flight=1) as actor:
        pendings = ask_all(actor, 4)
        assert stuck.entered.wait(PATIENCE)
        actor._life.fail(OSError("broken"))
        assert kinds(settled(pendings)) == ["ActorFailedError", 1, 2, 3]
        assert launched(factory) == [0, 1, 2, 3]
        stuck.release.set()


def test_a_thread_that_was_left_in_a_callback_takes_no_message():
    """The callback of a refused message does not return; the thread after it is busy when it does."""
    entered, go_on, asked, launching, launched_it = (threading.Event() for _ in range(5))

    class Refusing(Kernels):
        def prepare(self, work):
            if number_of(work) == 0:
                assert asked.wait(PATIENCE)
            if number_of(work) == 1:
                raise RequestError("q", "this", "that", "another")
            return super().prepare(work)

        def submit(self, work, done):
            super().submit(work, done)
            if number_of(work) == 2:
                launching.set()
                assert launched_it.wait(PATIENCE)

    def wait(_):
        entered.set()
        assert go_on.wait(PATIENCE)

    factory = Factory(Refusing)
    with start(factory) as actor:
        pendings = ask_all(actor, 2)
        pendings[1].add_done_callback(wait)
        asked.set()
        assert entered.wait(PATIENCE)
        left = actor._life._incarnation.thread
        actor._life.fail(OSError("broken"))
        factory.wait(2)
        pendings += [actor.ask(message(number)) for number in (2, 3)]
        assert launching.wait(PATIENCE)
        go_on.set()
        left.join(PATIENCE)
        launched_it.set()
        factory.made[1].open()
        assert kinds(settled(pendings)) == ["ActorFailedError", "RequestError", 2, 3]


class FailsWhileItPreparesTwo(Kernels):
    """Another thread finds that the actor has failed while it prepares number 2."""

    def prepare(self, work):
        if number_of(work) == 2:
            self.actor._life.fail(OSError("broken"))
        return super().prepare(work)


def test_a_failure_while_the_next_message_comes_in_loses_no_other():
    first = FailsWhileItPreparesTwo()
    made = iter([first])
    factory = Factory(lambda: next(made, None) or Kernels(held=False))
    with start(factory, max_in_flight=1, mailbox_size=1) as actor:
        first.actor = actor
        pendings = [actor.ask(message(0)), actor.ask(message(1))]
        first.wait_prepared(1)
        waiting = InThread(actor.ask, message(2))
        wait_until(lambda: actor.stats().waiting == 1)
        first.finish(0)  # 1 leaves the mailbox, and 2 comes in
        pendings.append(waiting.result())
        assert kinds(settled(pendings)) == [0, "ActorFailedError", 2]
        assert launched(factory) == [0, 1, 2]
