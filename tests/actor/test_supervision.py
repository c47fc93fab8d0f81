"""One actor whose executor or thread fails: what survives, who is told what, and when it is given up."""

import logging
import threading
from time import perf_counter

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, run_script, wait_until
from supervision_tools import (
    AT_ONCE,
    Factory,
    Raising,
    ask_all,
    faulty,
    kinds,
    launched,
    settled,
    start,
)

from flashactor import RestartPolicy
from flashactor.actor import supervisor
from flashactor.actor.deadlines import deadlines
from flashactor.actor.restarts import RestartHistory
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    ContextPoisonedError,
    DeviceUnavailableError,
    RequestError,
)
from flashactor.executors.cuda_errors import poisoned_error, unavailable_error
from flashactor.service import live_actors
from flashactor.testing import Fault

NO_DEVICE = unavailable_error("CUDA_ERROR_NO_DEVICE")
NEVER_AGAIN = RestartPolicy(max_restarts=0)
NOT_SOON = RestartPolicy(backoff=3600.0, max_backoff=3600.0)


# What survives, and who is told.


def test_queued_messages_survive_a_crash_and_are_computed_in_order_exactly_once():
    factory = faulty(Fault.crash(2), held=True)
    with start(factory, max_in_flight=1) as actor:
        pendings = ask_all(actor, 6)
        factory.made[0].kernels.wait_launched()
        factory.made[0].kernels.finish(0)
        factory.wait(2).kernels.open()
        assert kinds(settled(pendings)) == [0, "ActorFailedError", 2, 3, 4, 5]
        assert launched(factory) == [0, 2, 3, 4, 5]
        stats = actor.stats()
        assert (stats.restarts, stats.generation, stats.completed, stats.failed) == (1, 2, 5, 1)


def test_whoever_is_in_flight_hears_that_the_kernel_may_run():
    factory = faulty(Fault.crash(3))
    with start(factory) as actor:
        pendings = ask_all(actor, 3)
        for error in settled(pendings):
            assert isinstance(error, ActorFailedError)
            assert "its kernel still runs, and may write the outputs" in error.remedy
            assert isinstance(error.__cause__, RuntimeError)
            assert not error.retry_safe
        factory.made[0].kernels.finish(0, 1)  # and the end of these is not heard any more
        again = actor.ask(message(7))
        factory.wait(2).kernels.wait_launched()
        factory.made[1].kernels.finish(7)
        assert again.result(PATIENCE).out == 7
        assert actor.stats().completed == 1


def test_a_request_that_a_crash_has_answered_is_answered_once():
    factory = faulty(Fault.crash(2))
    answers = []
    with start(factory) as actor:
        pendings = ask_all(actor, 2)
        for pending in pendings:
            pending.add_done_callback(answers.append)
        settled(pendings)
        factory.made[0].kernels.finish(0)
        actor.ask(message(9))
        factory.wait(2).kernels.wait_launched()
        factory.made[1].kernels.finish(9)
    assert sorted(map(id, answers)) == sorted(map(id, pendings))


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_an_exception_in_prepare_is_that_requests_alone(error):
    factory = Factory(Raising)
    with start(factory) as actor:
        factory.made[0].errors["prepare"] = error
        with pytest.raises(ActorFailedError) as caught:
            actor.ask(message(1)).result(PATIENCE)
        assert caught.value.__cause__ is error
        assert actor.ask(message(2)).result(PATIENCE).out == 2
        assert actor.stats().generation == len(factory.made) == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("no room")], ids=repr)
def test_whatever_an_executor_raises_ends_that_executor_and_nothing_else(error, caplog):
    factory, other = Factory(Raising), Factory(Raising)
    with start(factory) as actor, start(other, label="other") as bystander:
        factory.made[0].errors["submit"] = error
        with pytest.raises(ActorFailedError, match="a failure of its executor") as caught:
            actor.ask(message(1)).result(PATIENCE)
        assert caught.value.__cause__ is error
        assert actor.ask(message(2)).result(PATIENCE).out == 2
        assert bystander.ask(message(3)).result(PATIENCE).out == 3
        assert bystander.stats().generation == 1
        assert [len(factory.made), len(other.made)] == [2, 1]
    assert "executor.failed" in caplog.text


@pytest.mark.parametrize("function", ["close", "abandon"])
def test_an_executor_that_does_not_end_cleanly_holds_up_nobody(function, caplog):
    factory = Factory(Raising)
    actor = start(factory)
    factory.made[0].errors |= {function: SystemExit(1), "submit": RuntimeError("broken")}
    if function == "close":
        del factory.made[0].errors["submit"]
    pendings = ask_all(actor, 2)
    settled(pendings)
    began = perf_counter()
    actor.stop(PATIENCE)
    assert perf_counter() - began < PATIENCE / 2
    assert "executor.end_failed" in caplog.text


def test_a_message_that_meets_a_lost_context_when_it_is_prepared_waits_for_the_next_one():
    factory = Factory(Raising)
    with start(factory) as actor:
        factory.made[0].errors["prepare"] = poisoned_error("an illegal address")
        assert actor.ask(message(1)).result(PATIENCE).out == 1
        assert [each.launched for each in factory.made] == [[], [1]]
        assert actor.stats().failed == 0


def test_an_executor_that_is_given_as_such_is_used_again():
    executor = Raising(submit=RuntimeError("broken"))
    with start(executor) as actor:
        assert kinds(settled(ask_all(actor, 1))) == ["ActorFailedError"]
        assert actor.ask(message(4)).result(PATIENCE).out == 4
        assert actor.stats().generation == 2


def test_the_log_tells_of_failure_and_restart(caplog):
    factory = faulty(Fault.crash(1), held=False)
    with caplog.at_level(logging.WARNING, "flashactor"), start(factory, label="alpha") as actor:
        settled([actor.ask(message(0))])
        wait_until(lambda: "actor.restarted" in caplog.text, "the restart")
    events = [record.event for record in caplog.records if record.name == "flashactor.supervisor"]
    assert ["actor.failed" in events[0], "actor.restarted" in events[1], len(events)] == [True, True, 2]


# When it is restarted.


def test_the_wait_before_a_restart_doubles_up_to_a_limit():
    history = RestartHistory(RestartPolicy(max_restarts=5, within=10.0, backoff=0.1, max_backoff=0.5))
    assert [history.next_delay(1.0) for _ in range(6)] == [0.1, 0.2, 0.4, 0.5, 0.5, None]


def test_a_thousand_failures_wait_no_longer_than_the_limit():
    history = RestartHistory(RestartPolicy(max_restarts=2000, backoff=0.1, max_backoff=0.5))
    assert [history.next_delay(0.0) for _ in range(2000)][3:] == [0.5] * 1997


def test_failures_older_than_the_window_are_forgotten():
    history = RestartHistory(RestartPolicy(max_restarts=2, within=10.0, backoff=0.1))
    assert [history.next_delay(now) for now in (0.0, 5.0, 9.9)] == [0.1, 0.2, None]
    assert history.next_delay(10.0) == 0.2  # that of 5.0 still counts
    assert history.next_delay(30.0) == 0.1


def test_a_policy_of_no_restarts():
    assert RestartHistory(NEVER_AGAIN).next_delay(0.0) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_restarts", -1),
        ("max_restarts", 1.5),
        ("within", -1.0),
        ("backoff", float("inf")),
        ("backoff", "1"),
        ("within", True),
        ("max_backoff", 1e300),
        ("backoff", 10**400),
    ],
)
def test_the_numbers_of_a_policy(field, value):
    with pytest.raises(RequestError, match=rf"RestartPolicy\.{field}: got "):
        RestartPolicy(**{field: value})


def test_the_supervisor_waits_as_the_policy_says():
    factory = faulty(
        Fault.crash(
            1,
        ),
        Fault.crash(2),
        held=False,
    )
    with start(factory, RestartPolicy(backoff=0.05)) as actor:
        began = perf_counter()
        settled([actor.ask(message(0))])
        settled([actor.ask(message(1))])
        assert actor.ask(message(2)).result(PATIENCE).out == 2
        assert perf_counter() - began >= 0.05 + 0.1


# When it is given up.


def test_after_too_many_failures_it_is_given_up(caplog):
    factory = Factory(lambda: Raising(submit=RuntimeError("broken")))
    actor = start(factory, RestartPolicy(max_restarts=2, backoff=0.0), max_in_flight=1)
    pendings = ask_all(actor, 6)
    answers = settled(pendings)
    assert kinds(answers) == ["ActorFailedError"] * 6
    for in_flight in answers[:3]:
        assert not in_flight.retry_safe
    for queued in answers[3:]:
        assert queued.got == "failure 3 within 60 s: RuntimeError: broken"
        assert "was not launched" in queued.remedy
        assert queued.retry_safe
    assert not actor.is_alive
    with pytest.raises(ActorFailedError, match="failure 3") as later:
        actor.ask(message(9)).result(PATIENCE)
    assert later.value.retry_safe
    assert later.value is not actor.failure
    stats = actor.stats()
    assert (stats.received, stats.failed, stats.pending, stats.queued, stats.in_flight) == (7, 7, 0, 0, 0)
    assert (stats.restarts, stats.generation) == (2, 3)
    wait_until(lambda: actor not in live_actors(), "the end")
    assert "actor.given_up" in caplog.text
    actor.stop()


def test_a_factory_that_fails_counts_as_a_failure():
    factory = faulty(Fault.crash(1), held=False)
    with start(factory, max_in_flight=1) as actor:
        factory.failures += [NO_DEVICE, SystemExit(1)]
        assert kinds(settled(ask_all(actor, 3))) == ["ActorFailedError", 1, 2]
        assert actor.stats().generation == len(factory.made) == 2
        factory.failures += [NO_DEVICE]
        actor._life.fail(RuntimeError("one more"))
        wait_until(lambda: not actor.is_alive, "the fourth failure")
        assert isinstance(actor.failure.__cause__, RuntimeError)


def test_a_factory_that_goes_on_failing():
    factory = faulty(Fault.crash(1), held=False)
    with start(factory, max_in_flight=1) as actor:
        factory.failures += [NO_DEVICE] * 3
        answers = settled(ask_all(actor, 3))
        assert kinds(answers) == ["ActorFailedError"] * 3
        assert [answer.retry_safe for answer in answers] == [False, True, True]
        assert isinstance(answers[1].__cause__, DeviceUnavailableError)


def test_a_first_executor_that_cannot_be_made_is_an_error_of_start():
    factory = Factory()
    factory.failures.append(NO_DEVICE)
    before = live_actors()
    with pytest.raises(DeviceUnavailableError):
        start(factory)
    assert live_actors() == before


def test_contexts_that_are_lost_again_and_again_give_the_actor_up():
    factory = Factory(lambda: faulty(Fault.poison(1))())
    with start(factory, RestartPolicy(max_restarts=1, backoff=0.0), max_in_flight=1) as actor:
        answers = settled(ask_all(actor, 4))
    assert kinds(answers) == ["ContextPoisonedError"] * 2 + ["ActorFailedError"] * 2
    assert all(answer.retry_safe for answer in answers)
    assert isinstance(answers[2].__cause__, ContextPoisonedError)


# Stopping meanwhile.


def test_a_drain_waits_for_the_restart_and_does_the_rest():
    factory = faulty(Fault.crash(1), held=False)
    actor = start(factory, RestartPolicy(backoff=0.1), max_in_flight=1)
    pendings = ask_all(actor, 4)
    pendings[0].wait(PATIENCE)
    actor.stop(PATIENCE)
    assert kinds(settled(pendings)) == ["ActorFailedError", 1, 2, 3]
    assert len(factory.made) == 2


@pytest.mark.parametrize("stop", [{"drain": False}, {"timeout": 0.05}], ids=str)
def test_a_stop_that_does_not_wait_for_the_restart_answers_what_is_queued(stop):
    factory = faulty(Fault.crash(1), held=False)
    actor = start(factory, NOT_SOON, max_in_flight=1)
    pendings = ask_all(actor, 3)
    pendings[0].wait(PATIENCE)
    actor.stop(**stop)
    answers = settled(pendings)
    assert kinds(answers) == ["ActorFailedError", "ActorStoppedError", "ActorStoppedError"]
    assert answers[2].retry_safe
    assert len(factory.made) == 1


def test_a_drain_ends_when_the_actor_is_given_up():
    factory = faulty(Fault.crash(2))
    actor = start(factory, NEVER_AGAIN, max_in_flight=1)
    pendings = ask_all(actor, 3)
    factory.made[0].kernels.wait_launched()
    stopping = InThread(actor.stop, None)
    wait_until(lambda: not actor.is_alive, "the stop")
    factory.made[0].kernels.finish(0)
    stopping.result()
    assert kinds(settled(pendings)) == [0, "ActorFailedError", "ActorFailedError"]


def test_a_stop_while_the_next_executor_is_made_ends_that_one_too():
    entered, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Closing(Kernels):
        def close(self):
            closed.set()

    def make():
        if not made:
            made.append(Raising(submit=RuntimeError("broken")))
            return made[0]
        entered.set()
        assert go_on.wait(PATIENCE)
        return Closing()

    made = []
    actor = start(make, AT_ONCE)
    settled([actor.ask(message(0))])
    assert entered.wait(PATIENCE)
    late = actor.ask(message(1))
    actor.stop(drain=False)
    with pytest.raises(ActorStoppedError):
        late.result(PATIENCE)
    go_on.set()
    assert closed.wait(PATIENCE)


def test_pykkas_registry_may_stop_everything():
    """It knows the threads of actors; who waits for one is answered."""
    printed = run_script(
        """
import pykka
kernels = Kernels(held=False)
actor = FlashAttnActor.start(FlashAttnProps(), kernels)
assert actor.ask(message(1)).result(PATIENCE).out == 1
pykka.ActorRegistry.stop_all()
wait_until(lambda: not actor.is_alive)
late = actor.ask(message(2))
late.wait(PATIENCE)
print(type(late.error).__name__)
actor.stop()
"""
    )
    assert printed == ["ActorStoppedError"]


def test_pykkas_registry_does_not_keep_a_restart_from_happening():
    printed = run_script(
        """
import logging
import pykka
from supervision_tools import Raising
from flashactor import RestartPolicy
logging.disable()
made = iter([Raising(submit=OSError("broken"))])
props = FlashAttnProps(restart=RestartPolicy(backoff=0.3))
with FlashAttnActor.start(props, lambda: next(made, None) or Kernels(held=False)) as actor:
    actor.ask(message(0)).wait(PATIENCE)
    pending = actor.ask(message(1))
    pykka.ActorRegistry.stop_all()
    print(pending.result(PATIENCE).out)
"""
    )
    assert printed == ["1"]


@pytest.mark.parametrize("thread", ["Supervisor", "flashactor-deadlines"])
def test_where_there_are_no_more_threads_everyone_is_answered(thread, monkeypatch):
    """The supervisor has none: it tries again while there are deadlines, and else gives up."""
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.05)
    made = iter([Raising(submit=RuntimeError("broken"))])
    factory = Factory(lambda: next(made, None) or Kernels(held=False))
    begin, refused = threading.Thread.start, []

    def refuse(self):
        if thread in self.name and len(refused) < 2:
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        begin(self)

    with start(factory) as actor:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        if thread == "flashactor-deadlines":
            monkeypatch.setattr(deadlines, "_thread", None)
        answers = settled(ask_all(actor, 2))
        monkeypatch.undo()
        expected = 1 if thread == "Supervisor" else "ActorFailedError"
        assert (kinds(answers), len(refused)) == (["ActorFailedError", expected], 2)
