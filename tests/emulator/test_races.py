"""Data races: found under every schedule, whatever order it ran; and never where there is none."""

import numpy as np
import pytest
from ptx_text import fault, run

from flashactor import emulator
from flashactor.errors import DataRaceError

MODULE = ".shared .align 16 .b8 tile[1024];"
SCHEDULES = pytest.mark.parametrize("schedule", emulator.SCHEDULES)
PLACE = "mov.u32 %r10, tile; mad.lo.u32 %r11, %tid, 4, %r10;\n"


def other(distance):
    """%r12: the place of the thread at a distance."""
    return f"xor.b32 %r12, %tid, {distance}; mad.lo.u32 %r12, %r12, 4, %r10;\n"


READ_OTHERS = "st.shared.u32 [%r11], %tid;\n{}\nld.shared.u32 %r1, [%r12];"


@SCHEDULES
def test_missing_barrier_between_warps(schedule):
    body = PLACE + other(32) + READ_OTHERS
    options = {"module": MODULE, "block": 64, "races": True, "schedule": schedule}
    run(body.format("bar.sync 0;"), **options)
    first = "setp.lt.u32 %p1, %tid, 32; st.shared.u32 [%r11], 0; bar.sync 0; @%p1 bra W;\n"
    first += "ld.shared.u32 %r1, [%r12]; bra E; W: st.shared.u32 [%r11], 1; E:"
    error = fault(DataRaceError, PLACE + other(32) + first, **options)
    assert "warp" in str(error)
    assert error.at.address is not None
    assert error.at.instruction.startswith(("ld.shared", "st.shared"))


@SCHEDULES
def test_missing_barrier_before_the_next_write(schedule):
    """Write, barrier, read, write again: the second write races with the read."""
    body = PLACE + other(32) + "st.shared.u32 [%r11], 1; bar.sync 0; ld.shared.u32 %r1, [%r12];\n{}\n"
    body += "st.shared.u32 [%r11], 2;"
    options = {"module": MODULE, "block": 64, "races": True, "schedule": schedule}
    run(body.format("bar.sync 0;"), **options)
    fault(DataRaceError, body.format(""), **options)


@SCHEDULES
def test_missing_syncwarp(schedule):
    body = PLACE + other(1) + READ_OTHERS
    options = {"module": MODULE, "races": True, "schedule": schedule}
    run(body.format("bar.warp.sync -1;"), **options)
    run(body.format("bar.sync 0;"), **options)
    run(body.format("").replace("%r12", "%r11"), **options)
    error = fault(DataRaceError, body.format(""), instruction="ld.shared.u32 %r1, [%r12];", **options)
    assert "lane" in str(error)


@SCHEDULES
def test_syncwarp_does_not_order_warps(schedule):
    body = PLACE + other(32) + "st.shared.u32 [%r11], 0; bar.sync 0;" + READ_OTHERS
    fault(
        DataRaceError,
        body.format("bar.warp.sync -1;"),
        module=MODULE,
        block=64,
        races=True,
        schedule=schedule,
    )


@SCHEDULES
def test_two_writers(schedule):
    options = {"module": MODULE, "races": True, "schedule": schedule}
    fault(DataRaceError, "\n st.shared.u32 [tile], %tid;", instruction="st.shared", **options)
    fault(DataRaceError, "shr.u32 %r1, %tid, 5;\n st.shared.u32 [tile], %r1;", instruction="st.shared",
              block=64,
          **options)  # fmt: skip
    run("setp.eq.u32 %p1, %tid, 3; @%p1 st.shared.u32 [tile], %tid;", **options)
    run("setp.lt.u32 %p1, %tid, 32; @%p1 bra A; bar.sync 0; st.shared.u32 [tile], 1; bra B;"
        "A: st.shared.u32 [tile], 0; bar.sync 0; B:", block=64, **options)  # fmt: skip


@SCHEDULES
def test_named_barriers_order_those_who_meet_there(schedule):
    body = """
    setp.ge.u32 %p1, %tid, 64;
    @%p1 bra THIRD;
    bar.sync 1, 64;
    st.shared.u32 [%r11], 1;
    bar.sync 1, 64;
    ld.shared.u32 %r1, [%r12];
    bra END;
THIRD:
    {}
END:
"""
    options = {"module": MODULE, "block": 96, "races": True, "schedule": schedule}
    run(PLACE + other(32) + body.format(""), **options)
    reading = "st.shared.u32 [%r11], 0; ld.shared.u32 %r1, [%r11];"
    run(PLACE + other(32) + body.format(reading), **options)
    fault(DataRaceError, PLACE + other(32) + body.format("st.shared.u32 [tile], 3;"), **options)


@SCHEDULES
def test_bytes_beside_each_other_are_no_race(schedule):
    body = """
    mov.u32 %r10, tile;
    mad.lo.u32 %r11, %tid, 4, %r10;
    st.shared.u32 [%r11], 0;
    bar.sync 0;
    add.u32 %r11, %r10, %tid;
    st.shared.u8 [%r11], 1;
    bar.sync 1;
    mad.lo.u32 %r12, %tid, 4, %r10;
    setp.lt.u32 %p1, %tid, 16;
    @%p1 ld.shared.u32 %r1, [%r12];
"""
    run(body, module=MODULE, block=64, races=True, schedule=schedule)
    fault(DataRaceError, body.replace("bar.sync 1;", ""), module=MODULE, races=True, schedule=schedule)


@SCHEDULES
def test_atomics_do_not_race(schedule):
    body = "setp.eq.u32 %p1, %tid, 0; @%p1 st.shared.u32 [tile], 0; bar.sync 0;"
    body += "atom.shared.add.u32 %r1, [tile], 1; red.global.add.u32 [%a], 1;"
    total = np.zeros(1, np.uint32)
    run(body, {"a": total}, MODULE, grid=3, block=96, races=True, schedule=schedule)
    assert total[0] == 3 * 96
    reading = body + "ld.shared.u32 %r2, [tile];"
    fault(DataRaceError, reading, {"a": total}, MODULE, block=96, races=True, schedule=schedule)
    run(reading.replace("ld.shared", "bar.sync 0; ld.shared"), {"a": total}, MODULE, block=96, races=True,
        schedule=schedule)  # fmt: skip


@SCHEDULES
def test_blocks_of_a_grid(schedule):
    own = "mad.wide.u32 %a, %me, 4, %a; st.global.u32 [%a], %me; ld.global.u32 %r1, [%a];"
    array = np.zeros(128, np.uint32)
    options = {"grid": 4, "races": True, "schedule": schedule}
    run(own, {"a": array}, **options)
    run("ld.global.u32 %r1, [%a];", {"a": array}, **options)
    error = fault(DataRaceError, "\n st.global.u32 [%a], %ctaid.x;", {"a": array}, **options)
    assert "block" in str(error)
    shifted = "mad.wide.u32 %a, %me, 4, %a; st.global.u32 [%a], 1;\n xor.b32 %r1, %me, 32;"
    shifted += (
        "sub.u32 %r1, %r1, %me; mul.wide.s32 %rd1, %r1, 4; add.u64 %a, %a, %rd1;\n ld.global.u32 %r2, [%a];"
    )
    fault(DataRaceError, shifted, {"a": array}, **options)


@SCHEDULES
def test_threads_of_a_block_in_global_memory(schedule):
    body = "mad.wide.u32 %b, %tid, 4, %a; st.global.u32 [%b], %tid; {} xor.b32 %r1, %tid, 32;"
    body += "mad.wide.u32 %b, %r1, 4, %a;\n ld.global.u32 %r2, [%b];"
    body = ".reg .b64 %b;" + body
    options = {"block": 64, "races": True, "schedule": schedule}
    run(body.format("bar.sync 0;"), {"a": np.zeros(64, np.uint32)}, **options)
    fault(DataRaceError, body.format(""), {"a": np.zeros(64, np.uint32)}, **options)


@SCHEDULES
def test_writes_after_reads_in_global_memory(schedule):
    body = "mad.wide.u32 %b, %tid, 4, %a; xor.b32 %r1, %tid, 32; mad.wide.u32 %rd1, %r1, 4, %a;"
    body = ".reg .b64 %b;" + body + "ld.global.u32 %r2, [%rd1]; {}\n st.global.u32 [%b], %r2;"
    array = np.arange(64, dtype=np.uint32)
    options = {"block": 64, "races": True, "schedule": schedule}
    run(body.format("bar.sync 0;"), {"a": array}, **options)
    assert array.tolist() == [*range(32, 64), *range(32)]
    fault(DataRaceError, body.format(""), {"a": array}, **options)


@SCHEDULES
def test_a_block_that_writes_what_all_have_read(schedule):
    for writer in range(4):
        body = f"ld.global.u32 %r1, [%a]; setp.eq.u32 %p1, %me, {32 * writer};\n @%p1 st.global.u32 [%a], 5;"
        fault(DataRaceError, body, {"a": np.zeros(1, np.uint32)}, grid=4, races=True, schedule=schedule)


def test_without_races_nothing_is_looked_for():
    run(PLACE + "st.shared.u32 [tile], %tid;", module=MODULE)


@SCHEDULES
def test_matrices_take_part(schedule):
    body = (
        PLACE
        + """
    mad.lo.u32 %r11, %tid, 16, %r10;
    st.shared.v4.u32 [%r11], {%r1, %r1, %r1, %r1};
    {}
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r11];
"""
    )
    options = {"module": MODULE, "races": True, "schedule": schedule}
    run(body.replace("{}", "bar.warp.sync -1;"), **options)
    fault(DataRaceError, body.replace("{}", ""), instruction="ldmatrix", **options)
