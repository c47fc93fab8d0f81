"""``flashactor check``: what it prints, and what its exit code says."""

import argparse
import json
import sys

import pytest

from flashactor.cache import CubinCache
from flashactor.check import tools
from flashactor.check.covering import covering_cases, covering_specs
from flashactor.check.findings import Finding
from flashactor.check.report import Halves, KernelReport, check_kernel
from flashactor.cli import check as command
from flashactor.cli.selection import feature_names, features_of, matching_specs
from flashactor.errors import CompileError, RequestError
from flashactor.kernels.backward_spec import backward_specs
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.sm80 import forward_spec, padded_head_dims
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.spec import Scores
from flashactor.settings import Settings
from flashactor.types import DType, SmArch

SPEC = forward_spec(SmArch.SM80, DType.BF16, 32)
LABEL = SPEC.label
ONE = ("--kernel", LABEL)
SHARED_KIB = f"{SPEC.shared_bytes / 1024:g}"


def cells(run):
    """The kernel's row of the table, without its label."""
    return [line for line in run.out.splitlines() if line.startswith(" " + LABEL)][-1].split()[1:]


@pytest.fixture
def emulated(monkeypatch):
    """A function that sets what the emulated half finds, or raises."""

    def find(*findings):
        def emulated_findings(spec, ptx, *, races=True, every_schedule=False, names=None):
            assert ".visible .entry flash_fwd_sm80" in ptx
            if isinstance(findings[0], Exception):
                raise findings[0]
            how = f"races {races}, every schedule {every_schedule}"
            return (*findings, Finding("asked for", how == "races True, every schedule False", how))

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
    assert (shared, spills) == (SHARED_KIB, "0")
    assert checks[0] == checks[1] != "0"
    assert emulated == ["-", "-", "-"]
    assert float(seconds) > 0
    assert lines[-1].startswith(f"1 kernel, {checks[0]} checks in ")
    assert "\x1b" not in run.out


def test_json_has_every_finding(flashactor):
    document = json.loads(flashactor("check", "--static-only", *ONE, "--json").out)
    (kernel,) = document["kernels"]
    assert (kernel["kernel"], kernel["emulated"], document["failed"]) == (LABEL, [], [])
    assert kernel["shared_bytes"] == SPEC.shared_bytes
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
    assert cells(run)[:-1] == ["-", SHARED_KIB, "-", "-", "2/2", "0.50", "-"]
    for option, asked in (
        ("--no-races", "races False, every schedule False"),
        ("--every-schedule", "races True, every schedule True"),
    ):
        run = flashactor("check", *ONE, "--emulate-only", option)
        assert (run.code, run.err) == (1, f"flashactor: error: {LABEL}: asked for: {asked}\n")


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
        (["--dtype", "e5m2"], "f16, bf16"),
        (["--head-dim", 100], "--head-dim: got 100"),
        (["--feature", "softcup"], "invalid choice"),
        (["--kernel", LABEL, "--dtype", "bf16"], "--kernel alone"),
        (["--kernel", LABEL + "x"], LABEL),
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
    names = {"fwd", "plain", "modified", "dropout", "paged", "fp8_kv", "decode", "combine", "append", "merge"}
    assert names <= set(feature_names())
    assert list(feature_names()) == sorted(set(feature_names()))
    for spec in all_specs():
        assert {spec.kind, *spec.features} <= features_of(spec) <= set(feature_names())


def select(**options):
    every = {"arch": [SmArch.SM80], "dtype": None, "head_dim": None, "feature": None}
    return matching_specs(argparse.Namespace(**every | options))


def test_features_add_up():
    every = list(all_specs(SmArch.SM90A))  # has kernels of every kind
    arch = {"arch": [SmArch.SM90A]}
    assert select(**arch) == every
    kinds = ("fwd", "combine")
    found = select(**arch, feature=["fwd", "combine"])
    assert found == [spec for spec in every if spec.kind.partition("_")[0] in kinds]
    for feature in feature_names():
        found = select(**arch, feature=[feature])
        assert found == [spec for spec in every if feature in features_of(spec)] != []


def test_a_feature_that_an_architecture_lacks_is_refused():
    with pytest.raises(RequestError, match="--feature"):
        select(arch=[SmArch.SM80], feature=["fwd_fp8"])


def test_the_first_word_of_a_kind_is_a_feature(monkeypatch):
    specs = backward_specs(SmArch.SM80, DType.BF16, 64, 64, Scores.PLAIN, deterministic=True).all
    monkeypatch.setattr("flashactor.cli.selection.all_specs", lambda arch=None: (SPEC, *specs))
    assert select(feature=["bwd"]) == list(specs)
    assert [spec.kind for spec in select(feature=["bwd_dq"])] == ["bwd_dq"]
    assert [spec.kind for spec in select(feature=["fwd"])] == ["fwd"]


@pytest.mark.parametrize("head_dim", [8, 64, 72, 136, 192, 200])
def test_a_head_dim_selects_what_holds_it_and_what_takes_any(head_dim):
    found = select(head_dim=[head_dim])
    assert {spec.kind for spec in found} == {spec.kind for spec in all_specs(SmArch.SM80)}
    for spec in all_specs(SmArch.SM80):
        least = spec.head_dims and padded_head_dims(head_dim, head_dim)[0] == spec.head_dims[0]
        assert (spec in found) == (least or not spec.head_dims)
    for head_dim_v in (8, head_dim):
        assert forward_spec(SmArch.SM80, DType.BF16, head_dim, head_dim_v) in found


@pytest.mark.parametrize(("head_dim", "padded"), [(8, 64), (64, 64), (72, 96), (200, 256)])
def test_each_family_pads_a_head_dim_in_its_own_way(head_dim, padded):
    found = select(arch=[SmArch.SM90A], head_dim=[head_dim], feature=["fwd"])
    hopper = [spec for spec in found if spec.family == "sm90_wgmma"]
    assert {spec.head_dim for spec in hopper} == {padded}
    assert hopper_spec(DType.BF16, head_dim) in hopper
    assert forward_spec(SmArch.SM90A, DType.BF16, head_dim) in found


def test_on_a_terminal_there_is_a_bar(flashactor, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run = flashactor("check", "--static-only", *ONE)
    assert run.code == 0
    assert "1/1" in run.out


@pytest.fixture
def planned(monkeypatch):
    """What would be checked: (specs, halves) of each call."""
    calls = []

    def none(specs, settings, halves, jobs):
        calls.append((list(specs), halves))
        yield from (KernelReport(spec, None, None, (), (), 0.0) for spec in specs)

    monkeypatch.setattr("flashactor.check.pool.check_kernels", none)
    return calls


def test_without_options_a_few_kernels_stand_for_all(flashactor, planned, monkeypatch):
    monkeypatch.setattr("flashactor.cli.selection.default_archs", lambda: [SmArch.SM80, SmArch.SM89])
    specs = [spec for arch in (SmArch.SM80, SmArch.SM89) for spec in all_specs(arch)]
    assert flashactor("check").code == 0
    assert flashactor("check", "--emulate-only").code == 0
    assert flashactor("check", "--all").code == 0
    assert flashactor("check", "--arch", "sm_80", "sm_89").code == 0
    (few, halves), (emulated, _), (every, all_halves), (named, named_halves) = planned
    assert few == list(covering_specs(specs))
    assert halves.cases is not None
    cases = {(case.spec, case.name) for case in covering_cases(few)}
    assert {(spec, name) for spec, names in halves.cases.items() for name in names} == cases
    assert set(emulated) == {spec for spec, _ in cases} < set(few)
    assert every == named == specs
    assert all_halves.cases is named_halves.cases is None


def test_a_kernel_is_emulated_on_the_cases_that_are_named(tmp_path):
    halves = Halves(static=False, cases={SPEC: ("one key",)})
    assert [finding.check for finding in check_kernel(SPEC, Settings(tmp_path), halves).emulated] == [
        "one key"
    ]
    nothing = Halves(static=False, cases={})
    assert check_kernel(SPEC, Settings(tmp_path), nothing).emulated == ()
