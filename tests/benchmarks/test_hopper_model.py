"""The table of docs/hopper.md: current, complete, and made of counts that the kernels still have."""

import json

import pytest

from benchmarks.hopper_model import BEGIN, COUNTS, END, PAGE, as_json, kernels, refreshed, rounds, table
from flashactor.check.hopper_budget import H100, consumer_loop
from flashactor.compiler.nvrtc import compile_cubin

GOAL = 0.85
COMPILER_MAY_CHANGE = 0.03
"""Of the instructions of a loop: a version of NVRTC orders and spills otherwise."""


@pytest.fixture(scope="module")
def results():
    return json.loads(COUNTS.read_text())["hopper"]


def test_the_page_is_what_the_command_would_write():
    page = PAGE.read_text()
    assert refreshed(page) == page, "python -m benchmarks.sass_budget"


def test_each_tile_has_a_row(results):
    assert set(results) == {spec.label for spec in kernels()}
    assert len(table(results).splitlines()) == 2 + len(kernels())


def test_no_tile_of_16_bits_is_bound_by_more_than_its_products_but_for_decoding(results):
    shares = {spec.label: found.share for spec, found in rounds(results).items() if spec.consumers > 1}
    of_16_bits = {label: share for label, share in shares.items() if ".bf16." in label}
    assert len(of_16_bits) == 9
    assert min(of_16_bits.values()) >= GOAL, of_16_bits


def test_exponentials_never_wait_for_p_v(results):
    assert {found.overlapped for found in rounds(results).values()} == {1.0}


def test_stages_lead_by_what_memory_takes(results):
    assert min(found.lead for found in rounds(results).values()) >= H100.memory_latency


def test_the_counts_are_those_of_the_kernels(results):
    spec = next(spec for spec in kernels() if spec.head_dim == 96)
    counted = as_json(consumer_loop(compile_cubin(spec).cubin, spec))
    totals = [
        sum(sum(segment["counts"].values()) for segment in loop) for loop in (counted, results[spec.label])
    ]
    assert totals[0] == pytest.approx(totals[1], rel=COMPILER_MAY_CHANGE), "python -m benchmarks.sass_budget"


def test_a_page_without_markers_is_an_error():
    with pytest.raises(ValueError, match="hopper-model"):
        refreshed(f"{BEGIN} but not the other, {END[:-1]}")
