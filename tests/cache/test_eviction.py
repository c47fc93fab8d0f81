"""A folder with a limit forgets what was used least recently, and nothing that somebody is busy with."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cache_tools import fake_cubin, files_below, small_spec

from flashactor.cache import folder as folder_module
from flashactor.cache.claim import KeyClaim, forget

SPECS = [small_spec(number) for number in range(6)]
SIZES = [len(fake_cubin(spec)) for spec in SPECS]


@pytest.fixture
def full(make_cache, fake_compiler):
    """A cache of six kernels, the first of which was used first."""
    cache = make_cache()
    for age, spec in enumerate(SPECS):
        cache.get_or_compile(spec)
        set_used(cache, spec, 1_000_000 + age)
    fake_compiler.clear()
    return cache


def set_used(cache, spec, when):
    os.utime(cache.folder.records_path / f"{cache.key(spec)}.json", (when, when))


def kept(cache):
    """The specifications whose kernels are in the folder."""
    keys = set(cache.folder.list_keys())
    assert len(files_below(cache.path / "cubins")) == len(keys)
    return [spec for spec in SPECS if cache.key(spec) in keys]


def test_the_least_recently_used_goes_first(full):
    gone = full.evict(sum(SIZES[3:]))
    assert sorted(record.label for record in gone) == ["small-0", "small-1", "small-2"]
    assert kept(full) == SPECS[3:]
    assert full.evict(sum(SIZES[3:])) == []
    assert full.evict(sum(SIZES[3:]) - 1) != []
    assert kept(full) == SPECS[4:]
    full.evict(0)
    assert kept(full) == []


def test_a_hit_makes_a_kernel_the_most_recent(full, make_cache):
    assert make_cache().get_or_compile(SPECS[0]).source == "disk"
    full.evict(SIZES[0] + SIZES[5])
    assert kept(full) == [SPECS[0], SPECS[5]]


def test_looking_is_no_use(full, make_cache):
    other = make_cache()
    assert len(other.records()) == 6
    assert other.folder.peek(other.key(SPECS[0])) is not None
    full.evict(SIZES[5])
    assert kept(full) == SPECS[5:]


def test_what_was_evicted_is_compiled_again(full, make_cache, fake_compiler):
    full.evict(sum(SIZES[1:]))
    assert full.get_or_compile(SPECS[0]).source == "memory"
    assert make_cache().lookup(SPECS[0]) is None
    assert make_cache().get_or_compile(SPECS[0]).cubin == fake_cubin(SPECS[0])
    assert fake_compiler == SPECS[:1]


def test_the_kernel_just_made_stays_and_the_oldest_go(full, make_cache):
    newest = small_spec(99)
    cache = make_cache(max_bytes=len(fake_cubin(newest)) + SIZES[5])
    assert cache.get_or_compile(newest).source == "compiled"
    assert kept_labels(cache) == ["small-5", "small-99"]
    assert cache.counts().evicted == 5
    assert make_cache().get_or_compile(newest).source == "disk"


def kept_labels(cache):
    return [record.label for record in cache.records()]


def test_one_that_just_fits_stays_alone(full, make_cache):
    newest = small_spec(99)
    cache = make_cache(max_bytes=len(fake_cubin(newest)))
    cache.get_or_compile(newest)
    assert kept_labels(cache) == ["small-99"]


def test_one_that_is_larger_than_the_limit_is_served_and_pushes_nobody_out(make_cache, fake_compiler):
    small, large = sorted(SPECS, key=lambda spec: len(fake_cubin(spec)))[:: len(SPECS) - 1]
    cache = make_cache(max_bytes=len(fake_cubin(large)) - 1)
    cache.get_or_compile(small)
    kernel = cache.get_or_compile(large)
    assert (kernel.source, kernel.cubin) == ("compiled", fake_cubin(large))
    assert kept_labels(cache) == [small.label]
    assert cache.get_or_compile(large).source == "memory"
    assert (cache.counts().evicted, cache.counts().not_stored) == (0, 1)
    assert make_cache().lookup(large) is None


def test_one_that_somebody_is_busy_with_stays(full):
    busy = KeyClaim(full.folder.locks_path, full.key(SPECS[0]))
    assert busy.acquire()
    with busy:
        full.evict(SIZES[5])
        assert kept(full) == [SPECS[0], SPECS[5]]
        assert not forget(full.folder, full.key(SPECS[0]))
    assert forget(full.folder, full.key(SPECS[0]))
    assert kept(full) == [SPECS[5]]


def test_what_is_no_record_takes_no_room_and_does_no_harm(full):
    (full.folder.records_path / f"{'0' * 64}.json").write_text("no record")
    full.evict(sum(SIZES[3:]))
    assert set(SPECS[3:]) <= set(kept_specs_of_readable(full))


def kept_specs_of_readable(cache):
    labels = kept_labels(cache)
    return [spec for spec in SPECS if spec.label in labels]


def test_a_folder_where_nothing_can_be_removed_still_serves(full, make_cache, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(folder_module.CubinFolder, "remove", refuse)
    cache = make_cache(max_bytes=max(SIZES) * 2)
    assert cache.get_or_compile(small_spec(99)).source == "compiled"
    assert cache.get_or_compile(small_spec(98)).source == "compiled"
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "cannot remove" in caplog.text


def test_two_caches_that_evict_at_once_agree(make_cache, fake_compiler):
    limit = sum(SIZES[:3])
    start = threading.Barrier(4)

    def work(number):
        cache = make_cache(max_bytes=limit)
        start.wait()
        for turn in range(30):
            spec = SPECS[(turn * (number + 1)) % len(SPECS)]
            assert cache.get_or_compile(spec).cubin == fake_cubin(spec)
            cache._memory.clear()
        return cache.evict(limit)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    cache = make_cache(max_bytes=limit)
    cache.evict(limit)
    assert 0 < sum(record.size for record in cache.records()) <= limit
    for spec in kept(cache):
        assert make_cache().get_or_compile(spec).source == "disk"
    assert cache.counts().damaged == 0
