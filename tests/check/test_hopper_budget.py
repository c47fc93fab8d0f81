"""A consumer's loop, found and counted in a real kernel's SASS, and the model that is made of the counts."""

from dataclasses import replace

import pytest
from small_kernel import KERNEL

from flashactor.check.hopper_budget import (
    H100,
    Segment,
    consumer_loop,
    kind_of,
    model,
    products_of,
)
from flashactor.errors import CompileError
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.sm90_fp8 import hopper_fp8_spec
from flashactor.types import DType

GOAL = 0.85
"""The share of benchmarks/sass_budget.py."""
SPECS = (hopper_spec(DType.BF16, 128), hopper_spec(DType.BF16, 64), hopper_fp8_spec(128))


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: spec.label)
def spec(request):
    return request.param


@pytest.fixture(scope="module")
def loop(spec, code_of):
    kernel, _ = code_of(spec)
    return consumer_loop(kernel.cubin, spec)


def test_both_products_are_issued_before_the_first_wait(spec, loop):
    needed = 64 * spec.tile.n * (spec.head_dim + spec.head_dim_v)
    assert [segment.products for segment in loop[:2]] == [needed, 0]


def test_the_softmax_runs_between_the_waits_for_the_two_products(loop):
    _, softmax, *tail = loop
    assert softmax.of("exp2") >= 32
    assert not sum(segment.of("exp2", "max", "shuffle") for segment in tail)


def test_a_score_costs_one_exponential_one_maximum_and_two_operations_of_float32(spec, loop):
    scores = spec.tile.n // 2  # of a thread
    rescaling = spec.head_dim_v // 2
    assert sum(segment.of("exp2") for segment in loop) == scores + 2
    assert scores <= sum(segment.of("max") for segment in loop) <= scores + 8
    assert sum(segment.of("float") for segment in loop) <= 2 * scores + rescaling + 8
    assert sum(segment.of("convert") for segment in loop) == scores // 2


def test_addresses_waits_and_moves_are_a_small_part(loop):
    rest = sum(segment.of("uniform", "barrier", "other") for segment in loop)
    assert rest < 0.35 * sum(segment.instructions for segment in loop)


def test_the_tile_leaves_the_tensor_cores_their_share(spec, loop):
    found = model(spec, loop)
    assert GOAL <= found.share <= 1
    assert found.overlapped == 1
    assert found.lead >= H100.memory_latency


def loop_of(products=64 * 128 * 256):
    """A loop of a tile of 128 x 128 at head_dim 128."""
    return (
        Segment({"tensor": 16, "uniform": 40}, products),
        Segment({"exp2": 66, "max": 70, "float": 130}, 0),
        Segment({"convert": 32, "float": 64}, 0),
    )


def test_clocks_of_a_block_for_all_consumers():
    found = model(SPECS[0], loop_of())
    assert found.busy == {
        "products": 2 * 64 * 128 * 256 // 2048,
        "shared memory": (2 * (64 * 128 + 2 * 128 * 128) * 2 + 128 * 256 * 2) // 128,
        "exponentials": 66 * 8 * 2,
        "half-rate arithmetic": (70 + 32) * 8 // 2,
        "float32": 194 * 8 // 4,
        "issue": 418 * 8 // 4,
        "one consumer": 512 + (140 + 528 + 100) + (96 + 32),
    }
    assert (found.clocks, found.bound, found.share) == (2048, "products", 1)
    assert found.bytes_per_clock == 128 * 512 / 2048
    assert found.lead == 2048


def test_what_takes_longest_is_the_bound():
    found = model(SPECS[0], loop_of(), replace(H100, exp2=4))
    assert found.bound == "exponentials"
    assert found.share == 2048 / (66 * 8 * 2 * 4)


def test_later_pieces_of_p_v_have_nothing_to_run_under():
    whole = loop_of()
    issue, softmax, tail = whole
    piece = 64 * 128 * 64
    pieces = (replace(issue, products=issue.products - piece), softmax, replace(tail, products=piece))
    assert model(SPECS[0], pieces).chain == model(SPECS[0], whole).chain + piece // 2048


def test_code_without_a_loop_is_an_error(small_cubin):
    with pytest.raises(CompileError, match="no loop around tensor instructions"):
        consumer_loop(small_cubin(KERNEL), SPECS[0])


def test_products_that_do_not_add_up_are_an_error(code_of):
    kernel, _ = code_of(SPECS[0])
    with pytest.raises(CompileError, match="products"):
        consumer_loop(kernel.cubin, SPECS[1])


@pytest.mark.parametrize(
    ("opcode", "kind", "products"),
    [
        ("HGMMA.64x176x16.F32.BF16", "tensor", 64 * 176 * 16),
        ("QGMMA.64x128x32.F32.E4M3.E4M3", "tensor", 64 * 128 * 32),
        ("MUFU.EX2", "exp2", 0),
        ("FMNMX", "max", 0),
        ("F2FP.BF16.F32.PACK_AB", "convert", 0),
        ("SYNCS.PHASECHK.TRANS64.TRYWAIT", "barrier", 0),
        ("UIADD3", "uniform", 0),
        ("R2UR", "uniform", 0),
        ("IMAD.MOV.U32", "other", 0),
    ],
)
def test_kind_and_products_of_an_opcode(opcode, kind, products):
    assert (kind_of(opcode), products_of(opcode)) == (kind, products)
