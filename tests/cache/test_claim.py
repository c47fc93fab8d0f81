"""One process compiles a kernel and the others wait for it, whatever becomes of the one."""

import logging
import os
import threading
import time

import pytest
from cache_tools import FAKE_VERSION, Child, fake_compile, fake_cubin, small_spec, wait_for

from flashactor.cache import claim as claim_module
from flashactor.cache import cubin_cache as cache_module
from flashactor.cache.claim import KeyClaim
from flashactor.errors import CompileError

SPEC = small_spec(7)

# Compiles when the file "go" is there; says in the file "log" that it began, and prints when it has to wait.
PROGRAM = """
import os, sys, time
from pathlib import Path
from cache_tools import fake_compile, small_spec, use_fake_compiler
from flashactor.cache import CubinCache
from flashactor.cache.claim import KeyClaim
from flashactor.errors import CompileError

folder, mode = Path(sys.argv[1]), sys.argv[2]

def compile_(spec, *, root=None):
    if mode == "fork" and os.fork() == 0:
        while not (folder / "go").exists():
            time.sleep(0.1)
        time.sleep(3)
        os._exit(0)
    with (folder / "log").open("a") as log:
        log.write(f"begin {os.getpid()}\\n")
    while not (folder / "go").exists():
        time.sleep(0.005)
    if mode == "fail":
        raise CompileError("kernel source", "bad", "none", "mend it", log="the log", source_line="k.cu(3)")
    return fake_compile(spec)

acquire, waits = KeyClaim.acquire, []

def acquire_(claim):
    acquired = acquire(claim)
    if not acquired:
        waits.append(claim)
        if len(waits) == 2:  # between the two it has read whose compile it waits for
            print("waits", flush=True)
    return acquired

KeyClaim.acquire = acquire_
use_fake_compiler(compile_)
cache = CubinCache(folder / "cache", root=folder / "sources")
try:
    kernel = cache.get_or_compile(small_spec(7))
    print(kernel.source, kernel.record.sha256)
except CompileError as error:
    print("failed", error.log, error.source_line, sep="|")
counts = cache.counts()
print(counts.compiled, counts.failed, counts.waited)
"""


@pytest.fixture
def child(tmp_path, sources):
    """A function that starts a process which wants the kernel."""
    children = []

    def start(mode="compile"):
        children.append(Child(PROGRAM, tmp_path, mode))
        return children[-1]

    yield start
    for process in children:
        process.__exit__()


@pytest.fixture
def begun(tmp_path):
    """A function that waits until so many compiles have begun; the processes that began them."""

    def wait(number):
        def pids():
            log = tmp_path / "log"
            lines = log.read_text().splitlines() if log.exists() else []
            return lines if len(lines) >= number else None

        return [int(line.split()[1]) for line in wait_for(pids, f"compile {number}")]

    return wait


def waits(process):
    """Wait until a child knows that another has the claim, and which compile it waits for."""
    assert process.process.stdout.readline() == "waits\n"


def test_those_who_wait_get_the_owners_kernel(child, begun, tmp_path):
    owner = child()
    begun(1)
    waiting = [child() for _ in range(3)]
    for process in waiting:
        waits(process)
    (tmp_path / "go").touch()
    results = [process.result() for process in (owner, *waiting)]
    digests = {result[-2].split()[1] for result in results}
    assert len(digests) == 1
    assert [result[-2].split()[0] for result in results] == ["compiled", "disk", "disk", "disk"]
    assert [result[-1] for result in results] == ["1 0 0", "0 0 1", "0 0 1", "0 0 1"]
    assert begun(1) == [owner.process.pid]


def test_a_killed_owner_is_noticed(child, begun, tmp_path):
    owner = child()
    begun(1)
    waiter = child()
    waits(waiter)
    owner.send("SIGKILL")
    assert begun(2) == [owner.process.pid, waiter.process.pid]
    (tmp_path / "go").touch()
    assert waiter.result()[-1] == "1 0 0"


def test_a_chain_of_killed_owners_is_noticed_and_one_at_a_time_compiles(child, begun, tmp_path):
    processes = {process.process.pid: process for process in [child() for _ in range(5)]}
    for number in range(1, 5):
        processes.pop(begun(number)[-1]).send("SIGKILL")
    assert begun(5)[-1] in processes
    (tmp_path / "go").touch()
    (last,) = processes.values()
    assert last.result()[-1] == "1 0 0"


def test_a_stopped_owner_is_waited_for(child, begun, tmp_path):
    owner = child()
    begun(1)
    owner.send("SIGSTOP")
    waiter = child()
    waits(waiter)
    time.sleep(3)
    assert begun(1) == [owner.process.pid]
    assert waiter.process.poll() is None
    (tmp_path / "go").touch()
    time.sleep(0.3)
    assert waiter.process.poll() is None
    owner.send("SIGCONT")
    assert owner.result()[-1] == "1 0 0"
    assert waiter.result()[-1] == "0 0 1"


def test_a_process_that_the_owner_forked_does_not_keep_the_lock(child, begun, tmp_path):
    owner = child("fork")
    begun(1)
    owner.send("SIGKILL")
    owner.process.wait(10)
    waiter = child()
    assert begun(2)[-1] == waiter.process.pid
    (tmp_path / "go").touch()
    assert waiter.result()[-1] == "1 0 0"


def test_a_failure_reaches_those_who_wait_and_is_not_kept(child, begun, tmp_path):
    owner = child("fail")
    begun(1)
    waiting = [child("fail") for _ in range(3)]
    for process in waiting:
        waits(process)
    (tmp_path / "go").touch()
    results = [process.result() for process in (owner, *waiting)]
    assert {result[-2] for result in results} == {"failed|the log|k.cu(3)"}
    assert [result[-1] for result in results] == ["0 1 0"] + ["0 0 0"] * 3
    assert len(begun(1)) == 1
    assert child().result()[-1] == "1 0 0"
    assert len(begun(2)) == 2


@pytest.fixture
def locks(tmp_path):
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks"


def nothing():
    """``done`` when the kernel is not there."""


def fail_once(locks):
    claim = KeyClaim(locks, "key")
    assert claim.acquire()
    with claim:
        claim.begin()
        claim.fail(CompileError("kernel source", "old", "none", "mend it"))


def test_an_old_failure_is_not_taken_for_that_of_an_owner_who_compiles_nothing(locks):
    fail_once(locks)
    owner, waiter = KeyClaim(locks, "key"), KeyClaim(locks, "key")
    assert owner.acquire()
    threading.Timer(0.3, owner.release).start()
    assert waiter.wait(nothing) is None
    waiter.release()


def test_what_is_found_while_waiting_frees_the_claim(locks):
    claim = KeyClaim(locks, "key")
    assert claim.wait(lambda: "kernel") == "kernel"
    assert KeyClaim(locks, "key").acquire()


def test_an_error_while_looking_frees_the_claim(locks):
    claim = KeyClaim(locks, "key")
    with pytest.raises(ZeroDivisionError):
        claim.wait(lambda: 1 / 0)
    assert KeyClaim(locks, "key").acquire()


@pytest.mark.parametrize("note", ["", "[]", "{", '{"attempt": 3, "failure": 4}', '{"failure": {"x": 1}}'])
def test_a_garbled_note_is_no_failure(note, locks):
    (locks / "key.json").write_text(note)
    owner, waiter = KeyClaim(locks, "key"), KeyClaim(locks, "key")
    assert owner.acquire()
    threading.Timer(0.1, owner.release).start()
    assert waiter.wait(nothing) is None
    waiter.release()


def test_patience_ends_with_one_warning_and_a_compile(make_cache, fake_compiler, monkeypatch, caplog):
    monkeypatch.setattr(claim_module, "PATIENCE_SECONDS", 0.2)
    cache = make_cache()
    cache.folder.create()
    owner = KeyClaim(cache.folder.locks_path, cache.key(SPEC))
    assert owner.acquire()
    owner.begin()
    with caplog.at_level(logging.WARNING, "flashactor.cache"):
        kernel = cache.get_or_compile(SPEC)
    assert (kernel.source, kernel.cubin) == ("compiled", fake_cubin(SPEC))
    assert fake_compiler == [SPEC]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert f"process {os.getpid()} has been busy" in caplog.text
    assert SPEC.label in caplog.text
    assert cache.get_or_compile(SPEC).source == "memory"
    owner.release()


@pytest.fixture
def clock(monkeypatch):
    """The claim's clock, which stands still: a function that moves it by so many seconds."""
    now = [0.0]

    def advance(seconds):
        now[0] += seconds

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        sleep = staticmethod(time.sleep)

    monkeypatch.setattr(claim_module, "time", Clock)
    return advance


def test_patience_is_with_one_compile_and_not_with_all(locks, clock):
    owner, waiter = KeyClaim(locks, "key"), KeyClaim(locks, "key")
    assert owner.acquire()
    owner.begin()
    looks = []

    def next_compile():
        looks.append(None)
        if len(looks) == 6:
            owner.release()
        elif len(looks) < 6:
            clock(0.9 * claim_module.PATIENCE_SECONDS)
            owner.begin()

    assert waiter.wait(next_compile) is None
    assert len(looks) == 7
    waiter.release()


def test_patience_with_one_compile_ends(locks, clock):
    owner, waiter = KeyClaim(locks, "key"), KeyClaim(locks, "key")
    assert owner.acquire()
    owner.begin()
    with pytest.raises(TimeoutError, match="busy for 60 s"):
        waiter.wait(lambda: clock(0.3 * claim_module.PATIENCE_SECONDS))
    owner.release()


@pytest.mark.parametrize("wrong", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_an_owner_that_breaks_off_frees_the_claim(wrong, make_cache, monkeypatch):
    def broken(spec, *, root=None):
        raise wrong

    monkeypatch.setattr(cache_module, "nvrtc_version", lambda: FAKE_VERSION)
    monkeypatch.setattr(cache_module, "compile_cubin", broken)
    with pytest.raises(wrong):
        make_cache().get_or_compile(SPEC)
    monkeypatch.setattr(cache_module, "compile_cubin", fake_compile)
    assert make_cache().get_or_compile(SPEC).source == "compiled"
