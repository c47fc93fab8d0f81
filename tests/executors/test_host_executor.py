"""Executors on the host compute on a thread of their own: in order, to the end, or not at all."""

import gc
import threading
import weakref

import numpy as np
import pytest
from fake_cuda import PATIENCE, Answer, work_of

from flashactor import DType, Fa2FwdRequest, SmArch
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    MissingOperandsError,
    NoKernelError,
    OperandError,
    OutOfMemoryError,
    RequestError,
)
from flashactor.executors.base import Outcome, Outputs
from flashactor.executors.emulator import EmulatorExecutor
from flashactor.executors.host import HostExecutor
from flashactor.executors.mock import MockExecutor
from flashactor.executors.reference import ReferenceExecutor


class Scripted(HostExecutor):
    """Computes what a script says.

    Attributes:
        begun: released once for each work that is begun.
    """

    name = "scripted"

    def __init__(self, script=lambda work: Outputs()):
        super().__init__()
        self.begun = threading.Semaphore(0)
        self._script = script

    def compute(self, work):
        self.begun.release()
        return Outcome(self._script(work))


class Gate:
    """A script that waits until the test lets it go on, and remembers what it was given."""

    def __init__(self):
        self.open = threading.Event()
        self.seen = []

    def __call__(self, work):
        assert self.open.wait(PATIENCE)
        self.seen.append(work)
        return Outputs()


@pytest.fixture
def start():
    started = []

    def start(executor):
        started.append(executor)
        return executor

    yield start
    for executor in started:
        executor.close()


def host_request(**options):
    x = np.ones((1, 4, 2, 64), np.float16)
    return Fa2FwdRequest.from_arrays(x, x, x, **options)


def submit(executor, a_request=None):
    answer = Answer()
    work = executor.prepare(work_of(a_request or host_request()))
    assert executor.submit(work, answer) is None
    return answer


@pytest.mark.parametrize("make", [ReferenceExecutor, EmulatorExecutor])
def test_results_come_from_the_executors_thread(start, make):
    executor = start(make())
    answer = submit(executor)
    assert answer.outcome.error is None
    assert answer.outcome.outputs.out.shape == (1, 4, 2, 64)
    assert answer.outcome.launch_seconds > 0
    assert (answer.thread, answer.count) == (f"flashactor-{executor.name}", 1)


def test_submitting_waits_for_nothing_and_the_order_is_kept(start):
    gate = Gate()
    executor = start(Scripted(gate))
    works = [executor.prepare(work_of(host_request())) for _ in range(3)]
    answers = [Answer() for _ in works]
    for work, answer in zip(works, answers, strict=True):
        executor.submit(work, answer)
    assert not any(answer.given for answer in answers)
    gate.open.set()
    assert [answer.outcome.error for answer in answers] == [None] * 3
    assert gate.seen == works


def test_close_finishes_what_was_submitted_and_ends_the_thread(start):
    gate = Gate()
    executor = start(Scripted(gate))
    answers = [submit(executor) for _ in range(2)]
    closing = threading.Thread(target=executor.close)
    closing.start()
    assert executor.begun.acquire(timeout=PATIENCE)
    assert closing.is_alive()
    gate.open.set()
    closing.join(PATIENCE)
    assert all(answer.given for answer in answers)
    assert "flashactor-scripted" not in [thread.name for thread in threading.enumerate()]


def test_closing_in_a_receiver_waits_for_nothing(start):
    executor = start(Scripted())
    closed = threading.Event()

    def done(outcome):
        executor.close()
        closed.set()

    executor.submit(work_of(host_request()), done)
    assert closed.wait(PATIENCE)


def test_a_closed_executor_takes_nothing(start):
    executor = start(Scripted())
    executor.close()
    executor.close()
    with pytest.raises(ActorStoppedError):
        executor.prepare(work_of(host_request()))
    answer = Answer()
    executor.submit(work_of(host_request()), answer)
    assert isinstance(answer.outcome.error, ActorStoppedError)
    assert answer.outcome.error.retry_safe


def test_abandoned_work_is_dropped_unless_it_has_begun_and_none_is_answered(start):
    gate = Gate()
    executor = start(Scripted(gate))
    begun = submit(executor)
    assert executor.begun.acquire(timeout=PATIENCE)
    (left,) = [thread for thread in threading.enumerate() if thread.name == "flashactor-scripted"]
    waiting = submit(executor)
    executor.abandon()  # comes back although the first is not computed
    executor.abandon()
    gate.open.set()
    left.join(PATIENCE)
    assert not left.is_alive()
    assert len(gate.seen) == 1
    assert not begun.given
    assert not waiting.given


def test_an_abandoned_executor_can_be_used_again_while_its_thread_is_stuck(start):
    gate = Gate()
    executor = start(Scripted(gate))
    stuck = submit(executor)
    assert executor.begun.acquire(timeout=PATIENCE)
    executor.abandon()
    executor._script = lambda work: Outputs()
    assert submit(executor).outcome.error is None
    gate.open.set()
    assert not stuck.given


def test_an_executor_that_was_never_used_has_no_thread(start):
    start(Scripted()).close()
    assert "flashactor-scripted" not in [thread.name for thread in threading.enumerate()]


def failing(error):
    def script(work):
        raise error

    return script


def test_an_error_of_the_package_is_the_answer_without_its_frames(start):
    error = OperandError("q", 1, "2", "3")
    assert submit(start(Scripted(failing(error)))).outcome.error is error
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    ("error", "kind", "got"),
    [
        (KeyError("x"), ActorFailedError, "KeyError: 'x' while computing flashactor::fa3"),
        (
            MemoryError("Unable to allocate 3 GiB"),
            OutOfMemoryError,
            "Unable to allocate 3 GiB while computing",
        ),
    ],
)
def test_other_errors_are_mapped_and_the_executor_goes_on(start, error, kind, got):
    errors = [error]

    def script(work):
        if errors:
            raise errors.pop()
        return Outputs()

    executor = start(Scripted(script))
    failure = submit(executor).outcome.error
    assert type(failure) is kind
    assert got in failure.got
    assert submit(executor).outcome.error is None


def test_a_receiver_that_fails_does_not_stop_the_thread(start, caplog):
    executor = start(Scripted())

    def done(outcome):
        raise RuntimeError("receiver")

    executor.submit(work_of(host_request()), done)
    assert submit(executor).outcome.error is None
    assert "the receiver of an outcome failed" in caplog.text


def test_arrays_go_with_the_answer(start):
    executor = start(Scripted())
    x = np.ones((1, 4, 2, 64), np.float16)
    reference = weakref.ref(x)
    submit(executor, Fa2FwdRequest.from_arrays(x, x, x))
    del x
    assert submit(executor).outcome.error is None  # the thread has let the first go
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize(
    ("arch", "a_request", "kind"),
    [
        (None, Fa2FwdRequest(SmArch.SM90A, DType.BF16, 64), MissingOperandsError),
        (None, host_request(implementation="reference"), NoKernelError),
        (SmArch.SM80, host_request(arch=SmArch.SM90A), RequestError),
    ],
    ids=["bare cell", "no kernel", "architecture"],
)
def test_the_emulator_refuses_what_it_cannot_run_when_it_is_prepared(start, arch, a_request, kind):
    executor = start(EmulatorExecutor(arch))
    with pytest.raises(kind):
        executor.prepare(work_of(a_request))


def test_a_mock_answers_on_the_callers_thread():
    answer = submit(MockExecutor(lambda work: Outputs(out="out")))
    assert answer.outcome.outputs.out == "out"
    assert answer.thread == threading.current_thread().name
