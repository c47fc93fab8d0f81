"""The cubin cache: one compile for a key, and nothing from disk that is not what was stored."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from cache_tools import files_below, modes_apply_to_root, read_only, wait_for
from small_kernel import KERNEL, SmallSpec, write_sources

from flashactor.cache import cubin_cache as cache_module
from flashactor.cache import folder as folder_module
from flashactor.cache.claim import KeyClaim
from flashactor.cache.cubin_cache import CacheCounts, CubinCache
from flashactor.cache.record import CubinRecord
from flashactor.compiler.nvrtc import compile_cubin, nvrtc_version, options
from flashactor.errors import CacheCorruptError, CachePermissionError, CompileError
from flashactor.types import SmArch

SPEC = SmallSpec()


@pytest.fixture
def folder(tmp_path):
    """Where the cache is; nobody has created it."""
    return tmp_path / "cubin_cache"


@pytest.fixture
def open_cache(folder, sources):
    """A function that opens the folder anew, as another process would."""
    return lambda: CubinCache(folder, root=sources)


@pytest.fixture
def compiles(monkeypatch):
    """The specifications that were compiled, in order."""
    seen = []

    def counting(spec, **arguments):
        seen.append(spec)
        return compile_cubin(spec, **arguments)

    monkeypatch.setattr(cache_module, "compile_cubin", counting)
    return seen


def cubin_path(folder):
    (path,) = (p for p in (folder / "cubins").rglob("*") if p.is_file())
    return path


def record_path(folder):
    (path,) = (folder / "records").iterdir()
    return path


def test_compiled_then_memory_then_disk(open_cache, compiles):
    cache = open_cache()
    assert cache.lookup(SPEC) is None
    kernels = [cache.get_or_compile(SPEC), cache.get_or_compile(SPEC), cache.lookup(SPEC)]
    other = open_cache()
    kernels += [other.lookup(SPEC), other.lookup(SPEC), other.get_or_compile(SPEC)]
    assert [k.source for k in kernels] == ["compiled", "memory", "memory", "disk", "memory", "memory"]
    assert len({k.cubin for k in kernels}) == len({k.record for k in kernels}) == len(compiles) == 1


def test_a_lookup_that_misses_creates_nothing(open_cache, folder):
    assert open_cache().lookup(SPEC) is None
    assert open_cache().records() == []
    assert not folder.exists()


def test_the_record_says_how_the_cubin_was_made(open_cache, folder):
    cache = open_cache()
    kernel = cache.get_or_compile(SPEC)
    record = kernel.record
    assert (record.label, record.entry, record.source) == (SPEC.label, "small", "small/kernel.cu")
    assert (record.arch, record.options) == ("sm_80", options(SPEC))
    assert record.nvrtc_version == nvrtc_version()
    assert record.size == len(kernel.cubin) == cubin_path(folder).stat().st_size
    assert record.registers > 0
    assert (record.shared_bytes, record.spill_bytes, record.stack_bytes) == (128, 0, 0)
    assert record.key == cache.key(SPEC) == record_path(folder).stem
    assert cache.records() == [record] == [CubinRecord.from_json(record.to_json())]
    assert str(folder.parent) not in record_path(folder).read_text()


def test_records_are_sorted_and_skip_what_is_none(open_cache, folder):
    cache = open_cache()
    for arch in (SmArch.SM90A, SmArch.SM80):
        cache.get_or_compile(SmallSpec(arch))
    (folder / "records" / "stray.json").write_text("not a record")
    assert [r.arch for r in cache.records()] == ["sm_80", "sm_90a"]


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"options": []}', "\x00", "null"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(CacheCorruptError):
        CubinRecord.from_json(text)


def test_a_record_with_a_field_of_another_type_is_refused(open_cache):
    values = json.loads(open_cache().get_or_compile(SPEC).record.to_json())
    with pytest.raises(CacheCorruptError):
        CubinRecord.from_json(json.dumps(values | {"size": "12"}))


def test_the_key_is_the_same_in_every_folder(folder, tmp_path, sources):
    elsewhere = write_sources(tmp_path / "elsewhere")
    assert CubinCache(folder, root=sources).key(SPEC) == CubinCache(tmp_path / "other", root=elsewhere).key(
        SPEC
    )


def test_the_key_changes_with_all_that_changes_the_cubin(open_cache, folder, tmp_path, monkeypatch):
    cache = open_cache()
    edited = write_sources(tmp_path / "edited", KERNEL + "// more\n")
    header = write_sources(tmp_path / "header")
    (header / "common/twice.cuh").write_text("#define twice(x) (2 * (x))\n")
    keys = [
        cache.key(SPEC),
        cache.key(replace(SPEC, arch=SmArch.SM86)),
        cache.key(replace(SPEC, defines=(("SCALE", "4.0f"),))),
        cache.key(replace(SPEC, defines=())),
        CubinCache(folder, root=edited).key(SPEC),
        CubinCache(folder, root=header).key(SPEC),
    ]
    monkeypatch.setattr(cache_module, "nvrtc_version", lambda: "99.9")
    keys.append(open_cache().key(SPEC))
    assert len(set(keys)) == len(keys)


def test_the_key_ignores_what_people_call_the_kernel(open_cache):
    assert open_cache().key(SPEC) == open_cache().key(replace(SPEC, label="renamed"))


def test_another_process_finds_the_cubin(open_cache, folder, sources):
    kernel = open_cache().get_or_compile(SPEC)
    statement = f"""
import sys
from pathlib import Path
sys.path[:] = {sys.path!r}
from flashactor.cache.cubin_cache import CacheCounts, CubinCache
from small_kernel import SmallSpec
kernel = CubinCache(Path({str(folder)!r}), root=Path({str(sources)!r})).get_or_compile(SmallSpec())
print(kernel.source, kernel.record.sha256)
"""
    done = subprocess.run([sys.executable, "-c", statement], check=True, stdout=subprocess.PIPE)
    assert done.stdout.decode().split() == ["disk", kernel.record.sha256]


def flip_a_byte(folder):
    content = bytearray(cubin_path(folder).read_bytes())
    content[len(content) // 2] ^= 1
    cubin_path(folder).write_bytes(content)


def truncate(folder):
    cubin_path(folder).write_bytes(cubin_path(folder).read_bytes()[:100])


def empty(folder):
    cubin_path(folder).write_bytes(b"")


def lose_the_cubin(folder):
    cubin_path(folder).unlink()


def garble_the_record(folder):
    record_path(folder).write_text('{"label": "sma')


def record_of_another_key(folder):
    record = CubinRecord.from_json(record_path(folder).read_text())
    record_path(folder).write_text(replace(record, source_digest="0" * 64).to_json())


def make_the_record_unreadable(folder):
    path = record_path(folder)
    path.unlink()
    path.symlink_to(path)  # opening it fails with ELOOP; os.replace heals it


def make_the_cubin_unreadable(folder):
    path = cubin_path(folder)
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        truncate,
        empty,
        lose_the_cubin,
        garble_the_record,
        record_of_another_key,
        make_the_record_unreadable,
        make_the_cubin_unreadable,
    ],
)
def test_a_damaged_entry_is_compiled_again_and_healed(damage, open_cache, folder, compiles, caplog):
    cubin = open_cache().get_or_compile(SPEC).cubin
    damage(folder)
    with caplog.at_level(logging.WARNING, "flashactor.cache"):
        assert open_cache().lookup(SPEC) is None
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    caplog.clear()
    healed = open_cache().get_or_compile(SPEC)
    assert (healed.source, healed.cubin) == ("compiled", cubin)
    caplog.clear()
    assert open_cache().get_or_compile(SPEC).source == "disk"
    assert not caplog.records
    assert len(compiles) == 2


def test_a_cubin_without_a_record_is_compiled_again(open_cache, folder, compiles):
    open_cache().get_or_compile(SPEC)
    record_path(folder).unlink()
    assert open_cache().get_or_compile(SPEC).source == "compiled"
    assert open_cache().get_or_compile(SPEC).source == "disk"
    assert len(compiles) == 2


def test_a_stampede_compiles_once(open_cache, compiles):
    cache, start = open_cache(), threading.Barrier(16)

    def ask(_):
        start.wait()
        return cache.get_or_compile(SPEC)

    with ThreadPoolExecutor(16) as pool:
        kernels = list(pool.map(ask, range(16)))
    assert len(compiles) == 1
    assert len({kernel.cubin for kernel in kernels}) == 1


def test_different_kernels_compile_at_the_same_time(open_cache, monkeypatch):
    cache, both = open_cache(), threading.Barrier(2)

    def meeting(spec, **arguments):
        both.wait(timeout=60)  # broken unless the other compile has begun
        return compile_cubin(spec, **arguments)

    monkeypatch.setattr(cache_module, "compile_cubin", meeting)
    with ThreadPoolExecutor(2) as pool:
        kernels = list(pool.map(cache.get_or_compile, map(SmallSpec, (SmArch.SM80, SmArch.SM90A))))
    assert [k.record.arch for k in kernels] == ["sm_80", "sm_90a"]


def test_a_failure_reaches_every_waiter_and_is_not_kept(open_cache, monkeypatch):
    cache, release, calls, waiting = open_cache(), threading.Event(), [], Counter()
    acquire = KeyClaim.acquire

    def counting(claim):
        acquired = acquire(claim)
        if calls and not acquired:
            waiting[id(claim)] += 1
        return acquired

    def failing(spec, **_):
        calls.append(spec)
        assert release.wait(60)
        raise CompileError("kernel source", "an error", "none", "mend it")

    monkeypatch.setattr(KeyClaim, "acquire", counting)
    monkeypatch.setattr(cache_module, "compile_cubin", failing)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.get_or_compile, SPEC) for _ in range(4)]
        # Between two attempts at the claim, a waiter has read whose compile it waits for.
        wait_for(lambda: len(waiting) == 3 and min(waiting.values()) > 1, "waiting for the fourth by three")
        release.set()
        assert all(isinstance(future.exception(60), CompileError) for future in asked)
    assert calls == [SPEC]
    monkeypatch.setattr(cache_module, "compile_cubin", compile_cubin)
    assert cache.get_or_compile(SPEC).source == "compiled"


def test_a_folder_that_cannot_be_created_is_named_before_compiling(tmp_path, sources, compiles):
    (tmp_path / "file").write_text("")
    cache = CubinCache(tmp_path / "file" / "cache", root=sources)
    assert cache.lookup(SPEC) is None
    assert cache.records() == []
    with pytest.raises(CachePermissionError, match="FLASHACTOR_CACHE_DIR") as caught:
        cache.get_or_compile(SPEC)
    assert str(tmp_path / "file" / "cache") in caught.value.got
    assert not compiles


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_folder_that_takes_no_file_costs_a_warning_and_the_next_compile(
    code, open_cache, folder, monkeypatch, caplog, compiles
):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    cache = open_cache()
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, "replace", refuse)
        assert cache.get_or_compile(SPEC).source == "compiled"
        assert cache.get_or_compile(SPEC).source == "memory"
        assert cache.get_or_compile(SmallSpec(SmArch.SM90A)).source == "compiled"
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert os.strerror(code) in caplog.text
    assert str(folder) in caplog.text
    assert cache.counts().not_stored == 2
    assert not [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]
    compiles.clear()
    assert open_cache().get_or_compile(SPEC).source == "compiled"
    assert len(compiles) == 1


def test_a_read_only_cache_still_answers(open_cache, folder, monkeypatch):
    open_cache().get_or_compile(SPEC)

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(folder_module.os, "replace", refuse)
    monkeypatch.setattr(folder_module.tempfile, "mkstemp", refuse)
    assert open_cache().get_or_compile(SPEC).source == "disk"


def test_the_counts_say_where_kernels_came_from(open_cache, folder, sources, tmp_path):
    first = open_cache()
    first.get_or_compile(SPEC)
    first.get_or_compile(SPEC)
    assert first.counts() == CacheCounts(compiled=1, memory_hits=1)
    second = open_cache()
    for _ in range(3):
        second.get_or_compile(SPEC)
    assert second.counts() == CacheCounts(disk_hits=1, memory_hits=2)
    third = CubinCache(tmp_path / "empty", root=sources, bundles=[folder])
    assert [third.get_or_compile(SPEC).source for _ in range(2)] == ["bundle", "memory"]
    assert third.counts() == CacheCounts(bundle_hits=1, memory_hits=1)
    assert [layer.path for layer in third.layers] == [tmp_path / "empty", folder]
    counts = third.counts()
    counts.bundle_hits = 99
    assert third.counts().bundle_hits == 1


def test_a_failed_compile_is_counted(open_cache, sources):
    write_sources(sources, KERNEL.replace("SCALE", "SCALES"))
    cache = open_cache()
    for _ in range(2):
        with pytest.raises(CompileError):
            cache.get_or_compile(SPEC)
    assert cache.counts() == CacheCounts(failed=2)


def test_a_damaged_entry_is_set_aside_where_people_find_it(open_cache, folder):
    kernel = open_cache().get_or_compile(SPEC)
    flip_a_byte(folder)
    damaged, record = cubin_path(folder).read_bytes(), record_path(folder).read_bytes()
    cache = open_cache()
    assert cache.lookup(SPEC) is None
    assert cache.counts() == CacheCounts(damaged=1)
    aside = folder / "quarantine" / cache.key(SPEC)
    assert aside.with_suffix(".cubin").read_bytes() == damaged
    assert aside.with_suffix(".json").read_bytes() == record
    assert cache.records() == []
    assert cache.get_or_compile(SPEC).cubin == kernel.cubin
    assert open_cache().get_or_compile(SPEC).source == "disk"
    assert aside.with_suffix(".cubin").read_bytes() == damaged


def test_a_folder_without_a_right_to_write_serves_and_warns_once(open_cache, folder, caplog):
    open_cache().get_or_compile(SPEC)
    before = files_below(folder)
    others = [replace(SPEC, arch=arch) for arch in (SmArch.SM86, SmArch.SM90A)]
    with read_only(folder):
        cache = open_cache()
        assert cache.get_or_compile(SPEC).source == "disk"
        assert caplog.records == []
        assert [cache.get_or_compile(spec).source for spec in (*others, *others)] == [
            "compiled",
            "compiled",
            "memory",
            "memory",
        ]
    assert files_below(folder) == before
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert cache.counts() == CacheCounts(disk_hits=1, memory_hits=2, compiled=2, not_stored=2)


def test_a_folder_that_cannot_be_read_costs_one_warning(open_cache, folder, caplog):
    open_cache().get_or_compile(SPEC)
    (folder / "records").chmod(0o000)
    try:
        with modes_apply_to_root():
            cache = open_cache()
            assert cache.lookup(SPEC) is None
            assert cache.lookup(SPEC) is None
    finally:
        (folder / "records").chmod(0o700)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "cannot read" in caplog.text
    assert open_cache().get_or_compile(SPEC).source == "disk"
