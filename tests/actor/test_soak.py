"""Twenty thousand messages to one actor whose executors fail."""

import pytest

from benchmarks.actor.account import Account
from benchmarks.actor.soaking import soak
from flashactor import DType, Fa2FwdRequest, SmArch
from flashactor.errors import AskTimeoutError
from flashactor.executors.base import Work
from flashactor.testing import FaultKind

MESSAGES = 20_000


@pytest.fixture(scope="module")
def found():
    return soak(MESSAGES, seed=7, parts=4)


def test_every_message_is_answered_once_and_with_its_own_result(found):
    assert found.wrong == []
    assert sum(found.outcomes.values()) == MESSAGES
    assert found.outcomes["reply"] > MESSAGES // 2


def test_every_fault_happened_and_the_actor_was_restarted(found):
    assert set(found.injected) == {kind.value for kind in FaultKind}
    restarting = sum(found.injected[kind] for kind in ("poison", "crash", "hang"))
    assert 0 < found.restarts <= restarting


def test_no_thread_and_no_file_is_leaked(found):
    assert found.threads[0] == found.threads[1]
    assert found.files[0] == found.files[1]


def test_timeouts_cancels_and_restarts_were_among_the_outcomes(found):
    ends = {"AskTimeoutError", "AskCancelledError", "ContextPoisonedError", "ActorFailedError"}
    assert ends <= set(found.outcomes)


def work_of(number):
    request = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, softmax_scale=float(number + 1))
    return Work(request, *request.resolve(None))


def late(launched):
    error = AskTimeoutError("timeout", "no reply", "a reply in time", "ask again")
    error.retry_safe = not launched
    return error


@pytest.mark.parametrize(
    ("happen", "wrong"),
    [
        (["answer"], []),
        ([], ["message 0 was answered 0 times"]),
        (["answer", "answer"], ["message 0 was answered 2 times"]),
        (["compute", "compute", "answer"], ["message 0 was computed 2 times"]),
        (["compute", "late"], ["message 0 was computed though its error says that it was not"]),
        (["compute", "late but launched"], []),
    ],
)
def test_the_account_sees_what_is_against_the_rules(happen, wrong):
    account = Account(1)
    for event in happen:
        if event == "compute":
            account.compute(work_of(0))
        elif event == "answer":
            account.answered(0, None, None)
        else:
            account.answered(0, None, late(event == "late but launched"))
    account.close(received=1, answered=1)
    assert account.wrong == wrong


def test_the_account_holds_the_actors_counts_to_its_own():
    account = Account(1)
    account.answered(0, None, None)
    account.close(received=1, answered=2)
    assert account.wrong == ["the actor counts 1 messages and 2 answers of 1"]
