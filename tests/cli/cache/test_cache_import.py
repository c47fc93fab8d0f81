"""``flashactor cache import``, and bundles that are layers: what is taken, and what is refused whole."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from cached_kernels import BF16, F16, SMALL, damage, key_of

from flashactor.cache import CubinCache
from flashactor.cache.claim import KeyClaim, forget
from flashactor.cache.folder import CubinFolder
from flashactor.errors import CompileError


def test_import_stores_what_is_not_there_yet(flashactor, bundle, tmp_path):
    assert flashactor("cache", "import", bundle).out == "2 kernels imported, 0 already there\n"
    cache = CubinCache(tmp_path / "cache")
    forget(cache.folder, key_of(cache, F16))
    document = json.loads(flashactor("cache", "import", bundle, "--json").out)
    assert (document["imported"], document["already_there"]) == ([F16], [BF16])
    assert all(record.created for record in cache.records())
    assert "0 compiled, 2 were cached" in flashactor("warm", *SMALL).out


def test_import_replaces_a_damaged_kernel(flashactor, cache, bundle):
    damage(cache)
    assert flashactor("cache", "import", bundle).out == "1 kernel imported, 1 already there\n"
    assert flashactor("cache", "verify").code == 0


def members_of(content):
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def archive_of(members):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def with_sums(members):
    """Members with a list of sums that fits them, as someone with bad intentions would make it."""
    sums = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in members)
    return [("SHA256SUMS", sums.encode()), *members]


HOSTILE = {
    "no archive": lambda members: b"hello",
    "another kernel's cubin": lambda members: archive_of(
        with_sums([(name, members[1][1] if ".cubin" in name else text) for name, text in members[1:]])
    ),
    "a record of nonsense": lambda members: archive_of(
        with_sums([(name, b"[]" if ".json" in name else text) for name, text in members[1:]])
    ),
    "a record without a cubin": lambda members: archive_of(with_sums(members[2:])),
    "a cubin without a record": lambda members: archive_of(with_sums(members[1:-1])),
}
"""What is no bundle, and bundles whose sums fit; tests/cache/test_bundle.py has the others."""


@pytest.mark.parametrize("name", HOSTILE)
def test_import_refuses_a_hostile_file_and_takes_nothing(flashactor, exported, bundle, tmp_path, name):
    bad = tmp_path / "bad.zip"
    bad.write_bytes(HOSTILE[name](members_of(exported)))
    before = set(tmp_path.parent.rglob("*"))
    run = flashactor("cache", "import", bundle, bad)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "bad.zip" in run.err
    assert set(tmp_path.parent.rglob("*")) == before


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


def test_import_goes_on_though_another_process_hangs(flashactor, cache, bundle, monkeypatch):
    monkeypatch.setattr("flashactor.cache.claim.PATIENCE_SECONDS", 0.1)
    key = key_of(cache)
    cache.folder.remove(key)
    claim = KeyClaim(cache.folder.locks_path, key)
    assert claim.acquire()
    with claim:
        run = flashactor("cache", "import", bundle)
    assert (run.code, run.out, run.err) == (0, "1 kernel imported, 1 already there\n", "")
    assert flashactor("cache", "verify").code == 0


def test_import_asks_again_after_every_failed_compile_of_another_process(
    flashactor, cache, bundle, monkeypatch
):
    failures, wait = iter(range(3)), KeyClaim.wait

    def failing(self, done):
        for _ in failures:
            raise CompileError("kernel source", "an error", "none", "mend it")
        return wait(self, done)

    monkeypatch.setattr(KeyClaim, "wait", failing)
    forget(cache.folder, key_of(cache))
    assert flashactor("cache", "import", bundle).out == "1 kernel imported, 1 already there\n"


def test_import_into_a_folder_that_others_may_write_is_bad_input(flashactor, cache, bundle):
    cache.path.chmod(0o777)
    run = flashactor("cache", "import", bundle)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "chmod" in run.err


def test_import_keeps_to_the_limit(flashactor, cache, bundle, monkeypatch):
    sizes = {record.label: record.size for record in cache.records()}
    flashactor("cache", "clear")
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", str(max(sizes.values())))
    document = json.loads(flashactor("cache", "import", bundle, "--json").out)
    assert (len(document["imported"]), len(document["evicted"])) == (2, 1)
    assert len(cache.records()) == 1
    assert "1 kernel removed: FLASHACTOR_CACHE_MAX_BYTES allows" in flashactor("cache", "import", bundle).out
