"""The kernels and cases that stand for all."""

import pytest

from flashactor.check.cases import CASES, cases_of
from flashactor.check.covering import covering_cases, covering_specs
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.merge import MergeSpec
from flashactor.types import DType, SmArch

ALL = all_specs()
SPECS = covering_specs(ALL)
COVER = covering_cases(SPECS)


def kind_of_pass(spec):
    return spec.kind.partition("_")[0]


def name_of(case):
    return (case.spec.family, kind_of_pass(case.spec)), case.name, "decode" in case.spec.features


@pytest.mark.parametrize(
    "facts",
    [
        lambda spec: {(spec.family, spec.kind, feature) for feature in spec.features},
        lambda spec: {(spec.family, spec.kind, spec.dtype)},
        lambda spec: {(spec.family, spec.kind, spec.head_dims)},
        lambda spec: {(kind_of_pass(spec), spec.arch)},
        lambda spec: {(spec.arch, spec.head_dims)},
    ],
    ids=["features", "dtype", "head_dims", "arch", "arch and head_dims"],
)
def test_a_few_kernels_have_what_all_have(facts):
    assert set().union(*map(facts, SPECS)) == set().union(*map(facts, ALL))
    assert set(SPECS) <= set(ALL)
    assert len(SPECS) < len(ALL) / 20


def test_their_cases_have_what_all_cases_have():
    names = {name_of(case)[:2] for spec in ALL for case in cases_of(spec)}
    assert {name_of(case)[:2] for case in COVER} == names
    assert set(map(name_of, COVER)) == {name_of(case) for spec in SPECS for case in cases_of(spec)}
    features = {(spec.family, spec.kind, feature) for spec in ALL for feature in spec.features}
    covered = {case.spec for case in COVER}
    assert {(spec.family, spec.kind, feature) for spec in covered for feature in spec.features} == features
    assert {case.spec.arch for case in COVER} == set(SmArch)
    assert covered <= set(SPECS)
    assert len(COVER) < 150


def test_the_choice_is_always_the_same():
    assert covering_specs(ALL) == SPECS
    assert [str(case) for case in covering_cases(SPECS)] == [str(case) for case in COVER]
    assert covering_specs(SPECS) == SPECS


def test_one_kernel_is_covered_by_itself():
    (spec,) = covering_specs(ALL[:1])
    assert spec == ALL[0]
    assert {case.name for case in covering_cases([spec])} == {case.name for case in cases_of(spec)}
    assert covering_specs(()) == ()


def test_every_kind_of_kernel_has_cases():
    assert {spec.kind for spec in ALL} == set(CASES)


class NewKind(MergeSpec):
    """A kernel of a kind that nobody has made cases for."""

    __slots__ = ()

    @property
    def kind(self):
        return "new"


def test_a_kind_without_cases_is_no_kernel_that_passes():
    with pytest.raises(KeyError, match="new"):
        cases_of(NewKind("common", SmArch.SM80, DType.F16))
