"""``flashactor warm`` and ``flashactor doctor``, and what all commands share."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flashactor import SmArch
from flashactor.cache import CubinCache
from flashactor.cache.folder import CubinFolder
from flashactor.errors import CompileError
from flashactor.kernels.sm80 import all_specs

SMALL = ("--arch", "sm_80", "--head-dim", "32", "--dtype", "bf16")


def test_warm_compiles_what_matches_and_only_once(flashactor, tmp_path):
    run = flashactor("warm", *SMALL)
    assert (run.code, run.err) == (0, "")
    assert "2 kernels" in run.out
    assert "2 compiled, 0 were cached, 0 failed" in run.out
    assert sorted(record.label for record in CubinCache(tmp_path / "cache").records()) == [
        "sm80_mma.fwd.bf16.d32.causal.128x128w4.sm_80",
        "sm80_mma.fwd.bf16.d32.full.128x128w4.sm_80",
    ]
    assert "0 compiled, 2 were cached" in flashactor("warm", *SMALL).out


def test_warm_in_a_pipe_is_plain_lines(flashactor):
    run = flashactor("warm", *SMALL, "--mask", "causal")
    assert run.out.splitlines()[0] == "sm80_mma.fwd.bf16.d32.causal.128x128w4.sm_80"
    assert "\x1b" not in run.out


def test_warm_json(flashactor):
    document = json.loads(flashactor("warm", *SMALL, "--mask", "full", "--json").out)
    assert (document["kernels"], document["compiled"], document["cached"], document["failed"]) == (
        1,
        1,
        0,
        [],
    )


def test_dry_run_lists_and_compiles_nothing(flashactor, tmp_path):
    run = flashactor("warm", "--arch", "sm_90a", "--dry-run")
    assert run.out.splitlines()[:-1] == [spec.label for spec in all_specs(SmArch.SM90A)]
    assert "32 kernels, about" in run.out
    assert not (tmp_path / "cache").exists()
    document = json.loads(flashactor("warm", "--arch", "sm_90a", "sm_80", "--dry-run", "--json").out)
    assert len(document["kernels"]) == 64


def test_without_a_device_warm_means_every_architecture(flashactor):
    assert f"{len(all_specs())} kernels" in flashactor("warm", "--dry-run").out


def test_a_head_dim_is_warmed_as_the_kernel_that_serves_it(flashactor):
    run = flashactor("warm", "--arch", "sm_80", "--head-dim", 72, 80, 96, "--dtype", "f16", "--dry-run")
    assert run.out.count("d96") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "sm_75"], "sm_80"),
        (["--head-dim", 100], "--head-dim: got 100"),
        (["--dtype", "e4m3"], "f16, bf16"),
        (["--jobs", 0], "--jobs"),
        (["--jobs", 10001], "1 to 10000"),
        (["--mask", "sliding"], "invalid choice"),
    ],
    ids=str,
)
def test_warm_refuses_what_it_cannot_compile(flashactor, options, message):
    run = flashactor("warm", *options)
    assert run.code == 2
    assert message in run.err
    assert run.err.count("\n") == 1


def test_a_failed_compile_is_exit_code_1_and_the_others_are_kept(flashactor, monkeypatch):
    compile_ = CubinCache.get_or_compile

    def fail_causal(self, spec):
        if spec.causal:
            raise CompileError(
                "kernel source", "an error", "none", "mend it", log="line 1", source_line="x(1)"
            )
        return compile_(self, spec)

    monkeypatch.setattr(CubinCache, "get_or_compile", fail_causal)
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "1 compiled, 0 were cached, 1 failed" in run.out
    assert "d32.causal" in run.err
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


def test_doctor(flashactor):
    run = flashactor("doctor")
    assert (run.code, run.err) == (0, "")
    for found in ("NVRTC compiles", "cache folder", "reference executor", "CUDA device", "torch arrays"):
        assert found in run.out


def test_doctor_json(flashactor):
    findings = {finding["what"]: finding for finding in json.loads(flashactor("doctor", "--json").out)}
    assert findings["NVRTC compiles"]["works"]
    assert findings["reference executor"]["essential"]
    assert all(finding["remedy"] for finding in findings.values() if not finding["works"])


def test_doctor_fails_without_a_cache_folder(flashactor, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    run = flashactor("doctor")
    assert run.code == 1
    assert "FLASHACTOR_CACHE_DIR" in run.out


def run_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "flashactor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_version_and_help_load_no_heavy_library():
    assert run_process("--version").stdout.startswith("flashactor ")
    assert "exit codes:" in run_process("--help").stdout
    program = (
        "import sys\nfrom flashactor.cli.main import main\nmain(['--version'])\n"
        "assert not {'numpy', 'cuda', 'rich', 'structlog', 'torch'} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "flashactor", "warm", "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0
    process.stderr.close()


def test_ctrl_c_leaves_a_usable_cache(tmp_path):
    environment = {**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-m", "flashactor", "warm", "--arch", "sm_80", "--jobs", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline().startswith("sm80_mma")
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(30) == 130
        assert time.monotonic() - started < 10
        assert process.stderr.read() == "flashactor: interrupted\n"
    again = run_process("warm", *SMALL, "--json", env=environment)
    assert json.loads(again.stdout)["failed"] == []


def test_verbose_shows_what_happens(flashactor, tmp_path):
    (tmp_path / "cache").mkdir()
    process = run_process(
        "-v", "warm", *SMALL, "--mask", "full", env={**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path)}
    )
    assert process.returncode == 0
    bad = run_process("explain", env={**os.environ, "FLASHACTOR_LOG_LEVEL": "loud"})
    assert bad.returncode == 2
    assert "log level" in bad.stderr


CAUSAL = "sm80_mma.fwd.bf16.d32.causal.128x128w4.sm_80"
MODEL = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "torch_dtype": "bfloat16"}


def test_warm_exactly_these_kernels(flashactor):
    document = json.loads(flashactor("warm", "--kernel", CAUSAL, CAUSAL, "--dry-run", "--json").out)
    assert (document["kernels"], document["cached"]) == ([CAUSAL], 0)


def test_warm_by_feature_and_mask(flashactor):
    run = flashactor("warm", *SMALL, "--feature", "causal", "--dry-run", "--json")
    assert json.loads(run.out)["kernels"] == [CAUSAL]
    run = flashactor("warm", *SMALL, "--feature", "causal", "--mask", "full", "--dry-run")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "--feature" in run.err


@pytest.mark.parametrize("where", ["config.json", "."])
def test_warm_a_model(flashactor, tmp_path, where):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    run = flashactor("warm", "--config", where, "--arch", "sm_80", "--dry-run", "--json")
    assert run.code == 0
    document = json.loads(run.out)
    assert document["kernels"] == [CAUSAL]
    assert len(document["refused"]) == 2
    assert run.err.count("flashactor: no kernel yet: ") == 2
    assert "PagedAttentionRequest" in run.err
    narrowed = flashactor(
        "warm", "--config", where, "--dtype", "f16", "--arch", "sm_80", "sm_90a", "--dry-run"
    )
    assert [line for line in narrowed.out.splitlines() if line.startswith("sm80_mma.fwd.f16.d32.causal")][1:]


def test_a_model_that_no_kernel_serves_is_one_line(flashactor, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**MODEL, "attn_logit_softcapping": 30.0}))
    run = flashactor("warm", "--config", "config.json", "--arch", "sm_80")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "3 requests of the model on sm_80, and no kernel computes any" in run.err
    for reason in ("has no softcap", "not VarlenFwdRequest", "not PagedAttentionRequest"):
        assert run.err.count(reason) == 1


def trace_line(**fields):
    line = {"request": "Fa2FwdRequest", "arch": "sm_80", "dtype": "bf16", "kv_dtype": None, "head_dim": 32}
    line |= {"gqa_ratio": 1, "causal": True, "sliding_window": None, "sink_tokens": 0, "sink_logits": False}
    line |= {"alibi": False, "softcap": False, "dropout": False, "implementation": None, "kernel_name": ""}
    return json.dumps({**line, **fields}) + "\n"


def test_warm_a_trace(flashactor, tmp_path):
    lines = [
        trace_line(),
        trace_line(arch=None, causal=False),
        trace_line(arch="sm_90a", dtype="f16"),
        trace_line(softcap=True),
        trace_line(sink_logits=True),
        trace_line(request="Fa3FwdFp8Request", arch=None, dtype="e4m3", kv_dtype="e4m3"),
    ]
    (tmp_path / "keys.jsonl").write_text("".join(lines))
    run = flashactor("warm", "--trace", "keys.jsonl", "--dry-run", "--json")
    document = json.loads(run.out)
    assert len(document["kernels"]) == 2 + len(SmArch)
    assert any("has no softcap" in refused["reasons"] for refused in document["refused"])
    assert any("has no learned sink logits" in refused["reasons"] for refused in document["refused"])
    assert any("sm_89 or newer" in refused["reasons"] for refused in document["refused"])
    run = flashactor(
        "warm", "--trace", "keys.jsonl", "--arch", "sm_90a", "--dtype", "f16", "--dry-run", "--json"
    )
    assert [label.split(".")[2:4] for label in json.loads(run.out)["kernels"]] == [["f16", "d32"]]
    run = flashactor("warm", "--trace", "keys.jsonl", "--arch", "sm_86", "--dtype", "f16")
    assert (run.code, run.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernel", CAUSAL.replace("causal", "casual")], CAUSAL),
        (["--kernel", CAUSAL, "--arch", "sm_80"], "--kernel alone"),
        (["--config", "config.json", "--trace", "x"], "drop one"),
        (["--config", "config.json", "--head-dim", 64], "--config alone"),
        (["--trace", "x", "--feature", "causal"], "--trace alone"),
        (["--config", "missing.json"], "missing.json"),
        (["--trace", "missing"], "missing"),
        (["--config", "bad.json"], "JSON"),
        (["--trace", "bad.json"], "bad.json:1"),
    ],
    ids=str,
)
def test_warm_refuses_bad_sources(flashactor, tmp_path, options, message):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    (tmp_path / "bad.json").write_text("{]\n")
    run = flashactor("warm", *options)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert message in run.err


def test_without_compiling_a_missing_kernel_is_a_failure(flashactor, monkeypatch):
    assert flashactor("warm", "--kernel", CAUSAL).code == 0
    document = json.loads(flashactor("warm", *SMALL, "--dry-run", "--json").out)
    assert (len(document["kernels"]), document["cached"]) == (2, 1)
    monkeypatch.setenv("FLASHACTOR_NO_COMPILE", "1")
    assert "1 were cached" in flashactor("warm", "--kernel", CAUSAL).out
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "0 compiled, 1 were cached, 1 failed" in run.out
    assert "FLASHACTOR_NO_COMPILE=0 flashactor warm --kernel" in run.err
    failed = json.loads(flashactor("warm", *SMALL, "--json").out)["failed"]
    assert (len(failed), failed[0]["log"]) == (1, "")
    run = flashactor("explain", "--head-dim", 32, "--compile")
    assert (run.code, run.err.count("\n")) == (1, 1)


def test_kernels_that_do_not_fit_are_a_failure(flashactor, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_MAX_BYTES", "40000")  # one of the two
    run = flashactor("warm", *SMALL)
    assert run.code == 1
    assert "1 kernel could not be stored" in run.err
    assert "FLASHACTOR_CACHE_MAX_BYTES allows 39.1 KiB; raise it" in run.err
    assert "space" not in run.err
    assert len(json.loads(flashactor("cache", "list", "--json").out)) == 1


def test_a_bundle_that_cannot_be_read_costs_a_warning_in_a_dry_run_too(
    flashactor, monkeypatch, tmp_path, caplog
):
    monkeypatch.setenv("FLASHACTOR_CACHE_BUNDLES", str(tmp_path / "gone.zip"))
    for options, cached in ((("--dry-run",), 0), ((), 0), (("--dry-run",), 1)):
        caplog.clear()
        run = flashactor("warm", "--kernel", CAUSAL, "--json", *options)
        assert (run.code, json.loads(run.out)["cached"]) == (0, cached)
        assert "gone.zip" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("FLASHACTOR_CACHE_MAX_BYTES", "lots"), ("FLASHACTOR_NO_COMPILE", "perhaps")],
    ids=str,
)
def test_a_bad_setting_is_one_line(flashactor, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    run = flashactor("warm", "--dry-run")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert name in run.err
