"""``flashactor explain``: key, kernel, reasons; for people and for programs."""

import json
from dataclasses import replace

import pytest

from flashactor import DType, SmArch
from flashactor.cli import tables
from flashactor.kernels import select
from flashactor.kernels.combine import combine_spec
from flashactor.kernels.select import IMPLEMENTATIONS
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm90 import hopper_spec

PREFILL = forward_spec(SmArch.SM80, DType.BF16, 128)
DECODE = forward_spec(SmArch.SM80, DType.BF16, 128, decode=True)
COMBINE = combine_spec(SmArch.SM80, DType.BF16)


def test_the_default_request(flashactor):
    run = flashactor("explain")
    assert (run.code, run.err) == (0, "")
    assert "flashactor::fa2::fwd<bf16, 128, full>" in run.out
    for spec in (PREFILL, DECODE):
        assert f"{spec.tile_name}, {spec.threads} threads" in run.out
        assert f"{spec.shared_bytes / 1024:.1f} KiB" in run.out
    for spec in (PREFILL, DECODE, COMBINE):
        assert f"{spec.label} ({spec.entry} in kernels_cu/{spec.source})" in run.out
    assert run.out.count("not compiled yet; add --compile") == 3
    assert "workspace" not in run.out
    assert "\x1b" not in run.out
    assert all(line == line.rstrip() for line in run.out.splitlines())


def test_json_says_the_same(flashactor):
    run = flashactor("explain", "--arch", "sm_90a", "--causal", "--gqa", 8, "--json")
    document = json.loads(run.out)
    combine = combine_spec(SmArch.SM90A, DType.BF16)
    specs = [*(hopper_spec(DType.BF16, 128, decode=decode) for decode in (False, True)), combine]
    others = [
        *(forward_spec(SmArch.SM90A, DType.BF16, 128, decode=decode) for decode in (False, True)),
        combine,
    ]
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
    assert document["chosen"] == "sm90_wgmma"
    for kernel, spec in zip(document["kernels"], specs, strict=True):
        assert (kernel["label"], kernel["kind"], kernel["tile"]) == (spec.label, spec.kind, spec.tile_name)
        assert kernel["shared_bytes"] == spec.shared_bytes
        assert kernel["compiled"] is False
    assert document["workspace_bytes"] is None
    wgmma, mma, reference = document["candidates"]
    assert (wgmma["implementation"], wgmma["kernels"]) == ("sm90_wgmma", [spec.label for spec in specs])
    assert (mma["implementation"], mma["kernels"]) == ("sm80_mma", [spec.label for spec in others])
    assert mma["reasons"] == ["accepts it, but sm90_wgmma comes first"]
    assert (reference["implementation"], reference["kernels"]) == ("reference", [])


def explained(flashactor, *options):
    run = flashactor("explain", "--json", *options)
    assert (run.code, run.err) == (0, "")
    document = json.loads(run.out)
    return [kernel["label"] for kernel in document["kernels"]], document["workspace_bytes"]


def test_sizes_say_which_kernels_and_how_much_scratch_memory(flashactor):
    assert explained(flashactor, "--sizes", 8, 4096, 4096, 8) == ([PREFILL.label], 0)
    assert explained(flashactor, "--sizes", 64, 1, 512, 8)[0] == [DECODE.label]
    labels, workspace = explained(flashactor, "--sizes", 1, 1, 65536, 2, "--gqa", 4)
    assert labels == [DECODE.label, COMBINE.label]
    row = (128 + 1) * 4  # a float32 for each element of out, and one for lse
    splits = workspace // (8 * row)
    assert splits > 1
    assert splits * 8 * row <= workspace < splits * 8 * row + 512
    run = flashactor("explain", "--sizes", 1, 1, 65536, 2, "--gqa", 4)
    assert f"workspace    {workspace / 1024:.1f} KiB" in run.out


def test_requests_of_other_heads_caches_and_kinds(flashactor):
    labels, _ = explained(flashactor, "--head-dim", 192, "--head-dim-v", 128)
    assert forward_spec(SmArch.SM80, DType.BF16, 192, 128).label in labels
    labels, _ = explained(flashactor, "--kind", "paged", "--kv-dtype", "e4m3", "--alibi")
    assert any(".fwd.bf16.d128.modified.paged.fp8_kv.decode." in label for label in labels)
    labels, _ = explained(flashactor, "--kind", "merge", "--dtype", "f16")
    assert [label.split(".")[1] for label in labels] == ["merge"]
    _, most = explained(flashactor, "--sizes", 1, 1, 65536, 2)
    _, least = explained(flashactor, "--sizes", 1, 1, 65536, 2, "--batch-invariant")
    assert 0 < least < most


@pytest.mark.parametrize("arch", [arch for arch in SmArch if arch.supports_fp8])
def test_fp8_wherever_tensor_cores_multiply_it(flashactor, arch):
    options = ("--arch", arch.target, "--dtype", "e4m3")
    labels, _ = explained(flashactor, *options)
    assert {label.split(".")[1] for label in labels} == {"fwd_fp8", "combine"}
    decoding, workspace = explained(flashactor, *options, "--sizes", 1, 1, 65536, 2)
    assert [label.split(".")[1] for label in decoding] == ["fwd_fp8", "combine"]
    assert set(decoding) < set(labels)
    assert workspace > 0


def test_on_hopper_backward_runs_on_the_other_family_and_says_why(flashactor):
    options = ("explain", "--arch", "sm_90a", "--backward")
    document = json.loads(flashactor(*options, "--json").out)
    wgmma, mma, _ = document["candidates"]
    assert (document["chosen"], mma["chosen"]) == ("sm80_mma", True)
    assert (wgmma["implementation"], wgmma["reasons"]) == ("sm90_wgmma", ["has forward kernels only"])
    assert {kernel["label"].split(".")[0] for kernel in document["kernels"]} == {"sm80_mma"}
    run = flashactor(*options)
    assert "computed by  sm80_mma" in run.out
    assert "has forward kernels only" in run.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["plain", "full"]),
        (("--causal",), ["plain"]),
        (("--softcap", 30), ["modified"]),
        (("--sizes", 1, 4096, 4096, 8), ["plain", "full"]),
        (("--sizes", 4, 1, 4096, 8, "--gqa", 8), ["plain", "decode"]),
    ],
    ids=str,
)
def test_forward_on_hopper(flashactor, options, words):
    labels, _ = explained(flashactor, "--arch", "sm_90a", *options)
    assert labels[0].startswith("sm90_wgmma.fwd.bf16.d128.")
    known = {"plain", "full", "modified", "decode"}
    assert words == [word for word in labels[0].split(".") if word in known]


def test_a_backward_pass_has_more_kernels_with_slopes(flashactor):
    sizes = ("--backward", "--sizes", 2, 1000, 1000, 4)
    labels, workspace = explained(flashactor, *sizes)
    with_slopes, more = explained(flashactor, *sizes, "--alibi")
    assert [label.split(".")[1] for label in labels] == ["bwd_preprocess", "bwd_dkdv", "bwd_dq"]
    assert [label.split(".")[1] for label in with_slopes][3:] == ["bwd_reduce"]
    assert 0 < workspace < more


def test_no_array_is_made_for_sizes(flashactor):
    labels, workspace = explained(flashactor, "--sizes", 2**16, 1, 2**30, 64, "--alibi", "--gqa", 8)
    assert (len(labels), workspace) == (1, 0)


def test_the_reference_needs_no_scratch_memory(flashactor):
    assert explained(flashactor, "--sizes", 1, 1, 65536, 2, "--implementation", "reference") == ([], None)


def test_compile_shows_registers_and_later_runs_find_them(flashactor):
    options = ("explain", "--head-dim", 32, "--sizes", 1, 1, 65536, 1)
    compiled = json.loads(flashactor(*options, "--compile", "--json").out)["kernels"]
    assert [kernel["kind"] for kernel in compiled] == ["fwd", "combine"]
    for kernel in compiled:
        assert 0 < kernel["registers"] <= 255
        assert kernel["spill_bytes"] == 0
    again = json.loads(flashactor(*options, "--json").out)["kernels"]
    assert again == compiled
    run = flashactor(*options)
    assert all(f"{kernel['registers']} a thread" in run.out for kernel in compiled)


@pytest.mark.parametrize(
    ("options", "name", "label"),
    [
        (["--causal", "--window", 64], "fwd<bf16, 128, causal>_sw64", "bf16.d128.plain."),
        (["--causal", "--sink", 4], "fwd<bf16, 128, causal>_sink4", "bf16.d128.plain."),
        (["--alibi"], "fwd<bf16, 128, full>_alibi", "bf16.d128.modified."),
        (["--softcap", 30], "fwd<bf16, 128, full>", "bf16.d128.modified."),
        (["--dropout", 0.1], "fwd<bf16, 128, full>", "bf16.d128.dropout."),
        (["--kind", "varlen"], "fwd<bf16, 128, full>_varlen", "bf16.d128.plain."),
        (["--kind", "paged"], "fwd<bf16, 128, full>_paged", "bf16.d128.plain.paged."),
        (["--kind", "chunked"], "fwd<bf16, 128, full>_varlen", "append.bf16."),
        (["--kind", "merge"], "merge<bf16, 128>", "merge.bf16."),
        (["--backward"], "bwd<bf16, 128, full>", "bwd_dq.bf16.d128.plain."),
        (["--backward", "--kind", "varlen"], "bwd<bf16, 128, full>_varlen", "bwd_dkdv.bf16.d128.plain."),
    ],
    ids=str,
)
def test_what_has_kernels_names_them(flashactor, options, name, label):
    run = flashactor("explain", *options)
    assert run.code == 0
    assert name in run.out
    assert label in run.out
    assert "computed by  sm80_mma" in run.out


def test_what_has_no_kernel_says_why(flashactor, monkeypatch):
    hopper, mma, reference = IMPLEMENTATIONS
    refusing = replace(mma, reasons_against=lambda request, arch: ("is away", "has no time"))
    monkeypatch.setattr(select, "IMPLEMENTATIONS", (hopper, refusing, reference))
    run = flashactor("explain", "--sizes", 1, 1, 65536, 2)
    assert run.code == 0
    assert "computed by  reference" in run.out
    assert "is away" in run.out
    assert "has no time" in run.out
    assert "registers" not in run.out
    document = json.loads(flashactor("explain", "--json").out)
    assert document["kernels"] == document["candidates"][1]["kernels"] == []
    assert [candidate["reasons"] for candidate in document["candidates"][:2]] == [
        ["wgmma exists on sm_90a alone"],
        ["is away", "has no time"],
    ]
    run = flashactor("explain", "--implementation", "sm80_mma")
    assert (run.code, run.out) == (2, "")
    assert "is away" in run.err


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
        (["--implementation", "fa9"], "sm90_wgmma, sm80_mma, reference"),
        (["--sizes", 1, 1, 0, 1], "--sizes: got 0"),
        (
            ["--sizes", 1, 2, 2**30 + 1, 8],
            "--sizes: number: got 1073741825; expected an integer of at most 2**30",
        ),
        (["--sizes", 1, 2, 10**22, 8], "--sizes: number: got 1000"),
        (["--sizes", 1, 1, "9" * 5000, 8], "--sizes: number: got 999"),
        (["--sizes", 1, 1, "x", 8], "--sizes: number: got x"),
        (["--sizes", 2**30, 2**30, 2**30, 8], "--sizes: got an array of"),
        (["--sizes", 2**20, 2**20, 1, 1, "--gqa", 2**20], "--sizes: got an array of"),
        (["--gqa", 10**20, "--sizes", 1, 1, 10, 8], "--gqa: number: got 1000"),
        (["--window", 10**20], "--window: number: got 1000"),
        (["--causal", "--sink", 10**20], "--sink: number: got 1000"),
        (["--sizes", 1, 1, 1, 1, "--kind", "paged"], "--sizes: got paged"),
        (["--kv-dtype", "e4m3"], "paged or chunked for --kv-dtype"),
        (["--kv-dtype", "f16", "--kind", "paged"], "kv_dtype"),
        (["--head-dim-v", 100], "head_dim_v: got 100"),
        (["--kind", "merge", "--causal"], "mask"),
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
    assert run.out.startswith("| feature | `sm90_wgmma` | `sm80_mma` | `reference` |")
    for feature in ("GQA and MQA", "softcap", "learned sink logits", "append with rotary embedding"):
        assert f"| {feature} | ✓ | ✓ | ✓ |" in run.out
    cached = "fp8 KV cache under 16-bit queries | no: does not convert fp8 caches to 16 bits"
    for lacking in (
        "dropout | no: has no dropout",
        cached,
        "backward, packed | no: has forward kernels only",
    ):
        assert f"| {lacking} | ✓ | ✓ |" in run.out


def test_the_support_table_for_programs(flashactor, monkeypatch):
    lacking = replace(IMPLEMENTATIONS[0], name="lacking", reasons_against=lambda *_: ("no", "never"))
    monkeypatch.setattr(tables, "IMPLEMENTATIONS", (lacking, IMPLEMENTATIONS[-1]))
    document = json.loads(flashactor("explain", "--support-table", "--json").out)
    assert [row["feature"] for row in document] == [feature for feature, _ in tables.FEATURES]
    for row in document:
        assert row["implementations"] == {
            "lacking": {"supported": False, "reasons": ["no", "never"]},
            "reference": {"supported": True, "reasons": []},
        }
