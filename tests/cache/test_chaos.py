"""Processes that are killed while they use one folder: no wrong byte, no compile twice, no end of service."""

import os
import random
import select
import signal
import time

import pytest
from cache_tools import HANG_SECONDS, Child, fake_cubin, files_below, small_spec, wait_for

from flashactor.cache import claim as claim_module
from flashactor.cache.claim import KeyClaim

WORKERS = 6
KILLS = 40


class Workers:
    """Workers that are started anew when they were killed."""

    def __init__(self, folder, count, max_bytes=0):
        program = "import runpy; runpy.run_module('chaos_worker', run_name='__main__', alter_sys=False)"
        self.server = Child(program, folder, count, max_bytes)
        self.alive = []
        self.killed = set()

    def __enter__(self):
        for _ in range(WORKERS):
            self.start()
        return self

    def start(self):
        self.server.process.stdin.write("start\n")
        self.server.process.stdin.flush()
        pipe = self.server.process.stdout
        assert select.select([pipe], [], [], HANG_SECONDS)[0], "no worker started"
        self.alive.append(int(pipe.readline()))

    def kill(self, which):
        os.kill(self.alive[which], signal.SIGKILL)
        self.killed.add(self.alive.pop(which))

    def __exit__(self, *_):
        while self.alive:
            self.kill(0)
        pids = self.killed
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the end of the killed")
        self.server.__exit__()


def rampage(folder, seed, count, max_bytes=0, meanwhile=lambda chance: None):
    """Kill workers at random moments, while something else happens too; the processes that were killed."""
    chance = random.Random(seed)
    with Workers(folder, count, max_bytes) as workers:
        wait_for((folder / "log").exists, "a compile")
        for _ in range(KILLS):
            time.sleep(chance.uniform(0, 0.02))
            workers.kill(chance.randrange(WORKERS))
            workers.start()
            meanwhile(chance)
        done = lines(folder / "done")
        wait_for(lambda: len(lines(folder / "done")) >= len(done) + WORKERS, "work after the last kill")
    assert not (folder / "faults").exists(), (folder / "faults").read_text()
    assert len(workers.killed) == KILLS + WORKERS
    return workers.killed


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def compiles(folder):
    """(event, kernel, process) in the order in which they happened."""
    return [tuple(line.split()) for line in lines(folder / "log")]


def never_two_at_once(events, killed):
    """Nobody begins a kernel that a living process is compiling: it would have had to be killed first.

    Every worker has been killed in the end, and when is not in the log; but a process does one thing at a
    time, so it was alive until its last line. A compile that another one overlaps must be its last.
    """
    last_line = {pid: number for number, (_, _, pid) in enumerate(events)}
    owner = {}
    for number, (event, label, pid) in enumerate(events):
        if event == "begin":
            assert label not in owner or last_line[owner[label]] < number, f"{label} twice at once"
            assert label not in owner or int(owner[label]) in killed
            owner[label] = pid
        elif owner.get(label) == pid:
            del owner[label]


def serves_everything(make_cache, count, fake_compiler):
    """Every entry is whole or absent, and a fresh cache has every kernel."""
    cache = make_cache()
    for key in cache.folder.list_keys():
        assert cache.folder.load(key) is not None
    fake_compiler.clear()
    for number in range(count):
        assert cache.get_or_compile(small_spec(number)).cubin == fake_cubin(small_spec(number))
    assert cache.counts().damaged == cache.counts().not_stored == 0
    for number in range(count):
        assert make_cache().get_or_compile(small_spec(number)).source == "disk"
        assert KeyClaim(cache.folder.locks_path, cache.key(small_spec(number))).acquire()
    assert len(files_below(cache.path / "records")) >= count


@pytest.mark.parametrize("seed", range(4))
def test_killed_writers_leave_nothing_wrong_and_compile_nothing_twice(
    seed, tmp_path, make_cache, fake_compiler
):
    count = 400  # more than they finish before the killing ends
    killed = rampage(tmp_path, seed, count)
    events = compiles(tmp_path)
    never_two_at_once(events, killed)
    compiled_again(events, killed)
    assert not any(line.split()[1] != "0" for line in lines(tmp_path / "done")), "a damaged entry"
    serves_everything(make_cache, count, fake_compiler)
    assert not (tmp_path / "cache" / "quarantine").exists()


def compiled_again(events, killed):
    """A kernel is compiled again only if the one who made it died before it was stored."""
    last_line = {pid: number for number, (_, _, pid) in enumerate(events)}
    for number, (event, label, pid) in enumerate(events):
        later = [n for n, (what, other, _) in enumerate(events[number + 1 :], number + 1) if other == label]
        if event == "end" and later:
            assert last_line[pid] == number, f"{label} was stored, and compiled again"


@pytest.mark.parametrize("seed", range(2))
def test_damage_while_workers_are_killed_never_reaches_anyone(
    seed, tmp_path, make_cache, fake_compiler, monkeypatch
):
    def damage(chance):
        candidates = [p for name in ("cubins", "records") for p in files_below(tmp_path / "cache" / name)]
        for path in chance.sample(candidates, min(3, len(candidates))):
            try:
                content = bytearray(path.read_bytes())
                how = chance.randrange(3)
                if how == 0:
                    path.unlink()
                elif how == 1:
                    os.truncate(path, chance.randrange(len(content) + 1))
                elif content:
                    with path.open("r+b") as file:
                        place = chance.randrange(len(content))
                        file.seek(place)
                        file.write(bytes([content[place] ^ 1 << chance.randrange(8)]))
            except FileNotFoundError:
                continue

    count = 60
    rampage(tmp_path, seed, count, meanwhile=damage)
    assert any(line.split()[1] != "0" for line in lines(tmp_path / "done"))
    cache = make_cache()
    for _ in range(2):  # the first heals what is damaged
        for number in range(count):
            assert cache.get_or_compile(small_spec(number)).cubin == fake_cubin(small_spec(number))
        cache = make_cache()
    serves_everything(make_cache, count, fake_compiler)


@pytest.mark.parametrize("seed", range(2))
def test_eviction_races_with_everything(seed, tmp_path, make_cache, fake_compiler):
    count = 40
    limit = 5 * len(fake_cubin(small_spec(0)))
    killed = rampage(tmp_path, seed, count, max_bytes=limit)
    never_two_at_once(compiles(tmp_path), killed)
    cache = make_cache(max_bytes=limit)
    cache.evict(limit)
    assert sum(record.size for record in cache.records()) <= limit
    serves_everything(make_cache, count, fake_compiler)


REAL = """
import sys
from pathlib import Path
from cache_tools import small_spec
from flashactor.cache import CubinCache
print("starts", flush=True)
cache = CubinCache(Path(sys.argv[1]) / "cache", root=Path(sys.argv[1]) / "sources")
for number in range(8):
    kernel = cache.get_or_compile(small_spec(number))
    print(kernel.record.sha256, flush=True)
"""


def test_real_compiles_of_processes_that_are_killed(tmp_path, sources, make_cache, monkeypatch):
    monkeypatch.setattr(claim_module, "PATIENCE_SECONDS", 30)
    chance = random.Random(5)
    for _ in range(6):
        with Child(REAL, tmp_path) as first, Child(REAL, tmp_path) as second:
            for child in (first, second):
                assert child.process.stdout.readline() == "starts\n"
            time.sleep(chance.uniform(0.1, 0.8))
    digests = [Child(REAL, tmp_path) for _ in range(2)]
    said = [child.result()[1:] for child in digests]
    assert said[0] == said[1]
    cache = make_cache()
    assert [cache.get_or_compile(small_spec(number)).record.sha256 for number in range(8)] == said[0]
    assert cache.counts().disk_hits == 8
    assert cache.counts().damaged == 0
