"""Injected faults: which launches they hit, what they look like, and that a seed repeats them."""

from time import monotonic

import pytest
from kit_tools import SMALL, Answers, ManualExecutor, work_of

from flashactor.errors import (
    CompileError,
    ContextPoisonedError,
    LaunchError,
    OutOfMemoryError,
    RequestError,
)
from flashactor.executors.base import Outcome, Outputs
from flashactor.testing import (
    Fault,
    FaultInjectingExecutor,
    FaultKind,
    FaultPlan,
    Injected,
    ScriptedExecutor,
)


def faulty(*faults, **arguments):
    return FaultInjectingExecutor(ScriptedExecutor().reply(out="o"), *faults, **arguments)


@pytest.fixture
def answers():
    return Answers()


def test_without_faults_it_is_the_inner_executor(answers):
    executor = faulty()
    answers.submit(executor, SMALL)
    assert answers.outs == ["o"]
    assert (executor.name, executor.arch, executor.renewable) == ("scripted", None, True)
    assert executor.plan.injected == ()


def test_a_failed_launch(answers):
    executor = faulty(Fault.fail_launch(2))
    answers.submit(executor, *[SMALL] * 3)
    assert answers.outs == ["o", LaunchError, "o"]
    assert "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES while launching" in str(answers.outcomes[1].error)
    assert executor.plan.injected == (Injected(2, FaultKind.FAIL_LAUNCH),)


def test_out_of_memory_several_times(answers):
    answers.submit(faulty(Fault.out_of_memory(1, times=2)), *[SMALL] * 3)
    assert answers.outs == [OutOfMemoryError, OutOfMemoryError, "o"]
    assert answers.outcomes[0].error.retry_safe


def test_a_poison_stays(answers):
    executor = faulty(Fault.poison(2))
    answers.submit(executor, SMALL, SMALL)
    executor.submit(work_of(SMALL), answers.outcomes.append)  # prepared before the poison
    assert answers.outs == ["o", ContextPoisonedError, ContextPoisonedError]
    assert "CUDA_ERROR_ILLEGAL_ADDRESS while launching" in str(answers.outcomes[1].error)
    assert str(answers.outcomes[2].error.got).endswith("earlier")
    assert [outcome.refused for outcome in answers.outcomes] == [False, False, True]
    assert not answers.outcomes[1].error.retry_safe
    with pytest.raises(ContextPoisonedError, match="earlier"):
        executor.prepare(work_of(SMALL))


def test_a_compile_error_is_of_the_nth_that_is_prepared(answers):
    executor = faulty(Fault.compile_error(2))
    executor.prepare(work_of(SMALL))
    with pytest.raises(CompileError, match="an injected error in flashactor::fa2") as caught:
        executor.prepare(work_of(SMALL))
    assert "error: injected" in caught.value.log
    answers.submit(executor, SMALL)
    assert answers.outs == ["o"]
    assert executor.plan.injected == (Injected(2, FaultKind.COMPILE_ERROR),)


def test_a_crash_comes_out_of_submit(answers):
    executor = faulty(Fault.crash(1))
    with pytest.raises(RuntimeError, match="the executor broke on flashactor"):
        answers.submit(executor, SMALL)
    answers.submit(executor, SMALL)
    assert answers.outs == ["o"]


def test_a_slow_one_holds_up_those_behind_it(answers):
    executor = faulty(Fault.slow(2, 0.05))
    began = monotonic()
    answers.submit(executor, *[SMALL] * 3)
    assert answers.outs == ["o"]
    executor.close()
    assert answers.outs == ["o"] * 3
    assert monotonic() - began >= 0.05


def test_a_hanging_one_and_those_behind_it_are_never_answered(answers):
    executor = faulty(Fault.hang(2))
    answers.submit(executor, *[SMALL] * 3)
    executor.close()
    assert answers.outs == ["o"]


def test_answers_come_in_the_order_of_launches_though_the_inner_executor_has_another(answers):
    inner = ManualExecutor()
    executor = FaultInjectingExecutor(inner, Fault.hang(3))
    answers.submit(executor, *[SMALL] * 4)
    for number in (2, 1, 0):  # the hanging one was not passed on, so the last is the third
        inner.dones[number](Outcome(outputs=Outputs(out=number)))
    executor.close()
    assert answers.outs == [0, 1]
    assert inner.closed


def test_abandon_answers_nothing(answers):
    inner = ManualExecutor()
    executor = FaultInjectingExecutor(inner, Fault.slow(1, 60.0))
    answers.submit(executor, SMALL)
    inner.dones[0](Outcome(outputs=Outputs()))
    executor.abandon()
    executor.close()
    assert answers.outs == []
    assert inner.abandoned


def test_the_first_fault_in_the_plan_wins(answers):
    answers.submit(faulty(Fault.out_of_memory(1), Fault.fail_launch(1)), SMALL)
    assert answers.outs == [OutOfMemoryError]


def test_a_shared_plan_goes_on(answers):
    plan = FaultPlan(Fault.fail_launch(2))
    answers.submit(faulty(plan=plan), SMALL)
    answers.submit(faulty(plan=plan), SMALL, SMALL)
    answers.submit(faulty(plan=plan), SMALL, SMALL)
    assert answers.outs == ["o", LaunchError, "o", "o", "o"]


def test_renewable_is_the_tests_to_say():
    assert not faulty(renewable=False).renewable
    inner = ManualExecutor()
    inner.renewable = False
    assert not FaultInjectingExecutor(inner).renewable


def drawn(seed, rate=0.2, number=500, kinds=("fail_launch", "out_of_memory")):
    plan = FaultPlan(Fault.randomly(rate, seed, kinds))
    for _ in range(number):
        plan.next_launch()
        plan.next_compile()
    return plan.injected


def test_a_seed_repeats_and_another_does_not():
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_rate_is_kept():
    assert drawn(1, rate=0.0) == ()
    assert len(drawn(1, rate=1.0)) == 500
    assert 60 <= len(drawn(1, rate=0.2)) <= 140  # 100 +- 4.5 standard deviations
    kinds = [kind for _, kind in drawn(1)]
    assert {FaultKind.FAIL_LAUNCH, FaultKind.OUT_OF_MEMORY} == set(kinds)


def test_compiles_do_not_change_what_launches_draw():
    both = FaultPlan(Fault.randomly(0.5, 7, ("slow", "compile_error")))
    launches_only = FaultPlan(Fault.randomly(0.5, 7, ("slow", "compile_error")))
    for _ in range(100):
        both.next_compile()
        assert both.next_launch() == launches_only.next_launch()
    assert FaultKind.COMPILE_ERROR in {kind for _, kind in both.injected}
    assert {kind for _, kind in launches_only.injected} == {FaultKind.SLOW}


def test_random_slow_kernels_take_their_seconds():
    plan = FaultPlan(Fault.randomly(1.0, 1, ["slow"], seconds=0.5))
    assert plan.next_launch() == Fault.slow(1, 0.5)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Fault.hang(0), "nth"),
        (lambda: Fault.hang("1"), "nth"),
        (lambda: Fault.out_of_memory(1, times=0), "times"),
        (lambda: Fault.slow(1, -0.5), "seconds"),
        (lambda: Fault.slow(1, float("inf")), "seconds"),
        (lambda: Fault.randomly(1.5, 1), "rate"),
        (lambda: Fault.randomly(0.5, 1, ["nonsense"]), "kinds"),
        (lambda: Fault.randomly(0.5, 1, []), "kinds"),
        (lambda: Fault.randomly(0.5, 1, seconds=-1.0), "seconds"),
    ],
)
def test_what_a_fault_cannot_be(make, field):
    with pytest.raises(RequestError) as caught:
        make()
    assert caught.value.field == field
