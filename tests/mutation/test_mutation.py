"""Faults planted into the kernel sources are caught, each by what the tables say.

Every fifth fault is tried, of those for Hopper every ninth; all of them where EVERY_FAULT is set, as `make
faults` does: a quarter of an hour.
"""

import os

import pytest
from mutants import judged, outcome, plant
from not_caught import NOT_CAUGHT
from page import FAULTS, HOPPER_FAULTS, MMA_FAULTS, PAGE, refreshed
from planted import (
    ACCESS,
    BLOCKS,
    COMPILE,
    CONFLICTS,
    FWD,
    KERNEL,
    LOOP,
    OUT,
    RAGGED,
    SPILLS,
    Fault,
    ShortOfSharedMemory,
    at,
    fault,
)

from flashactor.compiler.source import sources_root
from flashactor.errors import CompileError
from flashactor.executors.emulator import kernel_ptx

TRIED = FAULTS if os.environ.get("EVERY_FAULT") else (*MMA_FAULTS[::5], *HOPPER_FAULTS[::9])


def named(faults):
    """Parameters with the faults' names."""
    return [pytest.param(fault, id=fault.name) for fault in faults]


def situations():
    """Every kernel, case and way of looking that a fault is tried on, once."""
    fitting = [
        f for f in TRIED if not isinstance(f.spec, ShortOfSharedMemory) and f.caught not in (COMPILE, SPILLS)
    ]
    return {(f.spec.label, f.case, f.races, f.caught == CONFLICTS): f for f in fitting}


@pytest.mark.parametrize("fault", named(TRIED))
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


def test_every_fault_fits_the_sources(tmp_path):
    for number, planted in enumerate((*FAULTS, *NOT_CAUGHT)):
        assert plant(planted, tmp_path / str(number)).is_dir()


def test_every_fault_has_its_own_name_and_its_own_text():
    faults = (*FAULTS, *NOT_CAUGHT)
    assert len({f.name for f in faults}) == len(faults)
    assert len({(f.edits, f.spec, f.case) for f in faults}) == len(faults)
    assert all(f.why for f in NOT_CAUGHT)
    assert all(f.caught and not f.why for f in FAULTS)


def test_faults_are_planted_into_every_file_that_computes():
    changed = {edit.file for f in FAULTS for edit in f.edits}
    sources = {path.relative_to(sources_root()).as_posix() for path in sources_root().rglob("*.cu*")}
    assert changed <= sources
    assert {path for path in sources - changed if not path.endswith("params.cuh")} <= WITHOUT_FAULTS


WITHOUT_FAULTS = {
    "common/compiler.cuh",
    "common/convert.cuh",
    "common/quantize.cuh",
    "sm80/fwd_config.cuh",
    "sm80/ptx_fp8.cuh",
    "sm90/wgmma.cuh",
}
"""Constants, what is nothing at run time, instructions that a tool writes, and conversions whose every result
has tests of its own."""


def test_a_text_that_no_longer_matches_is_an_error(tmp_path):
    gone = fault("gone", OUT, FWD, BLOCKS, at(KERNEL, "no such text", ""))
    with pytest.raises(AssertionError, match="has 0 of these, not 1: no such text"):
        plant(gone, tmp_path / "gone")
    twice = fault("twice", OUT, FWD, BLOCKS, at(LOOP, "cp_async_wait<0>();", ""))
    with pytest.raises(AssertionError, match="has 2 of these, not 1"):
        plant(twice, tmp_path / "twice")


def test_a_mutant_that_does_not_compile_is_an_error(tmp_path):
    broken = fault("broken", ACCESS, FWD, BLOCKS, at(LOOP, "const Lane<C> lane;", "const Lane<C>;"))
    with pytest.raises(CompileError):
        outcome(broken, tmp_path)


def test_sources_without_a_fault_are_not_caught(tmp_path):
    assert outcome(Fault("nothing", (), OUT, RAGGED, FWD), tmp_path).kind == ""


def test_the_page_is_current():
    assert refreshed(PAGE.read_text()) == PAGE.read_text(), "run make docs"
