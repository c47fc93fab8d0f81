"""``flashactor cache``: what it shows, removes, exports and imports, and what it says to bad input."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from flashactor.cache import CubinCache
from flashactor.cache.bundle import BundleFile
from flashactor.cache.claim import KeyClaim, forget
from flashactor.cache.folder import CubinFolder, write_atomically
from flashactor.cli.main import main

SMALL = ("--arch", "sm_80", "--head-dim", "32", "--dtype", "bf16")
CAUSAL = "sm80_mma.fwd.bf16.d32.causal.128x128w4.sm_80"
FULL = "sm80_mma.fwd.bf16.d32.full.128x128w4.sm_80"
UNCACHED = "sm80_mma.fwd.bf16.d64.full.128x112w4.sm_80"


@pytest.fixture(scope="module")
def warmed(tmp_path_factory):
    """A folder with two kernels, which no test changes."""
    folder = tmp_path_factory.mktemp("warmed") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHACTOR_CACHE_DIR", str(folder))
        assert main(["warm", *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(warmed, tmp_path_factory):
    """The bytes of a bundle of those two kernels."""
    bundle = tmp_path_factory.mktemp("exported") / "two.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHACTOR_CACHE_DIR", str(warmed))
        assert main(["cache", "export", str(bundle)]) == 0
    return bundle.read_bytes()


@pytest.fixture
def cache(warmed, tmp_path):
    """The test's own cache folder, with the two kernels."""
    shutil.copytree(warmed, tmp_path / "cache")
    return CubinCache(tmp_path / "cache")


@pytest.fixture
def bundle(exported, tmp_path):
    """A bundle file of the two kernels."""
    (tmp_path / "two.zip").write_bytes(exported)
    return tmp_path / "two.zip"


def key_of(cache, label=CAUSAL):
    return next(record.key for record in cache.records() if record.label == label)


def cubin_files(folder):
    return sorted(path for path in (folder / "cubins" / "entries").rglob("*") if path.is_file())


def damage(cache, label=CAUSAL):
    """Flip a bit in the middle of a kernel's cubin."""
    content = cache.folder.peek(key_of(cache, label)).cubin
    path = next(path for path in cubin_files(cache.path) if path.read_bytes() == content)
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])


def rewrite_record(cache, label, **fields):
    """Store a kernel under the key of a record with other fields, as another installation would have."""
    key = key_of(cache, label)
    kernel = cache.folder.peek(key)
    document = {**json.loads(kernel.record.to_json()), **fields}
    record = type(kernel.record).from_json(json.dumps(document))
    cache.folder.remove(key)
    cache.folder.store(record, kernel.cubin)
    return record.key


# ---- list, show, path, stats ----


def test_list_shows_every_kernel(flashactor, cache):
    run = flashactor("cache", "list")
    assert (run.code, run.err) == (0, "")
    assert run.out.index(CAUSAL) < run.out.index(FULL)
    assert run.out.splitlines()[-1].startswith("2 kernels, ")
    assert "\x1b" not in run.out


def test_list_json_and_pattern(flashactor, cache):
    (found,) = json.loads(flashactor("cache", "list", "causal", "--json").out)
    assert set(found) == {
        "label",
        "key",
        "arch",
        "size",
        "registers",
        "compile_seconds",
        "created",
        "last_used",
        "layer",
    }
    assert (found["label"], found["arch"], found["layer"]) == (CAUSAL, "sm_80", str(cache.path))
    assert json.loads(flashactor("cache", "list", "sm_90a", "--json").out) == []


def test_looking_is_no_use(flashactor, cache, tmp_path):
    for record in cache.folder.records_path.iterdir():
        os.utime(record, (1e9, 1e9))
    for command in (["list"], ["verify"], ["export", "x.zip"], ["show", CAUSAL, "-o", "x.cubin"]):
        assert flashactor("cache", *command).code == 0
    assert {record.stat().st_mtime for record in cache.folder.records_path.iterdir()} == {1e9}


def test_an_empty_cache_is_no_error_and_is_not_created(flashactor, tmp_path):
    assert flashactor("cache", "list").out == "0 kernels, 0 bytes\n"
    assert json.loads(flashactor("cache", "stats", "--json").out)[0]["kernels"] == 0
    assert flashactor("cache", "verify").out == "0 entries, 0 damaged\n"
    for command in ("prune", "clear"):
        assert flashactor("cache", command).out == "nothing to remove\n"
    assert not (tmp_path / "cache").exists()


def test_list_names_damaged_records_and_goes_on(flashactor, cache):
    key = key_of(cache)
    (cache.folder.records_path / f"{key}.json").write_text("{")
    run = flashactor("cache", "list")
    assert run.code == 0
    assert FULL in run.out
    assert key in run.err
    assert "cache verify" in run.err


def test_bundles_are_layers_after_the_folder(flashactor, cache, bundle, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_BUNDLES", str(bundle))
    found = json.loads(flashactor("cache", "list", "--json").out)
    assert [held["layer"] for held in found] == [str(cache.path)] * 2 + [str(bundle)] * 2
    assert found[2]["last_used"] is None
    folder, file = json.loads(flashactor("cache", "stats", "--json").out)
    assert (folder["kind"], folder["writable"], file["kind"], file["writable"]) == (
        "folder",
        True,
        "bundle",
        False,
    )
    assert folder["bytes"] == file["bytes"]
    assert (folder["compile_seconds"] > 0, file["compile_seconds"]) == (True, 0)
    assert (folder["by_arch"], file["by_arch"]) == ({"sm_80": 2}, {"sm_80": 2})
    assert json.loads(flashactor("cache", "path", "--json").out) == {
        "folder": str(cache.path),
        "bundles": [str(bundle)],
    }
    # One kernel in two layers is one kernel.
    assert json.loads(flashactor("cache", "show", CAUSAL, "--json").out)["layer"] == str(cache.path)


def test_stats_counts_the_limit_and_the_quarantine(flashactor, cache, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", "1M")
    cache.folder.set_aside(key_of(cache))
    stats = json.loads(flashactor("cache", "stats", "--json").out)[0]
    assert (stats["kernels"], stats["quarantined"], stats["limit"]) == (1, 1, 1 << 20)
    assert "of 1.0 MiB at most" in flashactor("cache", "stats").out


def test_path_is_one_line_for_shells(flashactor, tmp_path):
    assert flashactor("cache", "path").out == f"{tmp_path / 'cache'}\n"


@pytest.mark.parametrize("name", [CAUSAL, "sm80_mma.fwd.bf16.d32.c", "key", "prefix"])
def test_show_by_label_key_or_prefix(flashactor, cache, name):
    key = key_of(cache)
    name = {"key": key, "prefix": key[:20]}.get(name, name)
    document = json.loads(flashactor("cache", "show", name, "--json").out)
    assert (document["label"], document["key"], document["current"]) == (CAUSAL, key, True)
    assert document["options"][0] == "-arch=sm_80"
    assert key in flashactor("cache", "show", name).out


def test_show_writes_the_cubin(flashactor, cache, tmp_path):
    document = json.loads(flashactor("cache", "show", CAUSAL, "-o", "k.cubin", "--json").out)
    content = (tmp_path / "k.cubin").read_bytes()
    assert content.startswith(b"\x7fELF")
    assert sha256(content).hexdigest() == document["sha256"]


def test_show_writes_no_damaged_cubin(flashactor, cache, tmp_path):
    damage(cache)
    run = flashactor("cache", "show", CAUSAL, "-o", "k.cubin")
    assert (run.code, run.err.count("\n"), (tmp_path / "k.cubin").exists()) == (1, 1, False)


@pytest.mark.parametrize(
    ("name", "candidate"), [("sm80_mma", FULL), ("d32.causl", CAUSAL), ("", CAUSAL)], ids=str
)
def test_show_lists_candidates(flashactor, cache, name, candidate):
    run = flashactor("cache", "show", name)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert candidate in run.err


def test_of_two_kernels_of_a_label_the_current_one_is_shown(flashactor, cache):
    key = key_of(cache)
    kernel = cache.folder.peek(key)
    old = rewrite_record(cache, CAUSAL, source_digest="0" * 64)
    cache.folder.store(kernel.record, kernel.cubin)
    assert json.loads(flashactor("cache", "show", CAUSAL, "--json").out)["key"] == key
    assert json.loads(flashactor("cache", "show", old, "--json").out)["current"] is False


# ---- verify ----


def test_verify_finds_every_damaged_entry(flashactor, cache, bundle, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_BUNDLES", f"{bundle}{os.pathsep}{bundle.with_name('gone.zip')}")
    damage(cache, CAUSAL)
    damage(cache, FULL)
    run = flashactor("cache", "verify")
    assert run.code == 1
    assert run.out == "4 entries, 3 damaged\n"
    assert all(name in run.err for name in (CAUSAL, FULL, "gone.zip"))
    assert run.err.count("\n") == 3
    document = json.loads(flashactor("cache", "verify", "--json").out)
    assert (document["entries"], len(document["damaged"])) == (4, 3)


def test_verify_repairs_the_folder(flashactor, cache):
    damage(cache)
    (cache.folder.records_path / f"{key_of(cache, FULL)}.json").write_text("no record")
    run = flashactor("cache", "verify", "--repair")
    assert run.code == 0
    assert run.out == "2 entries, 2 damaged, 2 of them set aside\n"
    assert flashactor("cache", "verify").out == "0 entries, 0 damaged\n"
    assert len(list(cache.folder.quarantine_path.glob("*.cubin"))) == 2


def test_verify_leaves_what_a_process_is_busy_with(flashactor, cache):
    damage(cache)
    claim = KeyClaim(cache.folder.locks_path, key_of(cache))
    assert claim.acquire()
    with claim:
        assert flashactor("cache", "verify", "--repair").code == 1


# ---- prune, clear ----


def test_prune_without_anything_to_do(flashactor, cache):
    run = flashactor("cache", "prune", "--stale", "--older-than", 1, "--max-bytes", "1G")
    assert (run.code, run.out, run.err) == (0, "nothing to remove\n", "")
    assert len(cache.records()) == 2


def test_prune_keeps_the_most_recently_used(flashactor, cache, monkeypatch):
    os.utime(cache.folder.records_path / f"{key_of(cache, FULL)}.json", (1e9, 1e9))
    size = sum(record.size for record in cache.records())
    dry = flashactor("cache", "prune", "--max-bytes", size - 1, "--dry-run")
    assert dry.out.startswith(f"{FULL} (size limit)\nwould remove 1 kernel (size limit)")
    assert len(cache.records()) == 2
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", str(size - 1))
    document = json.loads(flashactor("cache", "prune", "--json").out)
    assert [removal["label"] for removal in document["kernels"]] == [FULL]
    assert document["bytes"] > 0
    assert [record.label for record in cache.records()] == [CAUSAL]
    assert len(cubin_files(cache.path)) == 1


def test_prune_by_last_use(flashactor, cache):
    used = time.time() - 3 * 86400
    os.utime(cache.folder.records_path / f"{key_of(cache)}.json", (used, used))
    assert flashactor("cache", "prune", "--older-than", 4).out == "nothing to remove\n"
    assert f"{CAUSAL} (unused)" in flashactor("cache", "prune", "--older-than", 2.5).out
    assert [record.label for record in cache.records()] == [FULL]


@pytest.mark.parametrize(
    "fields",
    [{"source_digest": "0" * 64}, {"nvrtc_version": "12.0 (wheel 12.0.1)"}, {"source": "sm70/gone.cu"}],
    ids=lambda fields: next(iter(fields)),
)
def test_prune_removes_what_nothing_looks_up(flashactor, cache, fields):
    rewrite_record(cache, CAUSAL, **fields)
    flashactor("cache", "prune")
    assert len(cache.records()) == 2
    assert f"{CAUSAL} (stale)" in flashactor("cache", "prune", "--stale").out
    assert [record.label for record in cache.records()] == [FULL]


def test_prune_removes_litter_and_nothing_else(flashactor, cache):
    folder = cache.folder
    folder.set_aside(key_of(cache, FULL))
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
    assert (document["quarantined"], document["temporary"], document["locks"]) == (2, 1, 2)
    assert {**dry, "dry_run": False} == document
    assert all(path.read_text() == "mine" for path in theirs)
    assert (folder.records_path / ".new.tmp").exists()
    assert (folder.locks_path / f"{'b' * 64}.lock").exists()
    assert [record.label for record in cache.records()] == [CAUSAL]


def test_prune_removes_the_cubin_of_a_killed_writer(flashactor, cache):
    (cache.folder.records_path / f"{key_of(cache)}.json").unlink()
    assert "removed 1 lock:" in flashactor("cache", "prune").out
    assert len(cubin_files(cache.path)) == 1


def test_clear_leaves_what_is_not_ours(flashactor, cache):
    cache.folder.set_aside(key_of(cache, FULL))
    (cache.path / "README.md").write_text("mine")
    (cache.folder.records_path / "notes.json").write_text("mine")
    run = flashactor("cache", "clear")
    assert (run.code, run.err) == (0, "")
    assert f"{CAUSAL} (cleared)" in run.out
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
    assert f"{FULL} (cleared)" in run.out
    assert "busy" in run.err
    assert [record.label for record in cache.records()] == [CAUSAL]
    assert cache.folder.peek(key_of(cache)) is not None


# ---- export ----


def test_two_folders_warmed_apart_export_the_same_bytes(flashactor, exported, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "another" / "folder"))
    assert flashactor("warm", *SMALL, "--jobs", 1).code == 0
    document = json.loads(flashactor("cache", "export", "again.zip", "--json").out)
    content = (tmp_path / "again.zip").read_bytes()
    assert content == exported
    assert document == {
        "bundle": "again.zip",
        "kernels": [CAUSAL, FULL],
        "bytes": len(exported),
        "sha256": sha256(exported).hexdigest(),
    }


def test_export_of_a_selection(flashactor, cache, tmp_path):
    by_feature = ("cache", "export", "a.zip", *SMALL, "--feature", "causal", "--json")
    assert json.loads(flashactor(*by_feature).out)["kernels"] == [CAUSAL]
    flashactor("cache", "export", "b.zip", "--kernel", CAUSAL)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_export_takes_stale_kernels_only_when_asked(flashactor, cache):
    rewrite_record(cache, CAUSAL, source_digest="0" * 64)
    assert json.loads(flashactor("cache", "export", "a.zip", "--json").out)["kernels"] == [FULL]
    everything = flashactor("cache", "export", "b.zip", "--all", "--json")
    assert json.loads(everything.out)["kernels"] == [CAUSAL, FULL]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--kernel", UNCACHED], 1, f"flashactor warm --kernel {UNCACHED}"),
        (["--arch", "sm_80", "--head-dim", "64"], 1, "flashactor warm --kernel"),
        (["--kernel", "nonsense"], 2, "sm80_mma.fwd"),
        (["--kernel", CAUSAL, "--all"], 2, "one of them at most"),
        (["--kernel", CAUSAL, "--dtype", "bf16"], 2, "one of them at most"),
    ],
    ids=str,
)
def test_export_refuses_what_it_cannot_write(flashactor, cache, tmp_path, options, code, message):
    run = flashactor("cache", "export", "x.zip", *options)
    assert (run.code, run.err.count("\n"), run.out) == (code, 1, "")
    assert message in run.err
    assert not (tmp_path / "x.zip").exists()


def test_export_of_nothing_or_of_damage_is_an_error(flashactor, cache, tmp_path):
    damage(cache)
    run = flashactor("cache", "export", "x.zip")
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "cache verify --repair" in run.err
    flashactor("cache", "clear")
    run = flashactor("cache", "export", "x.zip")
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "flashactor warm" in run.err
    assert not (tmp_path / "x.zip").exists()


def test_export_overwrites_only_by_force(flashactor, cache, bundle):
    bundle.write_text("something else")
    run = flashactor("cache", "export", bundle)
    assert (run.code, run.err.count("\n"), bundle.read_text()) == (2, 1, "something else")
    assert flashactor("cache", "export", bundle, "--force").code == 0
    assert len(BundleFile(bundle).read()) == 2
    assert flashactor("cache", "export", bundle.parent, "--force").code == 2
    assert flashactor("cache", "export", bundle.parent / "no" / "folder.zip").code == 2


# ---- import ----


def test_import_stores_what_is_not_there_yet(flashactor, bundle, tmp_path):
    assert flashactor("cache", "import", bundle).out == "2 kernels imported, 0 already there\n"
    cache = CubinCache(tmp_path / "cache")
    forget(cache.folder, key_of(cache, FULL))
    document = json.loads(flashactor("cache", "import", bundle, "--json").out)
    assert (document["imported"], document["already_there"]) == ([FULL], [CAUSAL])
    assert all(record.created for record in cache.records())
    assert "0 compiled, 2 were cached" in flashactor("warm", *SMALL).out


def test_import_replaces_a_damaged_kernel(flashactor, cache, bundle):
    damage(cache)
    assert flashactor("cache", "import", bundle).out == "1 kernel imported, 1 already there\n"
    assert flashactor("cache", "verify").code == 0


def members_of(content):
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def archive_of(members, compression=zipfile.ZIP_STORED):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def with_sums(members):
    """Members with a list of sums that fits them, as someone with bad intentions would make it."""
    sums = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in members)
    return [("SHA256SUMS", sums.encode()), *members]


def renamed(members, old, new):
    return [(name.replace(old, new), content) for name, content in members]


HOSTILE = {
    "no archive": lambda members: b"hello",
    "empty": lambda members: b"",
    "an empty archive": lambda members: archive_of([]),
    "no sums": lambda members: archive_of(members[1:]),
    "a name that climbs": lambda members: archive_of(
        with_sums(renamed(members[1:], "cubins/", "../../cubins/"))
    ),
    "an absolute name": lambda members: archive_of(with_sums(renamed(members[1:], "cubins/", "/cubins/"))),
    "a member beside": lambda members: archive_of([*members, ("../evil", b"")]),
    "a name twice": lambda members: archive_of([*members, members[-1]]),
    "compressed": lambda members: archive_of(members, zipfile.ZIP_DEFLATED),
    "another kernel's cubin": lambda members: archive_of(
        with_sums([(name, members[1][1] if ".cubin" in name else text) for name, text in members[1:]])
    ),
    "another kernel's record": lambda members: archive_of(
        with_sums([(name, members[-1][1] if ".json" in name else text) for name, text in members[1:]])
    ),
    "a record of nonsense": lambda members: archive_of(
        with_sums([(name, b"[]" if ".json" in name else text) for name, text in members[1:]])
    ),
    "a record without a cubin": lambda members: archive_of(with_sums(members[2:])),
    "a cubin without a record": lambda members: archive_of(with_sums(members[1:-1])),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_import_refuses_a_hostile_file_and_takes_nothing(flashactor, exported, bundle, tmp_path, name):
    bad = tmp_path / "bad.zip"
    bad.write_bytes(HOSTILE[name](members_of(exported)))
    before = set(tmp_path.parent.rglob("*"))
    run = flashactor("cache", "import", bundle, bad)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "bad.zip" in run.err
    assert set(tmp_path.parent.rglob("*")) == before


def test_import_refuses_flipped_bits_and_lost_ends(flashactor, exported, tmp_path):
    bad, choose = tmp_path / "bad.zip", random.Random(7)
    directory = exported.index(b"PK\x01\x02")
    # the sums and headers, the directory at the end, and a few of the many bytes between
    places = [*range(0, 400, 5), *range(directory, len(exported), 11)]
    places += [choose.randrange(len(exported)) for _ in range(60)]
    expected = {kernel.record.key: kernel.cubin for kernel in _kernels(exported, tmp_path / "good.zip")}
    refused = 0
    for place in places:
        flipped = bytearray(exported)
        flipped[place] ^= 1 << choose.randrange(8)
        bad.write_bytes(flipped)
        run = flashactor("cache", "import", bad)
        if run.code == 2:
            assert (run.err.count("\n"), run.out) == (1, ""), place
            refused += 1
        else:  # times, modes and versions of members: nothing that is read
            assert run.code == 0, place
            folder = CubinFolder(tmp_path / "cache")
            assert {key: folder.peek(key).cubin for key in folder.list_keys()} == expected, place
            flashactor("cache", "clear")
    assert refused > len(places) / 2
    for length in [*range(0, len(exported), 997), len(exported) - 1]:
        bad.write_bytes(exported[:length])
        run = flashactor("cache", "import", bad)
        assert (run.code, run.err.count("\n")) == (2, 1), length
    assert CubinCache(tmp_path / "cache").records() == []


def _kernels(content, path):
    path.write_bytes(content)
    return BundleFile(path).read()


@pytest.mark.parametrize("path", ["gone.zip", "."])
def test_import_of_what_is_no_file(flashactor, path):
    run = flashactor("cache", "import", path)
    assert (run.code, run.err.count("\n")) == (2, 1)


def test_import_into_a_full_disk(flashactor, bundle, monkeypatch):
    def full(self, record, cubin):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CubinFolder, "store", full)
    run = flashactor("cache", "import", bundle)
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "No space left" in run.err


def test_import_into_what_is_no_folder(flashactor, bundle, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    run = flashactor("cache", "import", bundle)
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "FLASHACTOR_CACHE_DIR" in run.err


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_bundle_serves_a_process_that_may_not_compile(bundle, cache, tmp_path, kind):
    environment = {
        **os.environ,
        "FLASHACTOR_CACHE_DIR": str(tmp_path / "empty"),
        "FLASHACTOR_CACHE_BUNDLES": str(bundle if kind == "file" else cache.path),
        "FLASHACTOR_NO_COMPILE": "1",
    }
    warm = subprocess.run(
        [sys.executable, "-m", "flashactor", "warm", *SMALL, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (warm.returncode, warm.stderr) == (0, "")
    document = json.loads(warm.stdout)
    assert (document["compiled"], document["cached"], document["failed"]) == (0, 2, [])
    assert not list(Path(tmp_path / "empty").rglob("*.json"))


# ---- bad input ----


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["prune", "--max-bytes", "much"],
        ["prune", "--max-bytes", "-1"],
        ["prune", "--older-than", "-1"],
        ["prune", "--older-than", "nan"],
        ["prune", "--older-than", "soon"],
        ["import"],
        ["show"],
        ["export", "x.zip", "--head-dim", "100"],
        ["list", "a", "b"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(flashactor, arguments):
    run = flashactor("cache", *arguments)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)


def test_a_folder_that_others_may_write_is_refused(flashactor, cache):
    cache.path.chmod(0o777)
    for command in (["list"], ["stats"], ["prune"], ["clear"], ["show", CAUSAL], ["export", "x.zip"]):
        run = flashactor("cache", *command)
        assert (run.code, run.err.count("\n")) == (2, 1), command
        assert "chmod" in run.err
    assert flashactor("cache", "verify").code == 1


def test_writing_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / "x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
