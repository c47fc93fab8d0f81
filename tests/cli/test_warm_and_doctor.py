"""``flashactor warm`` and ``flashactor doctor``, and what all commands share."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flashactor import DType, PagedAttentionRequest, PagedKvCache, SmArch
from flashactor.cache import CubinCache
from flashactor.cache.folder import CubinFolder
from flashactor.errors import CompileError, NoKernelError
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.spec import Scores

SMALL = ("--arch", "sm_80", "--feature", "combine")
"""Selects two kernels that take little to compile."""
BF16, F16 = "common.combine.bf16.sm_80", "common.combine.f16.sm_80"


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


def test_dry_run_lists_and_compiles_nothing(flashactor, tmp_path):
    every = [spec.label for spec in all_specs(SmArch.SM90A)]
    run = flashactor("warm", "--arch", "sm_90a", "--all", "--dry-run")
    assert run.out.splitlines()[:-1] == every
    assert f"{len(every)} kernels, about" in run.out
    assert not (tmp_path / "cache").exists()
    two = flashactor("warm", "--arch", "sm_90a", "sm_80", "--all", "--dry-run", "--json")
    assert len(json.loads(two.out)["kernels"]) == len(every) + len(all_specs(SmArch.SM80))


def listed(run):
    return json.loads(run.out)["kernels"]


def test_without_a_selection_warm_means_what_most_people_need(flashactor):
    usual = {
        spec.label
        for spec in all_specs(SmArch.SM80)
        if (spec.kind == "fwd" and "plain" in spec.features and "fp8_kv" not in spec.features)
        or spec.kind == "combine"
    }
    assert set(listed(flashactor("warm", "--arch", "sm_80", "--dry-run", "--json"))) == usual
    assert 0 < len(usual) < len(all_specs(SmArch.SM80)) / 2
    narrowed = listed(flashactor("warm", "--arch", "sm_80", "--dtype", "f16", "--dry-run", "--json"))
    assert set(narrowed) == {label for label in usual if ".f16." in label}


def test_without_a_device_warm_means_every_architecture(flashactor):
    assert f"{len(all_specs())} kernels" in flashactor("warm", "--all", "--dry-run").out
    archs = {label.rpartition(".")[2] for label in listed(flashactor("warm", "--dry-run", "--json"))}
    assert archs == {arch.target for arch in SmArch}


def test_a_head_dim_is_warmed_as_the_kernels_that_serve_it(flashactor):
    options = ("--arch", "sm_80", "--dtype", "f16", "--dry-run", "--json")
    assert listed(flashactor("warm", "--head-dim", 72, 80, 96, *options)) == [
        *(
            forward_spec(SmArch.SM80, DType.F16, 96, paged=paged, decode=decode).label
            for paged in (False, True)
            for decode in (False, True)
        ),
        F16,
    ]
    both = listed(flashactor("warm", "--head-dim", 192, *options))
    assert {label.split(".")[3] for label in both} == {"d192", "d192v128", "sm_80"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "sm_75"], "sm_80"),
        (["--head-dim", 100], "--head-dim: got 100"),
        (["--dtype", "e5m2"], "f16, bf16"),
        (["--jobs", 0], "--jobs"),
        (["--jobs", 10001], "1 to 10000"),
        (["--mask", "causal"], "unrecognized arguments"),
        (["--feature", "causal"], "invalid choice"),
        (["--feature", "merge", "--all"], "--all: got with --feature"),
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
        assert process.stdout.readline().startswith("sm80_mma")  # a kernel is there, and others are not
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
        "-v", "warm", "--kernel", BF16, env={**os.environ, "FLASHACTOR_CACHE_DIR": str(tmp_path)}
    )
    assert process.returncode == 0
    bad = run_process("explain", env={**os.environ, "FLASHACTOR_LOG_LEVEL": "loud"})
    assert bad.returncode == 2
    assert "log level" in bad.stderr


MODEL = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "torch_dtype": "bfloat16"}
OF_MODEL = [
    forward_spec(SmArch.SM80, DType.BF16, 32).label,
    forward_spec(SmArch.SM80, DType.BF16, 32, decode=True).label,
    BF16,
    forward_spec(SmArch.SM80, DType.BF16, 32, paged=True).label,
    forward_spec(SmArch.SM80, DType.BF16, 32, paged=True, decode=True).label,
]
"""Prefill and decode over contiguous and paged keys, and what combines their splits."""


def test_warm_exactly_these_kernels(flashactor):
    document = json.loads(flashactor("warm", "--kernel", BF16, BF16, "--dry-run", "--json").out)
    assert (document["kernels"], document["cached"]) == ([BF16], 0)


def test_warm_paged_on_hopper_takes_the_kernels_of_paged_requests(flashactor):
    of_one = "warm", "--arch", "sm_90a", "--dtype", "bf16", "--head-dim", "128", "--dry-run", "--json"
    paged = listed(flashactor(*of_one, "--feature", "paged"))
    cell = PagedAttentionRequest(
        SmArch.SM90A, DType.BF16, 128, cache=PagedKvCache(1, 16, 1, 128, 1), num_seqs=1
    )
    taken = {spec.label for spec in choose_kernels(cell, SmArch.SM90A) if spec.kind == "fwd"}
    assert taken
    assert taken <= set(paged)
    assert not any(".full." in label for label in paged)


def test_warm_by_feature(flashactor):
    of_one = ("warm", "--arch", "sm_80", "--dtype", "bf16", "--head-dim", 64, "--dry-run", "--json")
    dropout = listed(flashactor(*of_one, "--feature", "dropout"))
    assert forward_spec(SmArch.SM80, DType.BF16, 64, scores=Scores.DROPOUT).label in dropout
    assert all("dropout" in label for label in dropout)
    more = listed(flashactor(*of_one, "--feature", "dropout", "--feature", "combine", "fp8_kv"))
    assert {label for label in more if "fp8_kv" not in label} == {*dropout, BF16}
    assert any("modified.paged.fp8_kv.decode" in label for label in more)


@pytest.fixture
def merging_is_f16_only(monkeypatch):
    """A catalog in which one feature has kernels of one type alone."""

    def fewer(arch=None):
        return tuple(s for s in all_specs(arch) if s.kind != "merge" or s.dtype is DType.F16)

    monkeypatch.setattr("flashactor.cli.selection.all_specs", fewer)


@pytest.mark.usefixtures("merging_is_f16_only")
def test_features_that_no_kernel_of_a_type_has(flashactor):
    run = flashactor("warm", "--feature", "merge", "--dtype", "bf16", "--dry-run")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "--feature: got merge" in run.err
    assert flashactor("warm", "--feature", "merge", "--dtype", "f16", "--dry-run").code == 0


@pytest.mark.parametrize("where", ["config.json", "."])
def test_warm_a_model(flashactor, tmp_path, where):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    run = flashactor("warm", "--config", where, "--arch", "sm_80", "--dry-run", "--json")
    assert run.code == 0
    document = json.loads(run.out)
    assert document["kernels"] == OF_MODEL
    assert (document["refused"], run.err) == ([], "")
    narrowed = flashactor(
        "warm", "--config", where, "--dtype", "f16", "--arch", "sm_80", "sm_90a", "--dry-run", "--json"
    )
    assert {label.split(".")[2] for label in listed(narrowed)} == {"f16"}
    by_arch = [label.rpartition(".")[2] for label in listed(narrowed)]
    # Masks, packed sequences and pages have one kernel on Hopper, and there is one for no mask.
    assert {arch: by_arch.count(arch) for arch in by_arch} == {"sm_80": len(OF_MODEL), "sm_90a": 3}


def test_a_model_with_sinks_is_warmed_for_every_size(flashactor, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**MODEL, "model_type": "gpt_oss"}))
    run = flashactor("warm", "--config", ".", "--arch", "sm_80", "--dry-run", "--json")
    assert listed(run) == OF_MODEL


def test_a_model_that_no_kernel_serves_is_one_line(flashactor, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))

    def refuse(request, arch):
        reasons = (f"computes no {type(request).__name__}", "is being repaired")
        raise NoKernelError("request", "one", "another", "wait", reasons={"sm80_mma": reasons})

    monkeypatch.setattr("flashactor.cli.warm_sources.choose_kernels", refuse)
    run = flashactor("warm", "--config", "config.json", "--arch", "sm_80")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "3 requests of the model on sm_80, and no kernel computes any" in run.err
    for reason in ("no Fa2FwdRequest", "no VarlenFwdRequest", "no PagedAttentionRequest", "being repaired"):
        assert run.err.count(reason) == 1


def test_requests_that_no_kernel_computes_are_named_and_the_others_warmed(flashactor, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))

    def refuse_pages(request, arch):
        if request.paged:
            reasons = {"sm80_mma": ("has no pages today",)}
            raise NoKernelError("request", request.kernel_name(), "another", "wait", reasons=reasons)
        return choose_kernels(request, arch)

    monkeypatch.setattr("flashactor.cli.warm_sources.choose_kernels", refuse_pages)
    run = flashactor("warm", "--config", ".", "--arch", "sm_80", "--dry-run", "--json")
    assert (run.code, run.err.count("flashactor: no kernel yet: ")) == (0, 1)
    assert "has no pages today" in run.err
    document = json.loads(run.out)
    assert document["kernels"] == [label for label in OF_MODEL if "paged" not in label]
    assert [refused["reasons"] for refused in document["refused"]] == ["sm80_mma: has no pages today"]


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
        trace_line(sink_logits=True, head_dim=64),
        trace_line(request="PagedAttentionRequest", kv_dtype="e4m3"),
        trace_line(request="Fa3FwdFp8Request", arch=None, dtype="e4m3", kv_dtype="e4m3"),
    ]
    (tmp_path / "keys.jsonl").write_text("".join(lines))
    run = flashactor("warm", "--trace", "keys.jsonl", "--dry-run", "--json")
    document = json.loads(run.out)
    others = {arch.target for arch in SmArch} - {"sm_90a"}
    by_feature = {  # the family of sm_90a begins at head_dim 64
        ("bf16", "d32", "plain"): others,
        ("bf16", "d64", "plain"): {"sm_80", "sm_90a"},
        ("f16", "d64", "plain"): {"sm_90a"},
        ("bf16", "d32", "modified"): {"sm_80"},
    }
    of_16_bits = [
        label.split(".") for label in document["kernels"] if ".fwd." in label and "fp8" not in label
    ]
    for (dtype, head_dim, scores), archs in by_feature.items():
        found = [label for label in of_16_bits if label[2:5] == [dtype, head_dim, scores]]
        assert {label[-1] for label in found} == archs
        assert len(found) == 2 * len(archs)  # prefill and decode
    assert len(of_16_bits) == 2 * sum(map(len, by_feature.values()))
    of_cache = [label for label in document["kernels"] if ".paged.fp8_kv." in label]
    assert [label.split(".")[2:5] for label in of_cache] == [["bf16", "d32", "plain"]] * 2
    assert any("sm_89 or newer" in refused["reasons"] for refused in document["refused"])
    run = flashactor(
        "warm", "--trace", "keys.jsonl", "--arch", "sm_90a", "--dtype", "f16", "--dry-run", "--json"
    )
    assert [label.split(".")[1:3] for label in listed(run)] == [["fwd", "f16"]] * 2 + [["combine", "f16"]]
    assert {label.split(".")[-1] for label in listed(run)} == {"sm_90a"}
    run = flashactor("warm", "--trace", "keys.jsonl", "--arch", "sm_86", "--dtype", "f16")
    assert (run.code, run.err.count("\n")) == (2, 1)


def test_a_trace_tells_backward_passes_in_no_fixed_order(flashactor, tmp_path):
    kinds = {}
    for deterministic in (True, False):
        line = trace_line(request="Fa2BwdRequest", deterministic=deterministic)
        (tmp_path / "keys.jsonl").write_text(line)
        labels = listed(flashactor("warm", "--trace", "keys.jsonl", "--dry-run", "--json"))
        kinds[deterministic] = [label.split(".")[1] for label in labels]
        assert any("atomic" in label for label in labels) is not deterministic
    both = {"bwd_preprocess", "bwd_dkdv", "bwd_reduce"}
    assert set(kinds[True]) == both | {"bwd_dq"}
    assert set(kinds[False]) == both | {"bwd_convert"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernel", BF16.replace("combine", "combien")], BF16),
        (["--kernel", BF16, "--arch", "sm_80"], "--kernel alone"),
        (["--kernel", BF16, "--all"], "--kernel alone"),
        (["--config", "config.json", "--trace", "x"], "drop one"),
        (["--config", "config.json", "--head-dim", 64], "--config alone"),
        (["--trace", "x", "--feature", "plain"], "--trace alone"),
        (["--trace", "x", "--all"], "--trace alone"),
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
