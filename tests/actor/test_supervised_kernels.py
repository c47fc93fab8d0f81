"""Compile actors that die: who is asked next, how often, and what the asker hears."""

import threading

import pytest
from actor_tools import PATIENCE, run_script

from flashactor import RestartPolicy
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.actor.supervised_kernels import SupervisedKernels
from flashactor.actor.supervisor import Supervisor
from flashactor.errors import ActorFailedError, ActorStoppedError, CachePermissionError, CompileError

AT_ONCE = RestartPolicy(max_restarts=3, within=60.0, backoff=0.0)


class Cache:
    """Kernels that are their own names; ``deadly`` ones end the thread that looks for them.

    Attributes:
        deadly: name -> how often it still does.
        failing: name -> the error in the kernel's place.
        asked: names in order.
        gate: what compiles wait for.
    """

    def __init__(self):
        self.deadly, self.failing, self.asked = {}, {}, []
        self.gate = threading.Event()
        self.gate.set()

    def key(self, spec):
        self.asked.append(spec)
        if self.deadly.get(spec, 0) > 0:
            self.deadly[spec] -= 1
            raise SystemExit(f"{spec} is deadly")
        return spec

    def get_or_compile(self, spec):
        assert self.gate.wait(PATIENCE)
        if spec in self.failing:
            raise self.failing[spec]
        return f"kernel {spec}"


@pytest.fixture
def cache():
    return Cache()


@pytest.fixture
def source_of(cache):
    """Starts sources over the cache; ``made`` are their compile actors."""
    supervisor = Supervisor("compiler")
    made = []

    def make():
        made.append(NvrtcActor(cache, 2))
        return made[-1]

    def start(policy=AT_ONCE, make=make):
        return SupervisedKernels(make, supervisor, restart=policy)

    start.made = made
    yield start
    cache.gate.set()
    supervisor.stop()
    for actor in made:
        actor.stop(PATIENCE)


def test_kernels_and_their_errors_come_from_the_compile_actor(cache, source_of):
    error = cache.failing["b"] = CompileError("kernel", "b", "a kernel", "mend it", log="", source_line="")
    source = source_of()
    assert source.ask("a").result(PATIENCE) == "kernel a"
    with pytest.raises(CompileError) as caught:
        source.ask("b").result(PATIENCE)
    assert caught.value.args == error.args
    assert len(source_of.made) == 1


def test_the_next_compile_actor_is_asked_for_what_a_dead_one_left(cache, source_of, caplog):
    source = source_of()
    cache.gate.clear()
    cache.deadly["b"] = 1
    pendings = [source.ask(name) for name in "abc"]
    cache.gate.set()
    assert [pending.result(PATIENCE) for pending in pendings] == ["kernel a", "kernel b", "kernel c"]
    first, second = source_of.made
    assert isinstance(first.failure, SystemExit)
    assert not first.is_alive
    assert source.actor is second
    assert second.failure is None
    assert "compiler.failed" in caplog.text


def test_a_deadly_kernel_is_given_up_with_its_cause(cache, source_of):
    cache.deadly["b"] = 1000
    source = source_of(RestartPolicy(max_restarts=2, within=60.0, backoff=0.0))
    with pytest.raises(ActorFailedError, match="failure 3 within 60 s: SystemExit: b is deadly") as caught:
        source.ask("b").result(PATIENCE)
    assert caught.value.retry_safe
    assert len(source_of.made) == 3
    assert source.failure is not None
    with pytest.raises(ActorFailedError, match="failure 3"):
        source.ask("a").result(PATIENCE)
    assert cache.asked == ["b", "b", "b"]


def test_asks_between_two_compile_actors_wait_for_the_second(cache, source_of):
    """The supervisor restarts at its own pace: here when the test says so."""

    class Slow(Supervisor):
        def died(self, child, cause):
            deaths.append((child, cause))
            death.set()

    deaths, death = [], threading.Event()
    cache.deadly["a"] = 1

    def make():
        source_of.made.append(NvrtcActor(cache, 1))
        return source_of.made[-1]

    source = SupervisedKernels(make, Slow("compiler"))
    first = source.ask("a")
    assert death.wait(PATIENCE)
    second = source.ask("b")
    assert source.actor is None
    assert not first.done
    assert not second.done
    assert source.begin(1)
    assert [first.result(PATIENCE), second.result(PATIENCE)] == ["kernel a", "kernel b"]
    assert [(child, type(cause)) for child, cause in deaths] == [(source, SystemExit)]


def test_one_that_is_stopped_on_purpose_answers_so_and_the_next_ask_starts_another(cache, source_of):
    source = source_of()
    cache.gate.clear()
    pendings = [source.ask(name) for name in "abcd"]
    stopping = threading.Thread(target=lambda: source_of.made[0].stop(PATIENCE, drop=True))
    stopping.start()
    with pytest.raises(ActorStoppedError):
        pendings[3].result(PATIENCE)
    cache.gate.set()
    stopping.join(PATIENCE)
    assert pendings[0].result(PATIENCE) == "kernel a"
    assert source.ask("d").result(PATIENCE) == "kernel d"
    assert len(source_of.made) == 2


def test_a_compile_actor_that_cannot_be_made_again_is_the_answer(cache, source_of):
    refusal = CachePermissionError("folder", "one of others", "one of yours", "choose another")
    actors = [NvrtcActor(cache, 1)]
    source_of.made.append(actors[0])

    def make():
        if not actors:
            raise refusal
        return actors.pop()

    source = source_of(make=make)
    source_of.made[0].stop(PATIENCE)
    with pytest.raises(CachePermissionError):
        source.ask("a").result(PATIENCE)


def test_failures_to_start_the_next_one_count(cache, source_of):
    cache.deadly["a"] = 1
    actors = [NvrtcActor(cache, 1)]
    source_of.made.append(actors[0])

    def make():
        if not actors:
            raise MemoryError("no thread")
        return actors.pop()

    source = source_of(make=make)
    with pytest.raises(ActorFailedError, match="failure 4 within 60 s: MemoryError: no thread"):
        source.ask("a").result(PATIENCE)


def test_an_interpreter_that_exits_starts_no_other():
    printed = run_script(
        """
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.actor.supervised_kernels import SupervisedKernels
from flashactor.actor.supervisor import Supervisor

class Cache:
    def key(self, spec):
        return spec
    def get_or_compile(self, spec):
        begun.set()
        time.sleep(0.1)

begun = threading.Event()
made = []
def make():
    made.append(NvrtcActor(Cache(), 2))
    print("made", flush=True)
    return made[-1]

source = SupervisedKernels(make, Supervisor("compiler"))
for number in range(500):
    source.ask(str(number))
begun.wait(PATIENCE)
"""
    )
    assert printed == ["made"]
