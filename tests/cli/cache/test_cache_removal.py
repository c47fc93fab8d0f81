"""``flashactor cache prune`` and ``clear``: what goes, and what stays."""

import json
import os
import shutil
import time

import pytest
from cache_tools import read_only
from cached_kernels import BF16, F16, cubin_files, damage, key_of, rewrite_record

from flashactor.cache.claim import KeyClaim


def test_prune_without_anything_to_do(flashactor, cache):
    run = flashactor("cache", "prune", "--stale", "--older-than", 1, "--max-bytes", "1G")
    assert (run.code, run.out, run.err) == (0, "nothing to remove\n", "")
    assert len(cache.records()) == 2


def test_prune_keeps_the_most_recently_used(flashactor, cache, monkeypatch):
    os.utime(cache.folder.records_path / f"{key_of(cache, F16)}.json", (1e9, 1e9))
    size = sum(record.size for record in cache.records())
    dry = flashactor("cache", "prune", "--max-bytes", size - 1, "--dry-run")
    assert dry.out.startswith(f"{F16} (size limit)\nwould remove 1 kernel (size limit)")
    assert len(cache.records()) == 2
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", str(size - 1))
    document = json.loads(flashactor("cache", "prune", "--json").out)
    assert [removal["label"] for removal in document["kernels"]] == [F16]
    assert document["bytes"] > 0
    assert [record.label for record in cache.records()] == [BF16]
    assert len(cubin_files(cache.path)) == 1


def test_prune_by_last_use(flashactor, cache):
    used = time.time() - 3 * 86400
    os.utime(cache.folder.records_path / f"{key_of(cache)}.json", (used, used))
    assert flashactor("cache", "prune", "--older-than", 4).out == "nothing to remove\n"
    assert f"{BF16} (unused)" in flashactor("cache", "prune", "--older-than", 2.5).out
    assert [record.label for record in cache.records()] == [F16]


@pytest.mark.parametrize(
    "fields",
    [{"source_digest": "0" * 64}, {"nvrtc_version": "12.0 (wheel 12.0.1)"}, {"options": ["-arch=sm_70"]}],
    ids=lambda fields: next(iter(fields)),
)
def test_prune_removes_what_nothing_looks_up(flashactor, cache, fields):
    rewrite_record(cache, BF16, **fields)
    flashactor("cache", "prune")
    assert len(cache.records()) == 2
    assert f"{BF16} (stale)" in flashactor("cache", "prune", "--stale").out
    assert [record.label for record in cache.records()] == [F16]


def test_no_file_that_a_record_names_is_opened(flashactor, cache, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    rewrite_record(cache, BF16, source=str(tmp_path / "pipe"))
    assert flashactor("cache", "prune", "--stale").out == "nothing to remove\n"
    assert json.loads(flashactor("cache", "show", BF16, "--json").out)["current"] is True


def test_prune_removes_litter_and_nothing_else(flashactor, cache):
    folder = cache.folder
    folder.set_aside(key_of(cache, F16))
    for name, age in (("old", 1e9), ("new", time.time())):
        path = folder.records_path / f".{name}.tmp"
        path.write_text("half a rec")
        os.utime(path, (age, age))
    theirs = [folder.quarantine_path / "notes.txt", folder.locks_path / "notes.json", cache.path / "README"]
    for path in theirs:
        path.write_text("mine")
    (folder.locks_path / f"{'a' * 64}.json").write_text("{}")
    busy = KeyClaim(folder.locks_path, "b" * 64)
    assert busy.acquire()
    dry = json.loads(flashactor("cache", "prune", "--dry-run", "--json").out)
    with busy:
        document = json.loads(flashactor("cache", "prune", "--json").out)
    # the lock of the kernel that was set aside, and the note without a lock
    assert (document["quarantined"], document["temporary"], document["locks"]) == (1, 1, 2)
    assert {**dry, "dry_run": False} == document
    assert all(path.read_text() == "mine" for path in theirs)
    assert (folder.records_path / ".new.tmp").exists()
    assert (folder.locks_path / f"{'b' * 64}.lock").exists()
    assert [record.label for record in cache.records()] == [BF16]


def test_prune_removes_the_cubin_of_a_killed_writer(flashactor, cache):
    (cache.folder.records_path / f"{key_of(cache)}.json").unlink()
    assert "removed 1 lock:" in flashactor("cache", "prune").out
    assert len(cubin_files(cache.path)) == 1


def test_clear_leaves_what_is_not_ours(flashactor, cache):
    cache.folder.set_aside(key_of(cache, F16))
    (cache.path / "README.md").write_text("mine")
    (cache.folder.records_path / "notes.json").write_text("mine")
    run = flashactor("cache", "clear")
    assert (run.code, run.err) == (0, "")
    assert f"{BF16} (cleared)" in run.out
    assert {path.name for path in cache.path.rglob("*") if path.is_file()} == {"README.md", "notes.json"}
    assert flashactor("cache", "clear").out == "nothing to remove\n"


def test_clear_removes_unreadable_records_too(flashactor, cache):
    key = key_of(cache)
    (cache.folder.records_path / f"{key}.json").write_text("{")
    assert f"{key} (cleared)" in flashactor("cache", "clear").out
    assert cubin_files(cache.path) == []


def test_clear_leaves_and_reports_what_a_process_is_busy_with(flashactor, cache):
    claim = KeyClaim(cache.folder.locks_path, key_of(cache))
    assert claim.acquire()
    with claim:
        run = flashactor("cache", "clear")
    assert run.code == 0
    assert f"{F16} (cleared)" in run.out
    assert "busy" in run.err
    assert [record.label for record in cache.records()] == [BF16]
    assert cache.folder.peek(key_of(cache)) is not None


def test_what_cannot_be_removed_is_named_and_the_rest_goes(flashactor, cache):
    folder, key = cache.folder, key_of(cache)
    folder.record_path(key).unlink()
    (folder.record_path(key) / "mine").mkdir(parents=True)
    (folder.records_path / ".x.tmp").mkdir()
    os.utime(folder.records_path / ".x.tmp", (1e9, 1e9))
    os.mkfifo(folder.records_path / f"{'c' * 64}.json")
    (folder.locks_path / f"{'a' * 64}.lock").mkdir()
    (folder.path / "quarantine" / f"{'b' * 64}.json").mkdir(parents=True)
    assert flashactor("cache", "list").code == 0
    assert flashactor("cache", "verify").code == 1
    assert flashactor("cache", "prune").code == 0
    run = flashactor("cache", "clear")
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert f"{key} cannot be removed: Is a directory" in run.err
    assert f"{F16} (cleared)" in run.out
    assert cache.records() == []
    failed = json.loads(flashactor("cache", "clear", "--json").out)["failed"]
    assert [failure["name"] for failure in failed] == [key]


def test_a_folder_that_cannot_be_written_is_a_failure(flashactor, cache):
    damage(cache)
    with read_only(cache.path):
        for command in (["clear"], ["prune", "--max-bytes", 0], ["verify", "--repair"]):
            run = flashactor("cache", *command)
            assert (run.code, run.err.count("\n")) == (1, 1), command
            assert str(cache.path) in run.err
    assert len(cache.records()) == 2


def test_cubins_without_a_record_go_with_the_next_sweep(flashactor, cache):
    shutil.rmtree(cache.folder.records_path)
    shutil.rmtree(cache.folder.locks_path)
    old, new = cubin_files(cache.path)
    os.utime(old, (1e9, 1e9))
    assert "would remove 1 cubin without a record" in flashactor("cache", "prune", "--dry-run").out
    assert json.loads(flashactor("cache", "prune", "--json").out)["orphans"] == 1
    assert cubin_files(cache.path) == [new]
    assert "removed 1 cubin without a record" in flashactor("cache", "clear").out
    assert cubin_files(cache.path) == []
