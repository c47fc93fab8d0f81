"""A context that others of the process share is lost: nobody can renew it, and everybody is told."""

import logging
import threading

import pytest
from actor_tools import PATIENCE, Kernels, message, wait_until
from fake_cuda import ILLEGAL_ADDRESS, CudaError, FakeDriver, FakeKernels, request
from supervision_tools import AT_ONCE, Factory, ask_all, faulty, kinds, settled

from flashactor import DeviceActor, FlashAttnActor, FlashAttnMsg, FlashAttnProps
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ContextPoisonedError
from flashactor.executors.cuda import CudaExecutor
from flashactor.executors.cuda_errors import poisoned_error
from flashactor.service import live_actors
from flashactor.testing import Fault

LOST = "restart the process, nothing more runs in this one"


class Shared(Kernels):
    """Kernels in a context that cannot be renewed."""

    renewable = False


@pytest.fixture
def escalations():
    return []


@pytest.fixture
def device(escalations):
    with DeviceActor.start(0, restart=AT_ONCE, on_escalation=escalations.append) as running:
        yield running


def test_everybody_is_told_and_once_is_enough(device, escalations, caplog):
    factory, other = faulty(Fault.poison(1), renewable=False), Factory(Shared)
    child = device.spawn(FlashAttnProps(label="a", max_in_flight=1), factory)
    sibling = device.spawn(FlashAttnProps(label="b", max_in_flight=1), other)
    theirs = ask_all(sibling, 3)
    other.made[0].wait_launched()
    mine = ask_all(child, 3)
    for error in settled([*mine, *theirs]):
        assert isinstance(error, ContextPoisonedError)
        assert error.remedy.startswith(LOST)
        assert not error.retry_safe
    wait_until(lambda: escalations, "the escalation")
    assert escalations == [device.failure]
    assert not device.is_alive
    assert device.children == ()
    for actor in (child, sibling):
        assert not actor.is_alive
        later = actor.ask(message(9))
        with pytest.raises(ContextPoisonedError, match=LOST):
            later.result(PATIENCE)
        stats = actor.stats()
        assert (stats.received, stats.failed, stats.pending, stats.queued) == (4, 4, 0, 0)
        assert (stats.restarts, stats.generation) == (0, 1)
        assert actor not in live_actors()
    with pytest.raises(ContextPoisonedError, match=LOST):
        device.spawn(executor="mock")
    critical = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(critical) == 1
    assert "context.lost_for_good" in caplog.text
    assert device.generation == 1


def test_an_actor_of_its_own_is_given_up_just_so():
    with FlashAttnActor.start(
        FlashAttnProps(max_in_flight=1), faulty(Fault.poison(1), renewable=False)
    ) as actor:
        answers = settled(ask_all(actor, 2))
        assert kinds(answers) == ["ContextPoisonedError"] * 2
        wait_until(lambda: not actor.is_alive, "the end")
        assert isinstance(actor.failure, ContextPoisonedError)
        assert actor.stats().generation == 1


def test_children_that_notice_it_at_the_same_time(device, escalations):
    factories = [Factory(Shared) for _ in range(4)]
    children = [device.spawn(executor=factory) for factory in factories]
    pendings = [child.ask(message(1)) for child in children]
    for factory in factories:
        factory.made[0].wait_launched()
    together = threading.Barrier(len(factories))

    def lose(kernels):
        together.wait(PATIENCE)
        kernels.fail(1, poisoned_error("an illegal address"))

    threads = [threading.Thread(target=lose, args=(factory.made[0],)) for factory in factories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert kinds(settled(pendings)) == ["ContextPoisonedError"] * 4
    wait_until(lambda: not any(child.is_alive for child in children), "the end of all")
    wait_until(lambda: escalations, "the escalation")
    assert len(escalations) == 1


def test_who_is_told_may_stop_the_device_and_raise(caplog):
    def on_escalation(error):
        device.stop()
        stopped.set()
        raise RuntimeError("of the caller")

    stopped = threading.Event()
    device = DeviceActor.start(on_escalation=on_escalation)
    child = device.spawn(executor=faulty(Fault.poison(1), renewable=False))
    assert kinds(settled(ask_all(child, 1))) == ["ContextPoisonedError"]
    assert stopped.wait(PATIENCE)
    wait_until(lambda: "escalation.failed" in caplog.text, "the log")


def test_an_actor_that_starts_meanwhile_is_given_up_at_once():
    supervisor = Supervisor("device0")
    with (
        FlashAttnActor.start(None, faulty(Fault.poison(1), renewable=False), supervisor=supervisor) as first,
        pytest.raises(ContextPoisonedError),
    ):
        first.ask(message(0)).result(PATIENCE)
    wait_until(lambda: supervisor.failure, "the loss")
    late = FlashAttnActor.start(None, Factory(Shared), supervisor=supervisor)
    assert not late.is_alive
    assert isinstance(late.ask(message(1)).error, ContextPoisonedError)
    assert supervisor.children() == []
    assert late not in live_actors()
    late.stop()


# Over the cuda executor.


class OwnContext(FakeDriver):
    """A device whose context nobody shares."""

    shares_context = False


def cuda_child(device, driver_type):
    """A child on cuda executors, and their drivers."""
    drivers = []

    def make():
        drivers.append(driver_type())
        return CudaExecutor(FakeKernels(), driver=drivers[-1])

    return device.spawn(FlashAttnProps(label=f"c{len(device.children)}", max_in_flight=1), make), drivers


def ask_cuda(actor, count=2):
    return [actor.ask(FlashAttnMsg.forward(request())) for _ in range(count)]


def test_an_illegal_address_in_the_primary_context(device, escalations):
    child, drivers = cuda_child(device, FakeDriver)
    sibling, others = cuda_child(device, FakeDriver)
    pendings = [*ask_cuda(child), *ask_cuda(sibling)]
    others[0].event(0)
    drivers[0].event(0).fail(CudaError(ILLEGAL_ADDRESS))
    for error in settled(pendings):
        assert isinstance(error, ContextPoisonedError)
        assert error.remedy.startswith(LOST)
    wait_until(lambda: escalations, "the escalation")
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in escalations[0].got
    assert [len(drivers), len(others)] == [1, 1]
    others[0].event(0).complete()


def test_an_illegal_address_in_a_context_of_its_own(device, escalations):
    child, drivers = cuda_child(device, OwnContext)
    pendings = ask_cuda(child)
    drivers[0].event(0).fail(CudaError(ILLEGAL_ADDRESS))
    pendings[0].wait(PATIENCE)
    assert isinstance(pendings[0].error, ContextPoisonedError)
    assert pendings[0].error.retry_safe
    wait_until(lambda: len(drivers) == 2, "the next executor")
    drivers[1].event(0).complete()
    assert pendings[1].result(PATIENCE).executor == "cuda"
    assert (device.generation, escalations, device.failure) == (2, [], None)
