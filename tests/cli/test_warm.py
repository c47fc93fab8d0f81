"""What ``flashactor warm`` compiles and stores, and what it reports when it cannot."""

import errno
import json
import os

from warm_tools import BF16, F16, SMALL

from flashactor.cache import CubinCache
from flashactor.cache.folder import CubinFolder
from flashactor.errors import CompileError


def test_warm_compiles_what_matches_and_only_once(flashactor, tmp_path):
    run = flashactor("warm", *SMALL)
    assert (run.code, run.err) == (0, "")
    assert "2 kernels" in run.out
    assert "2 compiled, 0 were cached, 0 failed" in run.out
    assert sorted(record.label for record in CubinCache(tmp_path / "cache").records()) == [BF16, F16]
    assert "0 compiled, 2 were cached" in flashactor("warm", *SMALL).out


def test_warm_in_a_pipe_is_plain_lines(flashactor):
    run = flashactor("warm", *SMALL, "--dtype", "bf16")
    assert run.out.splitlines()[0] == BF16
    assert "\x1b" not in run.out


def test_warm_json(flashactor):
    document = json.loads(flashactor("warm", *SMALL, "--dtype", "f16", "--json").out)
    assert (document["kernels"], document["compiled"], document["cached"], document["failed"]) == (
        1,
        1,
        0,
        [],
    )


def test_a_failed_compile_is_exit_code_1_and_the_others_are_kept(flashactor, monkeypatch):
    compile_ = CubinCache.get_or_compile

    def fail_bf16(self, spec):
        if spec.label == BF16:
            raise CompileError(
                "kernel source", "an error", "none", "mend it", log="line 1", source_line="x(1)"
            )
        return compile_(self, spec)

    monkeypatch.setattr(CubinCache, "get_or_compile", fail_bf16)
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "1 compiled, 0 were cached, 1 failed" in run.out
    assert BF16 in run.err
    document = json.loads(flashactor("warm", *SMALL, "--json").out)
    assert document["failed"][0]["log"] == "line 1"


def test_a_kernel_that_is_not_stored_is_a_failure(flashactor, monkeypatch):
    def full(self, record, cubin):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CubinFolder, "store", full)
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "2 kernels could not be stored" in run.err
    assert f"{os.strerror(errno.ENOSPC)}; free some space" in run.err
    assert len(json.loads(flashactor("warm", *SMALL, "--json").out)["not_stored"]) == 2


def test_a_cache_that_cannot_be_written_is_one_line(flashactor, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    run = flashactor("warm", *SMALL)
    assert run.code == 2
    assert "set FLASHACTOR_CACHE_DIR" in run.err
    assert run.err.count("\n") == 1


def test_without_compiling_a_missing_kernel_is_a_failure(flashactor, monkeypatch):
    assert flashactor("warm", "--kernel", BF16).code == 0
    document = json.loads(flashactor("warm", *SMALL, "--dry-run", "--json").out)
    assert (len(document["kernels"]), document["cached"]) == (2, 1)
    monkeypatch.setenv("FLASHACTOR_NO_COMPILE", "1")
    assert "1 were cached" in flashactor("warm", "--kernel", BF16).out
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "0 compiled, 1 were cached, 1 failed" in run.out
    assert "FLASHACTOR_NO_COMPILE=0 flashactor warm --kernel" in run.err
    failed = json.loads(flashactor("warm", *SMALL, "--json").out)["failed"]
    assert (len(failed), failed[0]["log"]) == (1, "")
    run = flashactor("explain", "--head-dim", 32, "--compile")
    assert (run.code, run.err.count("\n")) == (1, 1)


def test_kernels_that_do_not_fit_are_a_failure(flashactor, monkeypatch):
    flashactor("warm", *SMALL)
    sizes = [held["size"] for held in json.loads(flashactor("cache", "list", "--json").out)]
    flashactor("cache", "clear")
    limit = max(sizes)  # one of the two
    assert 1024 < limit < sum(sizes)
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", str(limit))
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "1 kernel could not be stored" in run.err
    assert f"FLASHACTOR_CACHE_MAX_BYTES allows {limit / 1024:.1f} KiB; raise it" in run.err
    assert "space" not in run.err
    assert len(json.loads(flashactor("cache", "list", "--json").out)) == 1


def test_a_bundle_that_cannot_be_read_costs_a_warning_in_a_dry_run_too(
    flashactor, monkeypatch, tmp_path, caplog
):
    monkeypatch.setenv("FLASHACTOR_CACHE_BUNDLES", str(tmp_path / "gone.zip"))
    for options, cached in ((("--dry-run",), 0), ((), 0), (("--dry-run",), 1)):
        caplog.clear()
        run = flashactor("warm", "--kernel", BF16, "--json", *options)
        assert (run.code, json.loads(run.out)["cached"]) == (0, cached)
        assert "gone.zip" in caplog.text
