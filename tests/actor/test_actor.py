"""The actor on the mock and on scripted executors: order, accounting, failures, stopping."""

import asyncio
import contextlib
import gc
import logging
import threading
import time
import uuid
import weakref

import numpy as np
import pytest
from actor_tools import Kernels

from flashactor import (
    CumulativeSeqlens,
    DType,
    Fa2BwdRequest,
    Fa2FwdRequest,
    Fa3FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    FlashAttnProps,
    MaskKind,
    MsgKind,
    PagedAttentionRequest,
    PagedKvCache,
    SmArch,
    VarlenFwdRequest,
)
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    Fa3RequiresHopperError,
    LaunchError,
    MockModeError,
    PagedFlagNotSetError,
    RequestError,
    UnknownImplementationError,
)
from flashactor.executors.base import Executor, Outcome, Outputs
from flashactor.executors.mock import MockExecutor

FORWARD = Fa2FwdRequest(SmArch.SM80, DType.BF16, 64, mask=MaskKind.causal())
BACKWARD = Fa2BwdRequest(SmArch.SM80, DType.BF16, 64)
PAGED = PagedAttentionRequest(SmArch.SM90A, DType.BF16, 64, cache=PagedKvCache(4, 16, 1, 64, 4), num_seqs=1)
MESSAGE = FlashAttnMsg.forward(FORWARD)


def echo(work):
    return Outputs(out=work.kernel_name)


class BrokenExecutor(Executor):
    """Fails in a way that no executor should."""

    name = "broken"
    arch = None

    def __init__(self, error):
        self._error = error

    def submit(self, work, done):
        raise self._error

    def close(self):
        pass


@pytest.fixture
def actor():
    with FlashAttnActor.start(executor=MockExecutor(script=echo)) as running:
        yield running


def test_props_have_defaults_and_limits():
    props = FlashAttnProps()
    assert (props.label, props.max_in_flight) == ("flashattn", 8)
    assert FlashAttnActor.mock_props(props).executor == "mock"
    for wrong in (0, -1, 1.5):
        with pytest.raises(RequestError, match="max_in_flight"):
            FlashAttnProps(max_in_flight=wrong)


def test_messages_know_their_direction():
    assert FlashAttnMsg.forward(FORWARD).kind is MsgKind.FORWARD
    assert FlashAttnMsg.backward(BACKWARD).kind is MsgKind.BACKWARD
    assert FlashAttnMsg.paged_forward(PAGED).kind is MsgKind.PAGED_FORWARD
    with pytest.raises(RequestError, match="a forward request for a forward message"):
        FlashAttnMsg.forward(BACKWARD)
    with pytest.raises(RequestError, match="a backward request for a backward message"):
        FlashAttnMsg.backward(FORWARD)
    with pytest.raises(PagedFlagNotSetError):
        FlashAttnMsg.paged_forward(FORWARD)
    with pytest.raises(RequestError, match="got dict"):
        FlashAttnMsg.forward({})


def test_a_key_without_launching():
    key = FlashAttnActor.inspect_key(FlashAttnMsg.paged_forward(PAGED))
    assert key.paged
    assert key == PAGED.dispatch_key()


def test_ask_in_a_coroutine(actor):
    async def main():
        return await actor.ask(MESSAGE)

    reply = asyncio.run(main())
    assert reply.out == reply.kernel_name == "flashactor::fa2::fwd<bf16, 64, causal>"
    assert reply.key == FORWARD.dispatch_key()
    assert reply.executor == "mock"


def test_ask_in_a_thread(actor):
    assert actor.ask(MESSAGE).result(5).key == FORWARD.dispatch_key()


def test_mock_mode():
    with FlashAttnActor.start(FlashAttnActor.mock_props(FlashAttnProps())) as mock:
        with pytest.raises(MockModeError, match=r"actor\.seen"):
            mock.ask(FlashAttnMsg.forward(FORWARD)).result(5)
        with pytest.raises(MockModeError):
            mock.ask(FlashAttnMsg.backward(BACKWARD)).result(5)
        assert [work.request for work in mock.seen] == [FORWARD, BACKWARD]
        assert [work.kernel_name for work in mock.seen] == [
            "flashactor::fa2::fwd<bf16, 64, causal>",
            "flashactor::fa2::bwd<bf16, 64, full>",
        ]


def test_only_a_mock_remembers():
    with (
        FlashAttnActor.start(executor=Kernels()) as running,
        pytest.raises(RequestError, match="a mock"),
    ):
        _ = running.seen


def test_mock_by_name_is_mock():
    with FlashAttnActor.start(executor="mock") as mock:
        assert mock.executor_name == "mock"


def test_an_unknown_executor_lists_what_there_is():
    with pytest.raises(UnknownImplementationError, match="auto, cuda, emulator, mock, reference"):
        FlashAttnActor.start(executor="tpu")


def test_an_error_of_the_environment_is_typed(monkeypatch):
    monkeypatch.setenv("FLASHACTOR_EXECUTOR", "tpu")
    with pytest.raises(UnknownImplementationError, match="tpu"):
        FlashAttnActor.start()


def test_an_error_of_a_request_is_its_reply_and_nothing_more():
    with FlashAttnActor.start(executor=MockExecutor(script=echo, arch=SmArch.SM80)) as running:
        bad = running.ask(FlashAttnMsg.forward(Fa3FwdRequest(None, DType.BF16, 64)))
        good = running.ask(FlashAttnMsg.forward(Fa2FwdRequest(None, DType.BF16, 64)))
        with pytest.raises(Fa3RequiresHopperError):
            bad.result(5)
        assert good.result(5).key.arch is SmArch.SM80
        assert running.is_alive


def test_a_scripted_failure():
    def fail(work):
        raise LaunchError("launch", "grid too large", "a grid that fits", "split the batch")

    with FlashAttnActor.start(executor=MockExecutor(script=fail)) as running:
        with pytest.raises(LaunchError, match="split the batch"):
            running.ask(MESSAGE).result(5)
        assert running.stats().failed == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_broken_executor_is_an_error_of_the_actor_and_the_actor_goes_on(error, caplog):
    with FlashAttnActor.start(executor=BrokenExecutor(error)) as running:
        for _ in range(2):
            with pytest.raises(ActorFailedError) as caught:
                running.ask(MESSAGE).result(5)
            assert caught.value.__cause__ is error
        assert running.is_alive
    assert "executor.failed" in caplog.text


def test_an_executor_that_answers_nothing():
    class Nothing(BrokenExecutor):
        def submit(self, work, done):
            done(Outcome())

    with FlashAttnActor.start(executor=Nothing(None)) as running, pytest.raises(ActorFailedError):
        running.ask(MESSAGE).result(5)


def test_an_executor_that_answers_twice_is_heard_once():
    class Twice(BrokenExecutor):
        def submit(self, work, done):
            done(Outcome(outputs=Outputs(out=1)))
            done(Outcome(outputs=Outputs(out=2)))

    with FlashAttnActor.start(executor=Twice(None)) as running:
        assert running.ask(MESSAGE).result(5).out == 1
        assert running.stats().completed == 1


def test_tell_computes_and_answers_no_one(actor):
    actor.tell(MESSAGE)
    actor.ask(MESSAGE).result(5)
    assert len(actor.seen) == 2
    assert actor.stats().completed == 2


def test_a_told_failure_is_logged_and_counted(caplog):
    with FlashAttnActor.start(executor="mock") as mock, caplog.at_level(logging.ERROR, "flashactor"):
        mock.tell(MESSAGE)
    assert mock.stats().failed == 1
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "tell.failed"]
    assert (record.error_type, record.actor) == ("MockModeError", "flashattn")


def test_timings_add_up():
    class Timed(BrokenExecutor):
        def submit(self, work, done):
            done(Outcome(outputs=echo(work), compile_seconds=0.25, launch_seconds=0.5))

    with FlashAttnActor.start(executor=Timed(None)) as running:
        timings = running.ask(MESSAGE).result(5).timings
    assert timings.queued >= 0
    assert (timings.compiled, timings.launched) == (0.25, 0.5)
    assert timings.total == pytest.approx(sum((timings.queued, 0.25, 0.5, timings.completed)))


def test_asks_that_race_with_stop_are_all_answered():
    for _ in range(30):
        running = FlashAttnActor.start(executor=MockExecutor(script=echo))
        pendings = []
        start = threading.Barrier(3)

        def ask(running=running, pendings=pendings, start=start):
            start.wait()
            for _ in range(50):
                pendings.append(running.ask(MESSAGE))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait()
        running.stop()
        for thread in threads:
            thread.join()
        for pending in pendings:
            with contextlib.suppress(ActorStoppedError):
                assert pending.result(5).out
        stats = running.stats()
        assert stats.received == 100 == stats.completed + stats.failed


def test_many_threads_share_an_actor(actor):
    answers = []

    def ask():
        answers.extend(actor.ask(MESSAGE).result(10) for _ in range(100))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 800
    assert actor.stats().completed == 800


def test_a_thousand_concurrent_coroutines(actor):
    async def one():
        return await actor.ask(MESSAGE)

    async def main():
        return await asyncio.gather(*(one() for _ in range(1000)))

    assert len(asyncio.run(main())) == 1000


def test_bare_cells_of_every_kind_reach_the_executor(actor):
    seqlens = CumulativeSeqlens(1, 4, 4, 4, 4)
    for message in (
        FlashAttnMsg.forward(VarlenFwdRequest(None, DType.F16, 64, seqlens=seqlens)),
        FlashAttnMsg.backward(BACKWARD),
        FlashAttnMsg.paged_forward(PAGED),
    ):
        assert actor.ask(message).result(5).key == message.dispatch_key()


def test_an_idle_actor_keeps_no_arrays_alive():
    with FlashAttnActor.start(executor="reference") as running:
        q = np.ones((1, 4, 1, 8), np.float16)
        reply = running.ask(FlashAttnMsg.forward(Fa2FwdRequest.from_arrays(q, q, q))).result(5)
        gone = weakref.ref(q), weakref.ref(reply.out)
        del q, reply
        deadline = time.monotonic() + 5
        while any(ref() is not None for ref in gone) and time.monotonic() < deadline:
            gc.collect()
        assert [ref() for ref in gone] == [None, None]


def test_actors_are_independent():
    label = uuid.uuid4().hex
    with (
        FlashAttnActor.start(FlashAttnProps(label=label), executor=MockExecutor(script=echo)) as one,
        FlashAttnActor.start(executor=MockExecutor(script=echo)) as two,
    ):
        one.ask(MESSAGE).result(5)
        assert (one.stats().received, two.stats().received) == (1, 0)
        assert one.props.label == label
