"""``flashactor cache export``: which kernels, and the same bytes everywhere."""

import json
import os
from hashlib import sha256

import pytest
from cached_kernels import BF16, F16, SMALL, UNCACHED, damage, rewrite_record

from flashactor.cache.bundle import BundleFile


def test_two_folders_warmed_apart_export_the_same_bytes(flashactor, exported, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "another" / "folder"))
    assert flashactor("warm", *SMALL, "--jobs", 1).code == 0
    document = json.loads(flashactor("cache", "export", "again.zip", "--json").out)
    content = (tmp_path / "again.zip").read_bytes()
    assert content == exported
    assert document == {
        "bundle": "again.zip",
        "kernels": [BF16, F16],
        "bytes": len(exported),
        "sha256": sha256(exported).hexdigest(),
    }


def test_export_of_a_selection(flashactor, cache, tmp_path):
    by_feature = ("cache", "export", "a.zip", *SMALL, "--dtype", "bf16", "--json")
    assert json.loads(flashactor(*by_feature).out)["kernels"] == [BF16]
    flashactor("cache", "export", "b.zip", "--kernel", BF16)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_export_takes_stale_kernels_only_when_asked(flashactor, cache):
    rewrite_record(cache, BF16, source_digest="0" * 64)
    assert json.loads(flashactor("cache", "export", "a.zip", "--json").out)["kernels"] == [F16]
    everything = flashactor("cache", "export", "b.zip", "--all", "--json")
    assert json.loads(everything.out)["kernels"] == [BF16, F16]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--kernel", UNCACHED], 1, f"flashactor warm --kernel {UNCACHED}"),
        (["--arch", "sm_80", "--head-dim", "64"], 1, "flashactor warm --kernel"),
        (["--kernel", UNCACHED.replace("plain", "plian")], 2, UNCACHED),
        (["--kernel", BF16, "--all"], 2, "one of them at most"),
        (["--kernel", BF16, "--dtype", "bf16"], 2, "one of them at most"),
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
    assert list(bundle.parent.glob(".*")) == []  # nothing temporary
    assert flashactor("cache", "export", bundle.parent, "--force").code == 2
    run = flashactor("cache", "export", bundle.parent / "no" / "folder.zip")
    assert (run.code, run.err.count("\n")) == (1, 1)
    assert "no/folder.zip: No such file" in run.err


@pytest.mark.parametrize("command", [("export",), ("show", BF16, "-o")], ids=lambda command: command[0])
def test_links_pipes_and_devices_are_written_to_and_stay(flashactor, cache, tmp_path, command):
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "null").symlink_to(os.devnull)
    umask = os.umask(0o027)
    try:
        for name in ("link", "null"):
            run = flashactor("cache", *command, name)
            assert (run.code, run.err.count("\n")) == (2, 1)
            assert "--force" in run.err
            assert flashactor("cache", *command, name, "--force").code == 0
    finally:
        os.umask(umask)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_size > 1000
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "null").is_char_device()
