"""A folder of cubins: what a record may say, what a bundle is spared, and damage that cannot leave."""

import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cache_tools import fake_compile, files_below, read_only, small_spec

from flashactor.cache import CubinRecord
from flashactor.cache import claim as claim_module
from flashactor.cache import cubin_cache as cache_module
from flashactor.cache.claim import KeyClaim
from flashactor.errors import CacheCorruptError

SPEC = small_spec(3)
pytestmark = pytest.mark.usefixtures("fake_compiler")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", -1),
        ("size", 10**400),
        ("size", True),
        ("registers", 1.0),
        ("compile_seconds", float("nan")),
        ("compile_seconds", float("inf")),
        ("compile_seconds", -1.0),
        ("label", "\x1b[2J"),
        ("label", "\ud800"),
        ("source", "fwd.cu\0"),
        ("options", [1]),
        ("options", "text"),
        ("created", None),
    ],
)
def test_a_record_says_nothing_that_this_program_does_not_write(field, value, make_cache):
    record = make_cache().get_or_compile(SPEC).record
    with pytest.raises(CacheCorruptError):
        CubinRecord.from_json(json.dumps({**json.loads(record.to_json()), field: value}))


def test_a_bundle_folder_is_read_and_never_touched(make_cache, tmp_path):
    kernel = make_cache("bundle").get_or_compile(SPEC)
    folder = tmp_path / "bundle"
    (folder / "cubins" / "tmp").rmdir()  # as git or an archive would leave it
    before = {path: path.stat()[:9] for path in folder.rglob("*")}
    with read_only(folder):
        found = make_cache("empty", bundles=[folder], compiling=False).get_or_compile(SPEC)
    assert (found.source, found.cubin) == ("bundle", kernel.cubin)
    assert {path: path.stat()[:9] for path in folder.rglob("*")} == before


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_damage_and_holds_nobody_up(make, make_cache, fake_compiler):
    cache = make_cache()
    cache.get_or_compile(SPEC)
    path = cache.folder.record_path(cache.key(SPEC))
    path.unlink()
    make(path)
    assert make_cache().get_or_compile(SPEC).source == "compiled"
    assert make_cache().get_or_compile(SPEC).source == "disk"
    assert len(fake_compiler) == 2


def test_damage_that_cannot_leave_is_no_lie(make_cache, caplog):
    cache = make_cache()
    cache.get_or_compile(SPEC)
    (cubin,) = files_below(cache.path / "cubins")
    cubin.write_bytes(b"damage")
    other = make_cache(compiling=False)
    with read_only(cache.path), caplog.at_level(logging.WARNING):
        assert other.lookup(SPEC) is None
        assert other.lookup(SPEC) is None
    (record,) = caplog.records
    assert "cannot be set aside" in record.message
    assert cubin.read_bytes() == b"damage"


def test_threads_compile_once_also_where_nothing_can_be_stored(make_cache, monkeypatch, tmp_path):
    compiled, start = [], threading.Barrier(8)

    def slow(spec, *, root=None):
        compiled.append(spec)
        threading.Event().wait(0.05)
        return fake_compile(spec)

    monkeypatch.setattr(cache_module, "compile_cubin", slow)
    (tmp_path / "cache").mkdir(mode=0o700)
    cache = make_cache()

    def ask(_):
        start.wait()
        return cache.get_or_compile(SPEC).cubin

    def refuse(*_):
        raise PermissionError(13, "no")

    monkeypatch.setattr(KeyClaim, "acquire", refuse)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert len(compiled) == 1


def test_a_kernel_that_was_compiled_beside_a_hung_owner_is_stored(make_cache, monkeypatch, caplog):
    monkeypatch.setattr(claim_module, "PATIENCE_SECONDS", 0.05)
    cache = make_cache()
    cache.folder.create()
    owner = KeyClaim(cache.folder.locks_path, cache.key(SPEC))
    assert owner.acquire()
    with owner:
        assert cache.get_or_compile(SPEC).source == "compiled"
        assert make_cache().get_or_compile(SPEC).source == "disk"
    assert "another process has been busy" in caplog.text


@pytest.mark.parametrize(
    "note", ["[[" * 50_000, "[]", "null", '{"attempt": 1, "pid": null}', '{"pid": [1]}', "\x00"]
)
def test_a_garbled_note_is_no_obstacle(note, make_cache, monkeypatch):
    monkeypatch.setattr(claim_module, "PATIENCE_SECONDS", 0.05)
    cache = make_cache()
    cache.folder.create()
    key = cache.key(SPEC)
    (cache.folder.locks_path / f"{key}.json").write_text(note)
    owner = KeyClaim(cache.folder.locks_path, key)
    assert owner.acquire()
    with owner:
        assert cache.get_or_compile(SPEC).source == "compiled"
