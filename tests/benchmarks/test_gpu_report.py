"""The report of the GPU check: as JSON, as a page, and in files."""

import json
from dataclasses import replace

import pytest
from gpu_fakes import a_report

from benchmarks.gpu_check import machine
from benchmarks.gpu_check.agreement import Agreement
from benchmarks.gpu_check.page import attention_table, markdown
from benchmarks.gpu_check.report import SCHEMA, Report, Speed, document
from benchmarks.gpu_check.speed import OURS, Decode, Measurement
from flashactor import SmArch


def test_the_json_form_is_complete_and_plain():
    data = document(a_report(problem="out[0] is nan"))
    assert json.loads(json.dumps(data)) == data
    forward, backward = data.pop("attention")
    step, rows = data.pop("decode")
    assert data == {
        "schema": SCHEMA,
        "date": "2026-11-21T06:00:00+00:00",
        "command": "python -m benchmarks.gpu_check",
        "machine": {
            "device": "NVIDIA H200",
            "arch": "sm_90a",
            "driver": "580.65.6",
            "cpu": "Xeon",
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
        },
        "correctness": {
            "library": "torch",
            "cases": 3,
            "right": 2,
            "largest_error_ratio": 0.4,
            "largest_lse_error": 2e-6,
        },
        "cuda_graph": {"right": True},
        "emulator": [
            {"kind": "fwd", "cases": 2, "equal": 1, "largest_difference": {"out": 0.25, "lse": 0.0}}
        ],
        "failures": [{"case": "f16, one key", "problem": "out[0] is nan"}],
        "copy_gb_per_s": 4000.0,
    }
    assert forward == {
        "pass": "forward",
        "head_dim": 128,
        "mask": "causal",
        "batch": 4,
        "seqlen": 4096,
        "heads": 16,
        "milliseconds": {OURS: 0.5, "torch flash": 1.0},
        "tflops": {
            OURS: pytest.approx(549.756, abs=1e-3),
            "torch flash": pytest.approx(274.878, abs=1e-3),
        },
        "ratio": {"torch flash": 2.0},
        "unavailable": {"torch cudnn": "not on this device"},
    }
    assert (backward["pass"], backward["ratio"]) == ("backward", {})
    assert (step["page"], step["ratio"]) == (64, {"FlashAttention-3": 2.0})
    assert (rows["page"], rows["ratio"]) == (0, {})
    assert step["share_of_copy"] == pytest.approx(step["gb_per_s"] / 4000.0) == pytest.approx(0.537, abs=1e-3)


def test_the_page_says_it_all():
    page = markdown(document(a_report(problem="out[0] is nan")))
    for part in (
        "# NVIDIA H200, 2026-11-21",
        "`python -m benchmarks.gpu_check`",
        "driver 580.65.6",
        "torch 2.13.0",
        "2 of 3 cases right, with torch arrays",
        "replays correctly as a CUDA graph",
        "- FAILED f16, one key: out[0] is nan",
        "| fwd | 2 | 1 | out 2.5e-01, lse 0.0e+00 |",
        "## Forward, batch",
        "| 128 | causal | 4096 | 550 | 275 | - | 2.00 | - |",
        "## Backward, batch",
        "share of the 4000 GB/s of a copy",
        "| context | batch | keys | ms | GB/s | share of copy | ratio to FlashAttention-3 |",
        "| 4096 | 64 | pages of 64 | 0.500 | 2147 | 0.54 | 2.00 |",
        "| 4096 | 64 | rows | 0.250 | 4295 | 1.07 | - |",
    ):
        assert part in page
    assert "FAILED" not in markdown(document(a_report()))


def test_a_graph_that_is_wrong_is_a_failure():
    report = a_report(graph="out[0] is 0.5")
    assert report.failures == [("graph", "out[0] is 0.5")]
    assert "does NOT replay correctly" in markdown(document(report))


def test_what_we_could_not_run_is_a_failure_with_dashes():
    report = replace(
        a_report(), speed=Speed([], [Measurement.of(Decode(8192), {}, {OURS: "no kernel"})], 4e3)
    )
    data = document(report)
    assert report.failures == [("speed of decoding, context 8192, pages of 64", "no kernel")]
    assert (data["decode"][0]["gb_per_s"], data["decode"][0]["share_of_copy"]) == (None, None)
    assert "| 8192 | 32 | pages of 64 | - | - | - |" in markdown(data)


def test_a_comparison_that_failed_is_a_failure():
    report = replace(a_report(), agreements=[Agreement("merge", "c", {}, "LaunchError: launch")])
    assert report.failures == [("c", "LaunchError: launch")]
    assert document(report)["emulator"] == [
        {"kind": "merge", "cases": 0, "equal": 0, "largest_difference": {}}
    ]


def test_a_report_without_torch_has_no_figures():
    full = a_report()
    data = document(Report(full.date, full.command, full.machine, "cupy", full.checked))
    assert (data["cuda_graph"], data["attention"], data["decode"], data["copy_gb_per_s"]) == (
        None,
        [],
        [],
        None,
    )
    page = markdown(data)
    assert "CUDA graph" not in page
    assert "TFLOP/s" not in page


def test_a_contender_that_appears_late_still_has_its_column():
    rows = document(a_report())["attention"][::-1]
    header, rule, first, second = attention_table(rows)
    assert header.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert "torch flash" in header
    assert first.endswith("| - | - | - | - |")


def test_files_are_named_by_device_and_date(tmp_path):
    paths = a_report().write(tmp_path / "results")
    assert [path.name for path in paths] == [
        "gpu_nvidia-h200_2026-11-21.json",
        "gpu_nvidia-h200_2026-11-21.md",
    ]
    assert json.loads(paths[0].read_text())["schema"] == SCHEMA
    assert paths[1].read_text().startswith("# NVIDIA H200")


def test_the_machine_is_the_device_and_what_is_installed(monkeypatch):
    monkeypatch.setattr(machine, "device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(machine, "device_arch", lambda: SmArch.SM90A)
    monkeypatch.setattr(machine, "driver_version", lambda: "580.65.6")
    found = machine.this_machine()
    assert (found.device, found.arch, found.driver) == ("NVIDIA H200", "sm_90a", "580.65.6")
    assert {"python", "flashactor", "numpy", "torch"} <= set(found.versions)
