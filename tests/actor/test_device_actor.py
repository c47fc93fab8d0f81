"""A device's actors: who is restarted with whom, generations of the context, stopping together."""

import asyncio
import threading

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, run_script, wait_until
from supervision_tools import AT_ONCE, Factory, Raising, ask_all, faulty, kinds, launched, settled

from flashactor import DeviceActor, FlashAttnProps, RestartPolicy
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    BlockingAskError,
    DeviceUnavailableError,
    RequestError,
)
from flashactor.executors.base import Outcome
from flashactor.executors.cuda_errors import poisoned_error, unavailable_error
from flashactor.service import kernel_source, live_actors
from flashactor.testing import Fault

NEVER_AGAIN = RestartPolicy(max_restarts=0)


@pytest.fixture
def device():
    with DeviceActor.start(0, restart=AT_ONCE) as running:
        yield running


# Children.


def test_children_have_labels_and_the_device():
    with DeviceActor.start(3) as device:
        first, second = device.spawn(executor="mock"), device.spawn(executor="mock")
        named = device.spawn(FlashAttnProps(label="decode", device=7), "mock")
        assert [child.label for child in device.children] == ["device3-0", "device3-1", "decode"]
        assert {child.props.device for child in device.children} == {3}
        assert device.children == (first, second, named)
        assert (device.label, device.generation, device.failure) == ("device3", 1, None)


def test_the_policy_is_the_devices_unless_the_props_name_one(device):
    own = RestartPolicy(max_restarts=1)
    assert device.spawn(executor="mock").props.restart is AT_ONCE
    assert device.spawn(FlashAttnProps(label="own", restart=own), "mock").props.restart is own


def test_children_that_end_leave(device):
    stopped = device.spawn(executor="mock")
    given_up = device.spawn(
        FlashAttnProps(label="b", restart=NEVER_AGAIN), Raising(submit=RuntimeError("broken"))
    )
    stays = device.spawn(executor="mock")
    stopped.stop()
    settled([given_up.ask(message(1))])
    wait_until(lambda: device.children == (stays,), "the end of the other two")
    assert device.is_alive


def test_a_label_is_free_again_when_its_child_has_left(device):
    props = FlashAttnProps(label="decode")
    first = device.spawn(props, "mock")
    with pytest.raises(RequestError, match=r"^props: got 'decode'; expected a label that no other child has"):
        device.spawn(props, "mock")
    first.stop()
    assert device.spawn(props, "mock").is_alive


def test_a_child_that_does_not_start_is_none(device):
    def make():
        raise unavailable_error("CUDA_ERROR_NO_DEVICE")

    with pytest.raises(DeviceUnavailableError):
        device.spawn(executor=make)
    assert device.children == ()
    assert device.spawn(executor="mock").label == "device0-0"


def test_stats_are_those_of_the_children_and_their_sum(device):
    assert device.stats().total.received == 0
    for number in range(2):
        child = device.spawn(executor=Factory(lambda: Kernels(held=False)))
        settled(ask_all(child, number + 1))
    stats = device.stats()
    assert [one.completed for one in stats.actors.values()] == [1, 2]
    assert list(stats.actors) == ["device0-0", "device0-1"]
    assert stats.total.completed == 3


def test_kernels_come_from_the_source_of_the_process(device, tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path))
    assert device.kernels is kernel_source()
    device.kernels.actor.stop(PATIENCE)


@pytest.mark.parametrize(
    ("field", "value"), [("device", -1), ("device", "0"), ("label", 3), ("restart", 3), ("on_escalation", 3)]
)
def test_misuse_of_start(field, value):
    with pytest.raises(RequestError, match=rf"^{field}: got {value!r}"):
        DeviceActor.start(**{field: value})


def test_misuse_of_spawn(device):
    with pytest.raises(RequestError, match=r"^props: got 'label'; expected a FlashAttnProps"):
        device.spawn("label")
    device.stop()
    with pytest.raises(ActorStoppedError, match=r"^spawn: got .* DeviceActor\.start\(\)\.$"):
        device.spawn(executor="mock")


# One for one.


def test_a_child_that_fails_is_restarted_and_its_sibling_is_untouched(device):
    factory, other = faulty(Fault.crash(1), held=False), Factory()
    child, sibling = device.spawn(executor=factory), device.spawn(executor=other)
    running = sibling.ask(message(5))
    other.made[0].wait_launched()
    assert kinds(settled([child.ask(message(0))])) == ["ActorFailedError"]
    assert child.ask(message(1)).result(PATIENCE).out == 1
    other.made[0].finish(5)
    assert running.result(PATIENCE).out == 5
    assert (sibling.stats().generation, len(other.made), device.generation) == (1, 1, 1)


def test_a_child_that_is_given_up_leaves_its_siblings_alone(device):
    factory = Factory(lambda: Raising(submit=RuntimeError("broken")))
    child = device.spawn(FlashAttnProps(label="broken", restart=NEVER_AGAIN, max_in_flight=1), factory)
    sibling = device.spawn(executor=Factory(lambda: Kernels(held=False)))
    first, second = settled(ask_all(child, 2))
    assert (first.retry_safe, second.retry_safe) == (False, True)
    assert isinstance(child.ask(message(3)).error, ActorFailedError)
    assert sibling.ask(message(1)).result(PATIENCE).out == 1
    assert (device.failure, device.is_alive) == (None, True)


# A context that is lost, and renewed.


def test_all_children_move_to_the_new_context(device):
    """The sibling has no restart left: a context that another child lost is not held against it."""
    factory, other = faulty(Fault.poison(2)), Factory()
    child = device.spawn(FlashAttnProps(label="a", max_in_flight=2), factory)
    sibling = device.spawn(FlashAttnProps(label="b", max_in_flight=1, restart=NEVER_AGAIN), other)
    theirs = ask_all(sibling, 3)
    other.made[0].wait_launched()
    mine = ask_all(child, 4)
    factory.wait(2).kernels.open()
    other.wait(2).open()
    answers, theirs_answered = settled(mine), settled(theirs)
    assert kinds(answers) == ["ContextPoisonedError", "ContextPoisonedError", 2, 3]
    assert kinds(theirs_answered) == ["ContextPoisonedError", 1, 2]
    for error in (*answers[:2], theirs_answered[0]):
        assert error.remedy == "ask again: it runs in a new context"
        assert error.retry_safe
    assert [launched(factory), launched(other)] == [[0, 2, 3], [0, 1, 2]]
    assert device.generation == 2
    assert [one.generation for one in device.stats().actors.values()] == [2, 2]
    assert len({error.__traceback__ for error in answers[:2]}) == 1


def test_work_that_a_lost_context_refused_is_computed_in_the_next_one(device):
    class Lost(Kernels):
        """Another child has lost the context; this executor is the first to see it."""

        def submit(self, work, done):
            self.launched.append("refused")
            done(Outcome(error=poisoned_error("an illegal address"), refused=True))

    made = iter([Lost()])
    factory = Factory(lambda: next(made, None) or Kernels(held=False))
    child = device.spawn(executor=factory)
    assert kinds(settled(ask_all(child, 3))) == [0, 1, 2]
    assert launched(factory) == ["refused", 0, 1, 2]
    stats = child.stats()
    assert (stats.failed, stats.completed, stats.generation, device.generation) == (0, 3, 2, 2)


def test_a_child_that_waits_for_its_restart_starts_in_the_new_context(device):
    crashing, poisoned = faulty(Fault.crash(1), held=False), faulty(Fault.poison(1), held=False)
    patient = FlashAttnProps(label="a", restart=RestartPolicy(backoff=0.1))
    child, other = device.spawn(patient, crashing), device.spawn(executor=poisoned)
    settled([child.ask(message(0))])
    settled([other.ask(message(0))])
    assert child.ask(message(1)).result(PATIENCE).out == 1
    assert other.ask(message(1)).result(PATIENCE).out == 1
    assert [len(crashing.made), len(poisoned.made), device.generation] == [2, 2, 2]


def test_both_children_see_the_lost_context_and_it_counts_once(device):
    class Losing(Kernels):
        def lose(self):
            for number in list(self._running):
                self.fail(number, poisoned_error("an illegal address"))

    factories = [Factory(Losing), Factory(Losing)]
    children = [device.spawn(executor=factory) for factory in factories]
    pendings = [child.ask(message(0)) for child in children]
    for factory in factories:
        factory.made[0].wait_launched()
    losing = [InThread(factory.made[0].lose) for factory in factories]
    for thread in losing:
        thread.result()
    assert kinds(settled(pendings)) == ["ContextPoisonedError"] * 2
    again = [child.ask(message(1)) for child in children]
    for factory in factories:
        factory.wait(2).open()
    assert kinds(settled(again)) == [1, 1]
    assert device.generation == 2


# Stopping.


def test_stop_ends_all_children_at_the_same_time():
    """Each executor's close waits until both are closing: one after the other, they would never end."""
    together = threading.Barrier(2, timeout=PATIENCE)

    class Meeting(Kernels):
        def close(self):
            together.wait()

    with DeviceActor.start() as device:
        children = [device.spawn(executor=Factory(lambda: Meeting(held=False))) for _ in range(2)]
        pendings = [child.ask(message(1)) for child in children]
    assert kinds(settled(pendings)) == [1, 1]
    assert not together.broken
    assert not device.is_alive
    assert not set(children) & set(live_actors())


def test_stop_without_drain_answers_everyone(device):
    children = [device.spawn(executor=Factory()) for _ in range(2)]
    pendings = [child.ask(message(1)) for child in children]
    device.stop(drain=False)
    assert kinds(settled(pendings)) == ["ActorStoppedError"] * 2
    assert device.children == ()


def test_stop_waits_for_no_executor_that_is_being_made():
    entered, go_on = threading.Event(), threading.Event()

    def make():
        entered.set()
        assert go_on.wait(PATIENCE)
        return Kernels()

    device = DeviceActor.start(0)
    spawning = InThread(device.spawn, None, make)
    assert entered.wait(PATIENCE)
    with pytest.raises(RequestError, match="a label that no other child has"):
        device.spawn(FlashAttnProps(label="device0-0"), Kernels())
    assert device.spawn(None, Kernels()).label == "device0-1"
    InThread(device.stop).result()
    assert spawning.running
    go_on.set()
    with pytest.raises(ActorStoppedError, match=r"^spawn: "):
        spawning.result()
    assert device.children == ()
    assert not [actor for actor in live_actors() if actor.label.startswith("device0")]


def test_whoever_makes_an_executor_may_spawn(device):
    def make():
        device.spawn(FlashAttnProps(label="inner"), Kernels())
        return Kernels()

    InThread(device.spawn, FlashAttnProps(label="outer"), make).result()
    assert {child.label for child in device.children} == {"inner", "outer"}


def test_in_coroutines():
    async def main():
        async with DeviceActor.start() as device:
            child = device.spawn(executor=Factory(lambda: Kernels(held=False)))
            replies = await child.ask_many([message(number) for number in range(3)])
            held = device.spawn(executor=Factory())
            pending = held.ask(message(9))
            await pending.launched
            with pytest.raises(BlockingAskError, match="await"):
                device.stop()
            assert device.is_alive
            await device.aclose(drain=False)
            assert isinstance(pending.error, ActorStoppedError)
            return [reply.out for reply in replies]

    assert asyncio.run(main()) == [0, 1, 2]


def other_threads():
    """All but that of the deadlines, which stays once it has started."""
    return {thread for thread in threading.enumerate() if thread.name != "flashactor-deadlines"}


def test_a_crash_while_children_drain_is_mended():
    """Stopped on a child's own thread, the device does not wait, and supervises until the last has ended."""
    factory = faulty(Fault.crash(2), held=False)
    before = other_threads()
    device = DeviceActor.start(restart=AT_ONCE)
    child = device.spawn(FlashAttnProps(label="a", max_in_flight=1), factory)
    gate = threading.Event()

    def stop(_reply):
        assert gate.wait(PATIENCE)
        device.stop()

    first = child.ask(message(0))
    first.add_done_callback(stop)
    rest = [child.ask(message(number)) for number in (1, 2, 3)]
    gate.set()
    assert kinds(settled([first, *rest])) == [0, "ActorFailedError", 2, 3]
    wait_until(lambda: device.children == (), "the end of the child")
    wait_until(lambda: other_threads() <= before, "the end of the supervisor")


def test_a_fork_has_neither_children_nor_supervisor():
    printed = run_script(
        """
from flashactor import DeviceActor
with DeviceActor.start() as device:
    child = device.spawn(executor=Kernels(held=False))
    assert child.ask(message(0)).result(PATIENCE).out == 0
    pid = os.fork()
    if pid == 0:
        refused = None
        try:
            device.spawn(executor="mock")
        except ActorStoppedError as error:
            refused = error
        fine = isinstance(child.ask(message(1)).error, ActorStoppedError) and refused and not device.is_alive
        os._exit(0 if fine else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert child.ask(message(2)).result(PATIENCE).out == 2
    assert device.is_alive
"""
    )
    assert printed == ["0"]
