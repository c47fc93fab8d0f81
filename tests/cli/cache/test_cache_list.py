"""``flashactor cache list``, ``path`` and ``stats``: which kernels are where."""

import json
import os

from cached_kernels import BF16, F16, key_of


def test_list_shows_every_kernel(flashactor, cache):
    run = flashactor("cache", "list")
    assert (run.code, run.err) == (0, "")
    assert run.out.index(BF16) < run.out.index(F16)
    assert run.out.splitlines()[-1].startswith("2 kernels, ")
    assert "\x1b" not in run.out


def test_list_json_and_pattern(flashactor, cache):
    (found,) = json.loads(flashactor("cache", "list", "combine.bf16", "--json").out)
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
    assert (found["label"], found["arch"], found["layer"]) == (BF16, "sm_80", str(cache.path))
    assert json.loads(flashactor("cache", "list", "sm_90a", "--json").out) == []


def test_looking_is_no_use(flashactor, cache, tmp_path):
    for record in cache.folder.records_path.iterdir():
        os.utime(record, (1e9, 1e9))
    for command in (["list"], ["verify"], ["export", "x.zip"], ["show", BF16, "-o", "x.cubin"]):
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
    assert F16 in run.out
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
    assert json.loads(flashactor("cache", "show", BF16, "--json").out)["layer"] == str(cache.path)


def test_stats_counts_the_limit_and_the_quarantine(flashactor, cache, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", "1M")
    cache.folder.set_aside(key_of(cache))
    stats = json.loads(flashactor("cache", "stats", "--json").out)[0]
    assert (stats["kernels"], stats["quarantined"], stats["limit"]) == (1, 1, 1 << 20)
    assert "of 1.0 MiB at most" in flashactor("cache", "stats").out


def test_path_is_one_line_for_shells(flashactor, tmp_path):
    assert flashactor("cache", "path").out == f"{tmp_path / 'cache'}\n"


def test_a_bundle_that_is_gone_costs_a_warning(flashactor, cache, bundle, monkeypatch, caplog):
    monkeypatch.setenv("FLASHACTOR_CACHE_BUNDLES", f"{bundle.with_name('gone.zip')}{os.pathsep}{bundle}")
    for command in (["list"], ["stats"], ["show", BF16], ["export", "x.zip", "--kernel", BF16]):
        caplog.clear()
        run = flashactor("cache", *command)
        assert (run.code, run.err) == (0, ""), command
        assert "gone.zip" in caplog.text
        assert "FLASHACTOR_CACHE_BUNDLES" in caplog.text
    assert len(json.loads(flashactor("cache", "list", "--json").out)) == 4
