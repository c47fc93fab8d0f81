"""What a recorder keeps, and how its assertions fail."""

import threading

import pytest
from kit_tools import BACKWARD, LARGE, SMALL, Answers, ManualExecutor, work_of

from flashactor import Fa2BwdRequest, SmArch
from flashactor.errors import AskTimeoutError, LaunchError, RequestError
from flashactor.executors.base import Outcome, Outputs
from flashactor.testing import Recorder, ScriptedExecutor, matching

SMALL_NAME = "flashactor::fa2::fwd<bf16, 64, causal>"


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def executor(recorder):
    script = ScriptedExecutor().fail(LaunchError, when=matching(head_dim=128)).reply(out="o")
    return recorder.watch(script)


def test_it_keeps_requests_and_outcomes_in_order(recorder, executor):
    Answers().submit(executor, SMALL, LARGE, BACKWARD)
    assert [launch.request for launch in recorder] == [SMALL, LARGE, BACKWARD]
    assert [launch.number for launch in recorder] == [1, 2, 3]
    assert len(recorder) == 3
    assert recorder[0].outputs == Outputs(out="o")
    assert recorder[0].key == work_of(SMALL).key
    assert isinstance(recorder[1].error, LaunchError)
    assert recorder[1].outputs is None
    assert recorder.last.request is BACKWARD
    assert recorder.last.stream is None


def test_answers_pass_through(executor):
    answers = Answers()
    answers.submit(executor, SMALL, LARGE)
    assert answers.outs == ["o", LaunchError]


def test_a_watched_executor_is_like_its_own(recorder):
    inner = ManualExecutor()
    inner.arch, inner.renewable, inner.waits_on_device = SmArch.SM80, False, True
    watched = recorder.watch(inner)
    assert (watched.name, watched.arch) == ("manual", SmArch.SM80)
    assert (watched.renewable, watched.waits_on_device) == (False, True)
    watched.close()
    watched.abandon()
    assert (inner.closed, inner.abandoned) == (True, True)


def test_only_and_last(recorder, executor):
    with pytest.raises(AssertionError, match="exactly 1 launch, but there were no launches"):
        _ = recorder.only
    with pytest.raises(AssertionError, match="expected a launch, but there was none"):
        _ = recorder.last
    Answers().submit(executor, SMALL)
    assert recorder.only is recorder.last
    Answers().submit(executor, LARGE)
    with pytest.raises(AssertionError, match=r"exactly 1 launch, but there were 2 launches:\n  1\. "):
        _ = recorder.only


def test_asked_gives_what_fits(recorder, executor):
    Answers().submit(executor, SMALL, LARGE, BACKWARD)
    assert [launch.number for launch in recorder.assert_asked(head_dim=64)] == [1, 3]
    assert [launch.number for launch in recorder.assert_asked(Fa2BwdRequest, times=1)] == [3]
    assert recorder.assert_asked(times=0, head_dim=256) == []


def test_asked_says_what_there_was_instead(recorder, executor):
    Answers().submit(executor, SMALL, LARGE)
    with pytest.raises(AssertionError) as caught:
        recorder.assert_asked(times=2, head_dim=64)
    assert str(caught.value) == (
        "expected exactly 2 of: head_dim=64; found 1 among 2 launches:\n"
        f"  1. {SMALL_NAME} (Fa2FwdRequest): answered\n"
        "  2. flashactor::fa3::fwd<f16, 128, full> (Fa2FwdRequest): LaunchError"
    )
    with pytest.raises(AssertionError, match="at least 1 of: causal=True, paged=True; found 0 among 2"):
        recorder.assert_asked(causal=True, paged=True)


def test_a_condition_of_ones_own_is_named(recorder, executor):
    def huge(launch):
        return launch.key.head_dim > 200

    Answers().submit(executor, SMALL)
    with pytest.raises(AssertionError, match="at least 1 of: anything and huge; found 0 among 1 launch:"):
        recorder.assert_asked(when=huge)


def test_a_misspelled_field_is_no_assertion(recorder):
    with pytest.raises(RequestError, match="head_dims"):
        recorder.assert_asked(head_dims=64)


def test_no_more_than_was_asserted(recorder, executor):
    recorder.assert_no_more()
    Answers().submit(executor, SMALL, LARGE)
    recorder.assert_asked(head_dim=64)
    with pytest.raises(AssertionError, match=r"no more launches, but there were 1 launch:\n  2\. .*fa3"):
        recorder.assert_no_more()
    recorder.assert_asked(head_dim=128)
    recorder.assert_no_more()


def test_what_is_not_answered_yet_says_so(recorder):
    inner = ManualExecutor()
    Answers().submit(recorder.watch(inner), SMALL)
    assert str(recorder.only) == f"1. {SMALL_NAME} (Fa2FwdRequest): not answered"
    assert (recorder.only.outcome, recorder.only.outputs, recorder.only.error) == (None, None, None)


def test_long_lists_are_cut(recorder, executor):
    Answers().submit(executor, *[SMALL] * 25)
    with pytest.raises(AssertionError) as caught:
        recorder.assert_asked(times=1)
    assert str(caught.value).endswith("\n  and 5 more")
    assert str(caught.value).count(SMALL_NAME) == 20


def test_what_an_executor_refuses_is_not_a_launch(recorder):
    inner = ManualExecutor()
    Answers().submit(recorder.watch(inner), SMALL, LARGE)
    inner.dones[0](Outcome(error=LaunchError("context", "lost", "a good one", "none"), refused=True))
    assert [launch.request for launch in recorder] == [LARGE]
    assert recorder.only.number == 2
    Answers().submit(recorder.watch(inner), SMALL)
    assert [launch.number for launch in recorder] == [2, 3]


def test_several_executors_are_one_record(recorder):
    for number in range(2):
        Answers().submit(recorder.watch(ScriptedExecutor().reply(out=number)), SMALL)
    assert [launch.outputs.out for launch in recorder] == [0, 1]


def test_waiting_for_launches(recorder, executor):
    thread = threading.Thread(target=Answers().submit, args=(executor, SMALL, SMALL))
    thread.start()
    recorder.wait(times=2)
    thread.join()
    with pytest.raises(AskTimeoutError, match=r"launches: got 2 after 0\.01 s; expected at least 3"):
        recorder.wait(times=3, timeout=0.01)


def test_clear(recorder, executor):
    Answers().submit(executor, SMALL)
    recorder.assert_asked()
    recorder.clear()
    assert len(recorder) == 0
    Answers().submit(executor, SMALL)
    with pytest.raises(AssertionError, match="no more launches"):
        recorder.assert_no_more()
