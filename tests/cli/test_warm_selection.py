"""Which kernels the options of ``flashactor warm`` select."""

import json

import pytest
from warm_tools import BF16, F16, listed

from flashactor import DType, PagedAttentionRequest, PagedKvCache, SmArch
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.spec import Scores


def test_dry_run_lists_and_compiles_nothing(flashactor, tmp_path):
    every = [spec.label for spec in all_specs(SmArch.SM90A)]
    run = flashactor("warm", "--arch", "sm_90a", "--all", "--dry-run")
    assert run.out.splitlines()[:-1] == every
    assert f"{len(every)} kernels, about" in run.out
    assert not (tmp_path / "cache").exists()
    two = flashactor("warm", "--arch", "sm_90a", "sm_80", "--all", "--dry-run", "--json")
    assert len(json.loads(two.out)["kernels"]) == len(every) + len(all_specs(SmArch.SM80))


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
