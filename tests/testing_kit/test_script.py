"""Rules of a scripted executor: which one answers, when, and in which order."""

import threading
from time import monotonic

import pytest
from kit_tools import BACKWARD, LARGE, SMALL, Answers

from flashactor.errors import (
    AskTimeoutError,
    LaunchError,
    MockModeError,
    NoKernelError,
    OutOfMemoryError,
    RequestError,
)
from flashactor.executors.base import Outputs
from flashactor.executors.mock import MockExecutor
from flashactor.testing import (
    Fault,
    FaultInjectingExecutor,
    FaultKind,
    FaultPlan,
    Recorder,
    ScriptedExecutor,
    matching,
)


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def script():
    executor = ScriptedExecutor()
    yield executor
    executor.close()


def test_without_a_rule_it_is_a_mock(script, answers):
    answers.submit(script, SMALL)
    assert answers.outs == [MockModeError]
    assert "no rule for flashactor::fa2::fwd<bf16, 64, causal>" in str(answers.outcomes[0].error)


def test_one_reply_for_all(script, answers):
    script.reply(out="o", lse="l")
    answers.submit(script, SMALL, LARGE)
    assert [outcome.outputs for outcome in answers.outcomes] == [Outputs(out="o", lse="l")] * 2


def test_a_sequence_and_what_comes_after_it(script, answers):
    script.reply(out=1, times=1).fail(OutOfMemoryError, times=2).reply(out=2)
    answers.submit(script, *[SMALL] * 5)
    assert answers.outs == [1, OutOfMemoryError, OutOfMemoryError, 2, 2]


def test_a_sequence_that_is_over(script, answers):
    script.reply(out=1, times=1)
    answers.submit(script, SMALL, SMALL)
    assert answers.outs == [1, MockModeError]


def test_by_condition_the_first_rule_that_fits(script, answers):
    script.reply(out="bwd", when=matching(type(BACKWARD)))
    script.reply(out="small", when=matching(head_dim=64))
    script.reply(out="large")
    answers.submit(script, LARGE, SMALL, BACKWARD)
    assert answers.outs == ["large", "small", "bwd"]


def test_a_function_answers_or_raises(script, answers):
    def function(work):
        if work.key.head_dim == 128:
            raise ValueError("too large")
        return Outputs(out=work.kernel_name)

    script.call(function)
    answers.submit(script, SMALL, LARGE)
    assert answers.outs == ["flashactor::fa2::fwd<bf16, 64, causal>", ValueError]


def test_a_condition_that_raises_is_the_answer(script, answers):
    def condition(work):
        raise KeyError(work.kernel_name)

    script.reply(when=condition)
    answers.submit(script, SMALL)
    assert answers.outs == [KeyError]


def test_errors_of_a_type_are_new_and_an_instance_is_that_one(script, answers):
    mine = ValueError("mine")
    script.fail(LaunchError, times=2).fail(mine, times=1).fail(TypeError)
    answers.submit(script, *[SMALL] * 4)
    first, second, third, fourth = [outcome.error for outcome in answers.outcomes]
    assert first is not second
    assert first.retry_safe
    assert "fa2::fwd<bf16, 64, causal>" in str(first)
    assert third is mine
    assert type(fourth) is TypeError


def test_an_error_type_that_needs_more_is_refused_where_it_is_written(script):
    with pytest.raises(TypeError, match="reasons"):
        script.fail(NoKernelError)


def test_a_delay_is_a_delay(script, answers):
    script.reply(out=1, delay=0.05)
    began = monotonic()
    answers.submit(script, SMALL)
    assert answers.outs == []
    script.close()
    assert answers.outs == [1]
    assert monotonic() - began >= 0.05


def test_nothing_overtakes_what_is_delayed(script, answers):
    script.reply(out="late", times=1, delay=0.05).reply(out="early")
    answers.submit(script, SMALL, SMALL, SMALL)
    assert answers.outs == []
    script.close()
    assert answers.outs == ["late", "early", "early"]


def test_a_gate_holds_until_it_is_released(script, answers):
    script.reply(out=1)
    gate = script.hold()
    answers.submit(script, SMALL, SMALL)
    assert (answers.outs, gate.held, gate.is_open) == ([], 2, False)
    gate.release()
    script.close()
    assert answers.outs == [1, 1]


def test_a_released_gate_holds_nothing_that_comes_later(script, answers):
    script.reply(out=1)
    with script.hold() as gate:
        pass
    answers.submit(script, SMALL)
    assert (answers.outs, gate.held) == ([1], 0)


def test_a_gate_for_some_holds_what_is_behind_them_too(script, answers):
    script.reply(out="large", when=matching(head_dim=128)).reply(out="small")
    gate = script.hold(when=matching(head_dim=128))
    answers.submit(script, SMALL, LARGE, SMALL)
    assert (answers.outs, gate.held) == (["small"], 1)
    gate.release()
    script.close()
    assert answers.outs == ["small", "large", "small"]


def test_waiting_at_a_gate(script, answers):
    script.reply()
    gate = script.hold()
    thread = threading.Thread(target=answers.submit, args=(script, SMALL))
    thread.start()
    gate.wait(held=1)
    thread.join()
    with pytest.raises(AskTimeoutError, match=r"got 1 after 0\.01 s; expected at least 2"):
        gate.wait(held=2, timeout=0.01)


def test_close_releases_and_the_script_goes_on_afterwards(script, answers):
    script.reply(out=1)
    script.hold()
    answers.submit(script, SMALL)
    script.close()
    answers.submit(script, SMALL)
    assert answers.outs == [1, 1]


def test_abandon_answers_nothing_and_ends_its_thread(script, answers):
    script.reply(out=1)
    gate = script.hold()
    before = threading.active_count()
    answers.submit(script, SMALL, SMALL)
    assert threading.active_count() == before + 1
    script.abandon()
    gate.release()
    script.close()
    assert answers.outs == []
    assert threading.active_count() == before


def test_clear_forgets_rules_and_releases(script, answers):
    script.reply(out=1)
    gate = script.hold()
    answers.submit(script, SMALL)
    script.clear()
    assert gate.is_open
    script.reply(out=2)
    answers.submit(script, SMALL)
    script.close()
    assert answers.outs == [1, 2]


def test_answers_keep_their_order_whoever_answers():
    """Delays among immediate answers: the order of the launches is that of the answers."""
    script, answers = ScriptedExecutor(), Answers()
    for number in range(200):
        script.reply(out=number, times=1, delay=0.001 if number % 7 == 0 else 0.0)
    answers.submit(script, *[SMALL] * 200)
    script.close()
    assert answers.outs == list(range(200))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"ouch": 1}, "ouch"),
        ({"times": 0}, "times"),
        ({"times": 1.5}, "times"),
        ({"delay": -1}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"delay": 1e300}, "delay"),
        ({"when": "always"}, "when"),
    ],
)
def test_what_a_rule_cannot_be(script, arguments, field):
    with pytest.raises(RequestError) as caught:
        script.reply(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("write", "field"),
    [
        (lambda script: script.call(None), "function"),
        (lambda script: script.call(Outputs()), "function"),
        (lambda script: script.fail("it failed"), "error"),
        (lambda script: script.fail(int), "error"),
        (lambda script: script.hold(when="always"), "when"),
        (lambda script: MockExecutor(Outputs()), "script"),
        (lambda script: Recorder().watch(None), "inner"),
        (lambda script: FaultInjectingExecutor(ScriptedExecutor), "inner"),
        (lambda script: FaultInjectingExecutor(script, "crash"), "faults"),
        (lambda script: FaultPlan(FaultKind.CRASH), "faults"),
        (lambda script: Fault.randomly(0.5, seed=None), "seed"),
        (lambda script: Fault.randomly(0.5, seed=1, kinds=None), "kinds"),
    ],
)
def test_nonsense_is_refused_where_it_is_written(script, write, field):
    with pytest.raises(RequestError, match=f"^{field}: got "):
        write(script)


def test_a_rule_that_nothing_reaches_is_refused(script):
    script.reply(out=1)
    with pytest.raises(RequestError, match="a rule that can be reached"):
        script.fail(LaunchError, times=1)
