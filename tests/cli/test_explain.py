"""``flashactor explain``: key, kernel, reasons; for people and for programs."""

import json

import pytest

from flashactor import DType, SmArch
from flashactor.kernels.sm80 import forward_spec


def test_the_default_request(flashactor):
    run = flashactor("explain")
    assert (run.code, run.err) == (0, "")
    assert "flashactor::fa2::fwd<bf16, 128, full>" in run.out
    assert "128 queries x 64 keys, 128 threads" in run.out
    assert "not compiled yet; add --compile" in run.out
    assert "\x1b" not in run.out
    assert all(line == line.rstrip() for line in run.out.splitlines())


def test_json_says_the_same(flashactor):
    run = flashactor("explain", "--arch", "sm_90a", "--causal", "--gqa", 8, "--json")
    document = json.loads(run.out)
    spec = forward_spec(SmArch.SM90A, DType.BF16, 128, True)
    assert document["kernel_name"] == "flashactor::fa3::fwd<bf16, 128, causal>_gqa8"
    assert document["key"] == {
        "arch": "sm_90a",
        "dtype": "bf16",
        "head_dim": 128,
        "causal": True,
        "varlen": False,
        "sliding_window": None,
        "alibi": False,
        "sink": 0,
        "paged": False,
        "gqa_ratio": 8,
    }
    assert document["chosen"] == "sm80_mma"
    assert document["kernel"]["label"] == spec.label
    assert document["kernel"]["shared_bytes"] == spec.shared_bytes
    assert document["kernel"]["compiled"] is False
    assert [c["implementation"] for c in document["candidates"]] == ["sm80_mma", "reference"]


def test_compile_shows_registers_and_later_runs_find_them(flashactor):
    compiled = json.loads(flashactor("explain", "--head-dim", 32, "--compile", "--json").out)["kernel"]
    assert 0 < compiled["registers"] <= 255
    assert compiled["spill_bytes"] == 0
    again = json.loads(flashactor("explain", "--head-dim", 32, "--json").out)["kernel"]
    assert again == compiled
    assert f"{compiled['registers']} a thread" in flashactor("explain", "--head-dim", 32).out


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        (["--causal", "--window", 64], "fwd<bf16, 128, causal>_sw64", "has no sliding window"),
        (["--causal", "--sink", 4], "fwd<bf16, 128, causal>_sink4", "has no sink tokens"),
        (["--alibi"], "fwd<bf16, 128, full>_alibi", "has no ALiBi"),
        (["--softcap", 30], "fwd<bf16, 128, full>", "has no softcap"),
        (["--dropout", 0.1], "fwd<bf16, 128, full>", "has no dropout"),
        (["--kind", "varlen"], "fwd<bf16, 128, full>_varlen", "not VarlenFwdRequest"),
        (["--kind", "paged"], "fwd<bf16, 128, full>_paged", "not PagedAttentionRequest"),
        (["--kind", "chunked"], "fwd<bf16, 128, full>_varlen", "not ChunkedPrefillRequest"),
        (["--backward"], "bwd<bf16, 128, full>", "not Fa2BwdRequest"),
        (["--backward", "--kind", "varlen"], "bwd<bf16, 128, full>_varlen", "not VarlenBwdRequest"),
        (["--dtype", "e4m3", "--arch", "sm_90a"], "fwd<e4m3, 128, full>", "not e4m3"),
    ],
    ids=str,
)
def test_what_has_no_kernel_says_why(flashactor, options, name, reason):
    run = flashactor("explain", *options)
    assert run.code == 0
    assert name in run.out
    assert reason in run.out
    assert "computed by  reference" in run.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head-dim", 100], "head_dim: got 100"),
        (["--head-dim", "x"], "--head-dim"),
        (["--window", 0], "sliding_window"),
        (["--sink", 4], "sink_tokens"),
        (["--gqa", 0], "gqa_ratio"),
        (["--dtype", "e4m3"], "sm_89 or newer"),
        (["--dtype", "e4m3", "--backward"], "--dtype"),
        (["--backward", "--kind", "paged"], "--kind"),
        (["--implementation", "fa9"], "sm80_mma, reference"),
        (["--implementation", "sm80_mma", "--softcap", 1], "has no softcap"),
        (["--dropout", 1], "dropout_p"),
    ],
    ids=str,
)
def test_impossible_requests_are_one_line(flashactor, options, message):
    run = flashactor("explain", *options)
    assert run.code == 2
    assert message in run.err
    assert (run.err.count("\n"), run.out) == (1, "")


def test_the_support_table(flashactor):
    run = flashactor("explain", "--support-table")
    assert run.out.startswith("| feature | `sm80_mma` | `reference` |")
    assert "| GQA and MQA | ✓ | ✓ |" in run.out
