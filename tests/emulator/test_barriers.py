"""Barriers of a block: all threads, named ones with counts, reductions, and their misuse."""

import numpy as np
import pytest
from ptx_text import compute, fault, run

from flashactor import emulator
from flashactor.errors import BarrierError, DeadlockError, DivergenceError, UnsupportedPtxError

LANES = np.arange(128, dtype=np.uint32)
MODULE = ".shared .align 4 .b8 tile[1024];"
EXCHANGE = """
    mov.u32 %r10, tile;
    mad.lo.u32 %r11, %tid, 4, %r10;
    st.shared.u32 [%r11], %x0;
    {}
    sub.u32 %r12, 127, %tid;
    mad.lo.u32 %r12, %r12, 4, %r10;
    ld.shared.u32 %y0, [%r12];
"""


@pytest.mark.parametrize("schedule", emulator.SCHEDULES)
@pytest.mark.parametrize(
    "barrier",
    ["bar.sync 0;", "bar.sync 5;", "bar.sync 0, 128;", "barrier.sync 1;", "barrier.sync.aligned 1, 128;",
     "bar.cta.sync 2;", "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
     "mov.u32 %r1, 9; bar.sync %r1;"],
)  # fmt: skip
def test_a_block_waits(barrier, schedule):
    got = compute(EXCHANGE.format(barrier), "u32", LANES, module=MODULE, schedule=schedule, races=True)
    assert np.array_equal(got, LANES[::-1])


@pytest.mark.parametrize("schedule", emulator.SCHEDULES)
def test_producers_arrive_and_consumers_wait(schedule):
    """Warps 0 and 1 fill a buffer that warps 2 and 3 read, over and over: two barriers of 128 threads."""
    body = """
    mov.u32 %r10, tile;
    and.b32 %r9, %tid, 63;
    mad.lo.u32 %r11, %r9, 4, %r10;
    mov.u32 %r1, 0;
    mov.u32 %y0, 0;
    setp.ge.u32 %p1, %tid, 64;
    @%p1 bra CONSUMER;
PRODUCER:
    setp.eq.u32 %p2, %r1, 0;
    @%p2 bra FILL;
    bar.sync 2, 128;
FILL:
    add.u32 %r2, %r1, %r9;
    st.shared.u32 [%r11], %r2;
    bar.arrive 1, 128;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 5;
    @%p2 bra PRODUCER;
    bar.sync 2, 128;
    bra DONE;
CONSUMER:
    bar.sync 1, 128;
    xor.b32 %r3, %r9, 32;
    mad.lo.u32 %r3, %r3, 4, %r10;
    ld.shared.u32 %r4, [%r3];
    mad.lo.u32 %y0, %y0, 7, %r4;
    bar.arrive 2, 128;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 5;
    @%p2 bra CONSUMER;
DONE:
"""
    got = compute(body, "u32", LANES, module=MODULE, schedule=schedule, races=True)

    def python(lane):
        total = 0
        for step in range(5):
            total = total * 7 + step + ((lane & 63) ^ 32)
        return total

    assert got.tolist() == [0] * 64 + [python(lane) for lane in range(64, 128)]


def test_reductions():
    odd = LANES % 2 == 1
    few = LANES == 77
    count, every, some, none = compute(
        "setp.ne.u32 %p9, %tid, %tid; bar.red.popc.u32 %y0, 0, %x0; bar.red.and.pred %y1, 1, !%x1; "
            "bar.red.or.pred %y2, 0, %x1;"
        "barrier.cta.red.or.aligned.pred %y3, 3, 128, %p9;", "u32 pred pred pred", odd, few)  # fmt: skip
    assert (count == 64).all()
    assert not every.any()
    assert some.all()
    assert not none.any()
    several = compute("bar.red.popc.u32 %y0, 0, %x0;", "u32", np.arange(256) < 200, block=128)
    assert several.tolist() == [128] * 128 + [72] * 128


def test_lanes_of_a_warp_arrive_one_by_one():
    """barrier.sync without .aligned may be divergent; each lane counts as one thread."""
    body = """
    setp.lt.u32 %p1, %x0, 10;
    @%p1 bra A;
    barrier.sync 1, 32;
    bra B;
A:
    barrier.sync 1, 32;
B:
    mov.u32 %y0, 3;
"""
    assert (compute(body, "u32", LANES, block=32) == 3).all()
    fault(DivergenceError, "setp.lt.u32 %p1, %tid, 10;\n @%p1 bar.sync 1, 32;", instruction="bar.sync 1, 32;")


def test_threads_that_have_left_are_not_waited_for():
    body = """
    setp.ge.u32 %p1, %tid, 96;
    @%p1 exit;
    bar.sync 0;
    setp.ge.u32 %p1, %tid, 40;
    @%p1 exit;
    bar.sync 0;
    mad.wide.u32 %a, %tid, 4, %a;
    st.global.u32 [%a], 1;
"""
    for schedule in emulator.SCHEDULES:
        result = np.zeros(128, np.uint32)
        run(body, {"a": result}, block=128, schedule=schedule)
        assert result.sum() == 40


def test_wrong_numbers_and_counts():
    fault(BarrierError, "\n bar.sync 16;", instruction="bar.sync 16;")
    fault(BarrierError, "\n bar.sync 1, 40;", instruction="bar.sync 1, 40;", block=64)
    fault(BarrierError, "\n bar.sync 1, 0;", instruction="bar.sync 1, 0;")
    body = "setp.lt.u32 %p1, %tid, 32; selp.u32 %r1, 64, 96, %p1;\n bar.sync 1, %r1;"
    error = fault(BarrierError, body, block=64, instruction="bar.sync 1, %r1;")
    assert "64" in str(error)
    assert "96" in str(error)
    error = fault(BarrierError, "\n bar.sync 1, 64;", block=96, schedule="min", instruction="bar.sync 1, 64;")
    assert "96 threads" in str(error)


def test_deadlocks_say_who_waits_where():
    body = """
    setp.lt.u32 %p1, %tid, 32;
    @%p1 bra A;
    bar.sync 1, 64;
    bra B;
A:
    bar.sync 2, 64;
B:
"""
    for schedule in emulator.SCHEDULES:
        error = fault(DeadlockError, body, block=64, schedule=schedule)
        assert "every thread waits" in str(error)
        assert "barrier 1 (32 of 64 threads)" in str(error)
        assert "barrier 2 (32 of 64 threads)" in str(error)
        assert error.at.instruction in ("bar.sync 1, 64", "bar.sync 2, 64")


def test_a_count_that_nobody_completes():
    error = fault(DeadlockError, "\n bar.sync 1, 128;", block=64, instruction="bar.sync 1, 128;")
    assert "64 of 128" in str(error)


@pytest.mark.parametrize(
    "instruction",
    ["bar.wait 0;", "bar.red.xor.pred %p1, 0, %p2;", "barrier.cluster.sync;", "bar.warp.arrive -1;",
         "bar.arrive 1;",
     "bar.red.popc.pred %p1, 0, %p2;"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, "\n" + instruction, instruction=instruction)
