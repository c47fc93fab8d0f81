"""Executors of the user's own that break their promises: everybody is answered, and told what is wrong."""

import threading

import pytest
from actor_tools import PATIENCE, Kernels, message

from flashactor import FlashAttnActor, FlashAttnProps
from flashactor.actor.restarts import RestartPolicy
from flashactor.errors import ActorFailedError, RequestError
from flashactor.executors.base import Executor, Outcome, Outputs
from flashactor.executors.mock import MockExecutor
from flashactor.testing import ScriptedExecutor


class Nameless(Executor):
    def submit(self, work, done):
        raise AssertionError("never launched")


class Breaking(Executor):
    name = "breaking"

    def submit(self, work, done):
        raise RuntimeError("it breaks")


NO_OUTCOMES = (
    None,
    "done",
    Outcome(),
    Outcome(outputs=5),
    Outcome(error="it failed"),
    Outcome(Outputs(), compile_seconds=None),
    Outcome(Outputs(), launch_seconds="0.1"),
)


class Answering(Executor):
    name = "answering"

    def __init__(self, outcome, *, by_thread):
        self._outcome, self._by_thread = outcome, by_thread

    def submit(self, work, done):
        if self._by_thread:
            threading.Thread(target=done, args=(self._outcome,)).start()
        else:
            done(self._outcome)


@pytest.mark.parametrize("by_thread", [False, True])
@pytest.mark.parametrize("outcome", NO_OUTCOMES, ids=repr)
def test_what_is_no_outcome_is_that_requests_error(start, outcome, by_thread):
    actor, _ = start(Answering(outcome, by_thread=by_thread))
    with pytest.raises(ActorFailedError, match=r"outcome: got .* correct the answering executor"):
        actor.ask(message()).result(PATIENCE)
    assert actor.stats().generation == 1


@pytest.mark.parametrize(
    "executor",
    [MockExecutor(lambda work: "no Outputs"), ScriptedExecutor().call(lambda work: "no Outputs")],
    ids=lambda executor: executor.name,
)
def test_a_script_that_returns_no_outputs_is_told_so(start, executor):
    actor, _ = start(executor)
    with pytest.raises(ActorFailedError, match="a mock's script returns Outputs"):
        actor.ask(message()).result(PATIENCE)


@pytest.mark.parametrize(
    "executor",
    [lambda: None, lambda: Kernels, Nameless, Nameless(), object(), 0, []],
    ids=["None", "a class", "makes nameless", "nameless", "object", "0", "list"],
)
def test_what_is_no_executor_is_refused_where_it_is_given(executor):
    before = threading.enumerate()
    with pytest.raises(RequestError, match=r"^executor: got .* expected (a name, )?an Executor"):
        FlashAttnActor.start(executor=executor)
    assert threading.enumerate() == before


def test_what_is_no_supervisor_is_refused():
    with pytest.raises(RequestError, match=r"^supervisor: got 3"):
        FlashAttnActor.start(executor="mock", supervisor=3)


def test_a_factory_that_makes_none_later_is_a_failure_of_the_actor():
    made = iter([Breaking(), None])
    props = FlashAttnProps(restart=RestartPolicy(max_restarts=1, backoff=0.0), max_in_flight=1)
    with FlashAttnActor.start(props, lambda: next(made)) as actor:
        first, second = actor.ask(message()), actor.ask(message())
        with pytest.raises(ActorFailedError, match="it breaks"):
            first.result(PATIENCE)
        with pytest.raises(ActorFailedError, match="RequestError: executor: got None"):
            second.result(PATIENCE)
