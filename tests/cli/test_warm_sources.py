"""``flashactor warm`` with the kernels of a model's configuration, or of a trace."""

import json

import pytest
from warm_tools import BF16, listed

from flashactor import DType, SmArch
from flashactor.errors import NoKernelError
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.sm80 import forward_spec

MODEL = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "torch_dtype": "bfloat16"}
OF_MODEL = [
    forward_spec(SmArch.SM80, DType.BF16, 32).label,
    forward_spec(SmArch.SM80, DType.BF16, 32, decode=True).label,
    BF16,
    forward_spec(SmArch.SM80, DType.BF16, 32, paged=True).label,
    forward_spec(SmArch.SM80, DType.BF16, 32, paged=True, decode=True).label,
]
"""Prefill and decode over contiguous and paged keys, and what combines their splits."""


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
