"""Schedules: the order of warps, its reproducibility, and results that depend on it."""

from itertools import pairwise

import numpy as np
import pytest
from ptx_text import fault, run

from flashactor import emulator
from flashactor.errors import DeadlockError, LaunchError

# Each warp takes a ticket for every step that it makes: the tickets tell the order.
TICKETS = """
    mov.u32 %r1, 0;
    shr.u32 %r2, %tid, 5;
    and.b32 %r3, %tid, 31;
    setp.ne.u32 %p1, %r3, 0;
    @%p1 exit;
LOOP:
    atom.global.add.u32 %r4, [%a], 1;
    mad.lo.u32 %r5, %r2, 8, %r1;
    mad.wide.u32 %rd1, %r5, 4, %b;
    st.global.u32 [%rd1], %r4;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 8;
    @%p2 bra LOOP;
"""


def tickets(schedule, seed=0):
    order = np.zeros((4, 8), np.uint32)
    run(TICKETS, {"a": np.zeros(1, np.uint32), "b": order}, block=128, schedule=schedule, seed=seed)
    assert sorted(order.reshape(-1).tolist()) == list(range(32))
    return order


def test_min_goes_in_step():
    assert np.array_equal(tickets("min"), np.arange(32).reshape(8, 4).T)


def test_max_lets_one_warp_go_ahead():
    order = tickets("max")
    ranges = sorted((row.min(), row.max()) for row in order)
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))


def test_random_is_reproducible_by_its_seed():
    orders = [tickets("random", seed) for seed in range(6)]
    assert all(np.array_equal(order, tickets("random", seed)) for seed, order in enumerate(orders))
    assert len({order.tobytes() for order in orders}) > 1


def test_all_runs_each_from_the_same_memory():
    count = np.zeros(1, np.uint32)
    result = run("atom.global.add.u32 %r1, [%a], 1;", {"a": count}, schedule="all")
    assert result.schedules == emulator.SCHEDULES == ("min", "max", "random")
    assert count[0] == 32
    assert result.is_deterministic
    single = run("atom.global.add.u32 %r1, [%a], 1;", {"a": count})
    assert result.warp_instructions == 3 * single.warp_instructions
    assert single.schedules == ("min",)
    assert count[0] == 64


def test_results_that_depend_on_the_order_are_noticed():
    order = np.zeros((4, 8), np.uint32)
    result = run(TICKETS, {"a": np.zeros(1, np.uint32), "b": order}, block=128, schedule="all")
    assert not result.is_deterministic
    assert run(TICKETS, {"a": np.zeros(1, np.uint32), "b": order}, block=128).is_deterministic


def test_counters():
    result = run("mov.u32 %r1, 1;", grid=3, block=64)
    assert result.warp_instructions == 6 * 6  # four of the frame, one, and ret
    assert result.steps == 1
    assert result.seconds > 0


def test_a_kernel_without_an_end():
    error = fault(DeadlockError, "A: add.u32 %r1, %r1, 1; bra A;", max_steps=1000)
    assert "1000 steps" in str(error)
    assert error.at.kernel == "k"


@pytest.mark.parametrize("schedule", emulator.SCHEDULES)
def test_a_spinning_warp_does_not_starve_the_one_that_it_waits_for(schedule):
    body = """
    setp.ge.u32 %p1, %tid, 32;
    @%p1 bra SPIN;
    mov.u32 %r1, 0;
WORK:
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 50;
    @%p2 bra WORK;
    st.release.gpu.global.u32 [%a], 1;
    bra END;
SPIN:
    ld.acquire.gpu.global.u32 %r2, [%a];
    setp.eq.u32 %p2, %r2, 0;
    @%p2 bra SPIN;
END:
"""
    flag = np.zeros(1, np.uint32)
    run(body, {"a": flag}, block=64, schedule=schedule, max_steps=100_000)
    assert flag[0] == 1


def test_an_unknown_schedule():
    with pytest.raises(LaunchError) as caught:
        run("", schedule="fair")
    assert caught.value.field == "schedule"
