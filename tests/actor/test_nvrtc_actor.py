"""The compile actor: one compile for a key in a process, errors to all that wait, and nobody left waiting."""

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from flashactor import service
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    AskTimeoutError,
    CompileError,
    RequestError,
)
from flashactor.settings import Settings

PATIENCE = 20.0


class SlowCache:
    """A cache whose compiles begin when asked and end when the test says so. A specification is its key."""

    def __init__(self):
        self.began = []
        self.threads = set()
        self.errors = {}
        self._gates = {}
        self._changed = threading.Condition()

    def key(self, spec):
        if spec == "nonsense":
            raise CompileError("kernel source", "no such file", "a file", "install again")
        return spec.lower()

    def get_or_compile(self, spec):
        with self._changed:
            self.began.append(spec)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()
        assert self._gate(spec).wait(PATIENCE), "the test never let this compile end"
        if spec in self.errors:
            raise self.errors[spec]
        return f"kernel {spec}"

    def finish(self, *specs):
        for spec in specs:
            self._gate(spec).set()

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.began) >= count, PATIENCE)

    def _gate(self, spec):
        with self._changed:
            return self._gates.setdefault(spec, threading.Event())


@pytest.fixture
def cache():
    return SlowCache()


@pytest.fixture
def start(cache):
    """Starts actors, and lets them end."""
    actors = []

    def start(workers=2):
        actors.append(NvrtcActor(cache, workers))
        return actors[-1]

    yield start
    cache.finish(*"abcdefgh")
    for actor in actors:
        actor.stop(PATIENCE, drop=True)


def test_many_asks_for_one_kernel_are_one_compile(cache, start):
    actor = start()
    with_threads = [actor.ask("a") for _ in range(100)]
    cache.finish("a")
    assert {pending.result(PATIENCE) for pending in with_threads} == {"kernel a"}
    assert cache.began == ["a"]
    stats = actor.stats()
    assert (stats.asked, stats.joined, stats.delivered, stats.failed, stats.pending) == (100, 99, 1, 0, 0)


def test_specifications_with_one_key_are_one_compile(cache, start):
    actor = start()
    first, second = actor.ask("a"), actor.ask("A")
    cache.finish("a")
    assert first.result(PATIENCE) == second.result(PATIENCE) == "kernel a"
    assert cache.began == ["a"]


def test_asking_waits_for_nothing(cache, start):
    actor = start(workers=1)
    pendings = [actor.ask(spec) for spec in "abcd"]
    assert not any(pending.done for pending in pendings)
    cache.finish("a")
    assert pendings[0].result(PATIENCE) == "kernel a"
    assert (actor.stats().asked, actor.stats().pending) == (4, 3)
    cache.finish(*"bcd")
    assert [pending.result(PATIENCE) for pending in pendings] == [f"kernel {spec}" for spec in "abcd"]
    assert cache.threads == {"flashactor-nvrtc_0"}


def test_as_many_compiles_at_once_as_workers(cache, start):
    actor = start(workers=2)
    pendings = [actor.ask(spec) for spec in "abc"]
    cache.wait_for(2)
    assert sorted(cache.began) == ["a", "b"]
    cache.finish("b")
    assert pendings[1].result(PATIENCE) == "kernel b"
    cache.wait_for(3)
    cache.finish("a", "c")
    assert pendings[2].result(PATIENCE) == "kernel c"


def test_coroutines_await_kernels(cache, start):
    actor = start()
    cache.finish("a", "b")

    async def main():
        return await asyncio.gather(*(actor.ask(spec) for spec in "abab"))

    assert asyncio.run(main()) == ["kernel a", "kernel b", "kernel a", "kernel b"]


def test_a_failure_reaches_all_that_wait_and_is_not_remembered(cache, start):
    actor = start()
    error = CompileError(
        "kernel source", "an error", "none", "mend it", log="the log", source_line="fwd.cu(7)"
    )
    cache.errors["a"] = error
    waiting = [actor.ask("a") for _ in range(5)]
    cache.finish("a")
    errors = set()
    for pending in waiting:
        with pytest.raises(CompileError) as caught:
            pending.result(PATIENCE)
        assert (caught.value.log, caught.value.source_line) == ("the log", "fwd.cu(7)")
        errors.add(caught.value)
    assert len(errors) == 5  # each its own, or their tracebacks would grow together
    del cache.errors["a"]
    assert actor.ask("a").result(PATIENCE) == "kernel a"
    assert cache.began == ["a", "a"]
    assert actor.stats().failed == 1


def test_a_specification_without_a_key_fails_alone(cache, start):
    actor = start()
    cache.finish("a")
    with pytest.raises(CompileError, match="no such file"):
        actor.ask("nonsense").result(PATIENCE)
    assert actor.ask("a").result(PATIENCE) == "kernel a"


def test_an_error_of_the_cache_itself_is_an_answer_and_the_actor_goes_on(cache, start, caplog):
    actor = start()
    cache.errors["a"] = ZeroDivisionError("a bug")
    cache.finish("a", "b")
    with pytest.raises(ActorFailedError, match="a bug") as caught:
        actor.ask("a").result(PATIENCE)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert actor.ask("b").result(PATIENCE) == "kernel b"
    assert "the cache failed" in caplog.text


def test_stop_finishes_what_was_asked(cache, start):
    actor = start(workers=1)
    pendings = [actor.ask(spec) for spec in "abc"]
    stopping = threading.Thread(target=actor.stop)
    stopping.start()
    cache.finish(*"abc")
    stopping.join(PATIENCE)
    assert [pending.result(0) for pending in pendings] == ["kernel a", "kernel b", "kernel c"]
    with pytest.raises(ActorStoppedError):
        actor.ask("d").result(PATIENCE)
    actor.stop(PATIENCE)
    assert cache.began == ["a", "b", "c"]


@pytest.mark.parametrize("timeout", ["soon", float("nan"), float("inf")], ids=str)
def test_a_limit_that_is_none_stops_nothing(cache, start, timeout):
    actor = start()
    with pytest.raises(RequestError, match=r"^timeout: got"):
        actor.stop(timeout)
    cache.finish("a")
    assert actor.ask("a").result(PATIENCE) == "kernel a"


def test_stop_with_drop_answers_what_has_not_begun(cache, start):
    actor = start(workers=1)
    pendings = [actor.ask(spec) for spec in "abc"]
    cache.wait_for(1)
    with pytest.raises(AskTimeoutError):
        actor.stop(0.05, drop=True)
    for pending in pendings[1:]:
        with pytest.raises(ActorStoppedError):
            pending.result(PATIENCE)
    with pytest.raises(ActorStoppedError):
        actor.ask("d").result(PATIENCE)
    cache.finish("a")
    assert pendings[0].result(PATIENCE) == "kernel a"
    actor.stop(PATIENCE)
    assert not actor.is_alive
    assert cache.began == ["a"]


def test_an_error_in_the_with_block_drops_what_has_not_begun(cache):
    pendings = []

    def work():
        with NvrtcActor(cache, 1) as actor:
            pendings.extend(actor.ask(spec) for spec in "ab")
            cache.wait_for(1)
            cache.finish("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert all(pending.done for pending in pendings)


def test_asks_that_race_with_the_stop_are_all_answered(cache):
    cache.finish("a")
    for _ in range(50):
        actor, go = NvrtcActor(cache, 1), threading.Barrier(3)
        answers = []

        def ask(actor=actor, go=go, answers=answers):
            go.wait()
            answers.extend(actor.ask("a") for _ in range(20))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        go.wait()
        actor.stop(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
        for pending in answers:
            with suppress(ActorStoppedError):
                assert pending.result(PATIENCE) == "kernel a"
        assert len(answers) == 40


@pytest.mark.parametrize("workers", [0, -1, 1.5, float("nan"), "2", True])
def test_workers_must_be_positive(cache, workers):
    with pytest.raises(RequestError, match="workers"):
        NvrtcActor(cache, workers)


def test_a_process_shares_one_source_of_kernels_for_each_cache(tmp_path):
    one, other = Settings(tmp_path / "a"), Settings(tmp_path / "b")
    source = service.kernel_source(one)
    assert service.kernel_source(Settings(tmp_path / "a", executor="mock", log_level="debug")) is source
    assert service.kernel_source(other) is not source
    actors = [source.actor, service.kernel_source(other).actor]
    assert service.nvrtc_actors()[-2:] == actors
    for actor in actors:
        actor.stop(PATIENCE)


EXIT_WITH_A_QUEUE = """
import threading, time
from flashactor.actor.nvrtc_actor import NvrtcActor

class Cache:
    def key(self, spec):
        return spec
    def get_or_compile(self, spec):
        print("compiled", flush=True)
        time.sleep(0.2)

actor = NvrtcActor(Cache(), 2)
for n in range(500):
    actor.ask(str(n))
time.sleep(0.1)
"""


def test_an_interpreter_that_exits_does_not_wait_for_the_queue():
    run = subprocess.run(
        [sys.executable, "-c", EXIT_WITH_A_QUEUE], capture_output=True, text=True, timeout=30, check=True
    )
    assert 2 <= run.stdout.count("compiled") <= 50
    assert run.stderr == ""


FORK = """
import os, sys
from pathlib import Path
from flashactor import service
from flashactor.settings import Settings
settings = Settings(Path(sys.argv[1]))
parent = service.kernel_source(settings).actor
child = os.fork()
if child == 0:
    mine = service.kernel_source(settings).actor
    assert mine is not parent
    mine.stop(10)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
parent.stop(10)
"""


def test_stop_in_a_callback_does_not_wait_for_itself(cache, start):
    actor = start()
    stopped = threading.Event()

    def stop(_):
        actor.stop()
        stopped.set()

    actor.ask("a").add_done_callback(stop)
    cache.finish("a")
    assert stopped.wait(PATIENCE)
    actor.stop(PATIENCE)
    assert not actor.is_alive


INHERIT = """
import os
from flashactor.actor.nvrtc_actor import NvrtcActor
from flashactor.errors import ActorStoppedError

class Cache:
    def key(self, spec):
        return spec
    def get_or_compile(self, spec):
        return spec

actor = NvrtcActor(Cache(), 1)
assert actor.ask("a").result(10) == "a"
child = os.fork()
if child == 0:
    try:
        actor.ask("b").result(10)
    except ActorStoppedError:
        actor.stop()
        os._exit(0 if not actor.is_alive else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert actor.ask("c").result(10) == "c"
"""


def test_an_actor_that_a_child_inherits_is_stopped_there():
    subprocess.run([sys.executable, "-c", INHERIT], timeout=60, check=True)


def test_a_forked_child_gets_an_actor_of_its_own(tmp_path):
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], timeout=60, check=True)
