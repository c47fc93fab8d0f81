"""Faults planted into the kernel sources are caught, each by what the tables say."""

import pytest
from mutants import judged, outcome, plant
from number_faults import NOT_CAUGHT
from page import FAULTS, PAGE, refreshed
from planted import ACCESS, BLOCKS, COMPILE, FULL, KERNEL, OUT, RAGGED, Fault, at, fault

from flashactor.compiler.source import sources_root
from flashactor.errors import CompileError
from flashactor.executors.emulator import kernel_ptx
from flashactor.kernels.spec import KernelSpec


def named(faults):
    """Parameters with the faults' names."""
    return [pytest.param(fault, id=fault.name) for fault in faults]


def situations():
    """Every kernel, shape and way of looking that a fault is tried on, once."""
    fitting = [f for f in FAULTS if type(f.spec) is KernelSpec and f.caught != COMPILE]
    return {(f.spec.label, f.shape, f.races, f.caught == "bank conflicts"): f for f in fitting}


@pytest.mark.parametrize("fault", named(FAULTS))
def test_a_fault_is_caught(fault, tmp_path):
    found = outcome(fault, tmp_path)
    assert found.kind == fault.caught, found.detail


@pytest.mark.parametrize("fault", named(NOT_CAUGHT))
def test_a_change_that_nothing_notices(fault, tmp_path):
    found = outcome(fault, tmp_path)
    assert found.kind == "", found.detail


@pytest.mark.parametrize("key", situations(), ids=str)
def test_the_unchanged_sources_pass(key):
    fault = situations()[key]
    found = judged(fault, kernel_ptx(fault.spec))
    assert found.kind == "", found.detail


def test_every_fault_has_its_own_name_and_its_own_text(tmp_path):
    faults = (*FAULTS, *NOT_CAUGHT)
    assert len({f.name for f in faults}) == len(faults)
    assert len({(f.edits, f.spec.head_dim, f.spec.causal) for f in faults}) == len(faults)
    assert all(f.why for f in NOT_CAUGHT)
    changed = {edit.file for f in FAULTS for edit in f.edits}
    assert changed == {path.relative_to(sources_root()).as_posix() for path in sources_root().rglob("*.cu*")}


def test_a_text_that_no_longer_matches_is_an_error(tmp_path):
    gone = fault("gone", OUT, FULL, BLOCKS, at(KERNEL, "no such text", ""))
    with pytest.raises(AssertionError, match="has 0 of these, not 1: no such text"):
        plant(gone, tmp_path / "gone")
    twice = fault("twice", OUT, FULL, BLOCKS, at(KERNEL, "__syncthreads();", ""))
    with pytest.raises(AssertionError, match="has 2 of these, not 1"):
        plant(twice, tmp_path / "twice")


def test_a_mutant_that_does_not_compile_is_an_error(tmp_path):
    broken = fault("broken", ACCESS, FULL, BLOCKS, at(KERNEL, "const Lane lane;", "const Lane;"))
    with pytest.raises(CompileError):
        outcome(broken, tmp_path)


def test_sources_without_a_fault_are_not_caught(tmp_path):
    assert outcome(Fault("nothing", (), OUT, RAGGED, FULL), tmp_path).kind == ""


def test_the_page_is_current():
    assert refreshed(PAGE.read_text()) == PAGE.read_text(), "run make docs"
