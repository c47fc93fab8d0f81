"""``flashactor check``: what it prints, and what its exit code says."""

import argparse
import json
import sys

import pytest

from flashactor.cache import CubinCache
from flashactor.check import tools
from flashactor.check.findings import Finding
from flashactor.check.report import Halves, check_kernel
from flashactor.cli import check as command
from flashactor.cli.selection import feature_names, matching_specs
from flashactor.errors import CompileError
from flashactor.kernels.sm80 import all_specs, forward_spec
from flashactor.settings import Settings
from flashactor.types import DType, SmArch

ONE = ("--arch", "sm_80", "--head-dim", "32", "--dtype", "bf16", "--feature", "causal")
LABEL = "sm80_mma.fwd.bf16.d32.causal.128x128w4.sm_80"
SPEC = forward_spec(SmArch.SM80, DType.BF16, 32, causal=True)


def cells(run):
    """The kernel's row of the table, without its label."""
    return [line for line in run.out.splitlines() if line.startswith(" " + LABEL)][-1].split()[1:]


@pytest.fixture
def emulated(monkeypatch):
    """A function that sets what the emulated half finds, or raises."""

    def find(*findings):
        def emulated_findings(spec, ptx, *, races=True):
            assert ".visible .entry flash_fwd_sm80" in ptx
            if isinstance(findings[0], Exception):
                raise findings[0]
            return (*findings, Finding("races", races, "looked for" if races else "not looked for"))

        monkeypatch.setattr("flashactor.check.report.emulated_findings", emulated_findings)

    return find


@pytest.fixture
def in_this_process(monkeypatch):
    """Without processes, which would not see what a test replaces."""

    def here(specs, cache, halves, jobs):
        for spec in specs:
            yield check_kernel(spec, cache, halves)

    monkeypatch.setattr("flashactor.check.pool.check_kernels", here)


def test_static_checks_of_one_kernel(flashactor):
    run = flashactor("check", "--static-only", *ONE)
    assert (run.code, run.err) == (0, "")
    lines = run.out.splitlines()
    assert lines[0] == LABEL
    assert any(all(column in line for column in command.COLUMNS) for line in lines)
    registers, shared, spills, static, *emulated, seconds = cells(run)
    checks = static.split("/")
    assert int(registers) > 100
    assert (shared, spills) == ("24", "0")
    assert checks[0] == checks[1] != "0"
    assert emulated == ["-", "-", "-"]
    assert float(seconds) > 0
    assert lines[-1].startswith(f"1 kernel, {checks[0]} checks in ")
    assert "\x1b" not in run.out


def test_json_has_every_finding(flashactor):
    document = json.loads(flashactor("check", "--static-only", *ONE, "--json").out)
    (kernel,) = document["kernels"]
    assert (kernel["kernel"], kernel["emulated"], document["failed"]) == (LABEL, [], [])
    assert kernel["shared_bytes"] == 24 * 1024
    assert {finding["check"] for finding in kernel["static"]} >= {"registers", "products", "subroutines"}
    assert all(finding["ok"] and finding["detail"] for finding in kernel["static"])


def test_a_failed_check_is_exit_code_1_and_a_line(flashactor, tmp_path):
    flashactor("check", "--static-only", *ONE)
    # A record that lies: the processes read it from the cache.
    (path,) = (tmp_path / "cache" / "records").glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "spill_bytes": 12, "log": "a warning\nin two lines"}))
    run = flashactor("check", "--static-only", *ONE)
    assert run.code == 1
    assert "1 kernel failed" in run.out
    assert run.err == (
        f"flashactor: error: {LABEL}: spills: 12 bytes of spill stores and loads\n"
        f"flashactor: error: {LABEL}: compiler's log: a warning\nin two lines\n"
    )
    run = flashactor("check", "--static-only", *ONE, "--json")
    assert (run.code, run.err) == (1, "")
    assert json.loads(run.out)["failed"] == [LABEL]


def test_a_kernel_that_does_not_compile_is_a_failed_check(flashactor, in_this_process, monkeypatch):
    def fail(self, spec):
        raise CompileError("kernel source", "an error", "none", "mend it", log="line 1", source_line="x(1)")

    monkeypatch.setattr(CubinCache, "get_or_compile", fail)
    run = flashactor("check", "--static-only", *ONE)
    assert run.code == 1
    assert f"{LABEL}: compiles: CompileError: kernel source: got an error" in run.err
    assert "0/1" in run.out


def test_both_halves_are_in_one_row(flashactor, in_this_process, emulated):
    emulated(
        Finding("64x64", True, "", out_error_ratio=0.5, lse_error=2e-6),
        Finding("65x129", False, "row 64 is wrong", out_error_ratio=1.25, lse_error=1e-6),
    )
    run = flashactor("check", *ONE)
    assert run.code == 1
    assert cells(run)[4:7] == ["2/3", "1.25", "2.0e-06"]
    assert run.err == f"flashactor: error: {LABEL}: 65x129: row 64 is wrong\n"
    (kernel,) = json.loads(flashactor("check", *ONE, "--json").out)["kernels"]
    assert (kernel["out_error_ratio"], kernel["lse_error"]) == (1.25, 2e-6)
    assert kernel["static"]
    assert [finding["ok"] for finding in kernel["emulated"]] == [True, False, True]


def test_emulation_alone_looks_at_no_cubin(flashactor, in_this_process, emulated, monkeypatch):
    emulated(Finding("64x64", True, "", out_error_ratio=0.5))
    monkeypatch.setattr(tools, "find_tool", None)
    run = flashactor("check", *ONE, "--emulate-only")
    assert run.code == 0
    assert cells(run)[:-1] == ["-", "24", "-", "-", "2/2", "0.50", "-"]
    run = flashactor("check", *ONE, "--emulate-only", "--no-races")
    assert (run.code, run.err) == (1, f"flashactor: error: {LABEL}: races: not looked for\n")


def test_a_fault_in_the_emulator_is_a_failed_check(tmp_path, emulated):
    emulated(CompileError("PTX", "a fault", "none", "mend the kernel"))
    report = check_kernel(SPEC, Settings(tmp_path), Halves(static=False))
    assert [finding.check for finding in report.failures] == ["emulates"]
    assert report.failures[0].detail.startswith("CompileError: PTX: got a fault")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", 0], "--jobs"),
        (["--arch", "sm_75"], "sm_80"),
        (["--dtype", "e4m3"], "f16, bf16"),
        (["--head-dim", 100], "--head-dim: got 100"),
        (["--feature", "softcup"], "invalid choice"),
        (["--static-only", "--emulate-only"], "not allowed with"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(flashactor, options, message):
    run = flashactor("check", *options)
    assert run.code == 2
    assert message in run.err
    assert run.err.count("\n") == 1


def test_a_missing_tool_is_one_line(flashactor, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "PACKAGES", {"nvdisasm": "not-installed"})
    tools.find_tool.cache_clear()
    run = flashactor("check", "--static-only", *ONE)
    tools.find_tool.cache_clear()
    assert run.code == 2
    assert "pip install nvidia-cuda-nvdisasm" in run.err
    assert run.err.count("\n") == 1


def test_features_are_what_the_kernels_say():
    assert feature_names() == ("causal", "full")
    assert all(spec.features for spec in all_specs())


def test_features_add_up():
    options = argparse.Namespace(arch=[SmArch.SM80], dtype=None, head_dim=None)
    assert len(matching_specs(options, None)) == len(matching_specs(options, ["causal", "full"])) == 32
    assert all(spec.causal for spec in matching_specs(options, ["causal"]))


def test_on_a_terminal_there_is_a_bar(flashactor, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run = flashactor("check", "--static-only", *ONE)
    assert run.code == 0
    assert "1/1" in run.out
