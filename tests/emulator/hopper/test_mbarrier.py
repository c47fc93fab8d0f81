"""mbarrier and cp.async.mbarrier.arrive (PTX ISA, section 9.7.13.15)."""

import numpy as np
import pytest
from ptx_text import fault, kernel, run

from flashactor.emulator.translate.translator import translate
from flashactor.errors import (
    BarrierError,
    DataRaceError,
    DeadlockError,
    MemoryAccessError,
    UninitializedReadError,
    UnsupportedPtxError,
)

BAR = """
    .shared .align 8 .b64 bar;
    .shared .align 8 .b64 other;
    .shared .align 16 .b8 data[1024];
    .reg .b64 %s<4>, %at;
    .reg .b32 %x, %to;
    .reg .pred %first, %second, %done;
    setp.eq.u32 %first, %tid, 0;
    setp.ge.u32 %second, %tid, 32;
"""
ARRIVE = "mbarrier.arrive.shared::cta.b64"
EXPECT = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64"
COMPLETE = "mbarrier.complete_tx.relaxed.cta.shared::cta.b64"


def parity(value, kind="test_wait"):
    """Whether the phase of a parity is complete."""
    return f"mbarrier.{kind}.parity.shared::cta.b64 %done, [bar], {value};"


def init(count, bar="bar"):
    return f"mbarrier.init.shared::cta.b64 [{bar}], {count};"


def observe(*statements):
    """What each wait in a program of one thread finds."""
    text, count = BAR, 0
    for statement in statements:
        text += f"    {statement}\n"
        if "wait" in statement:
            text += f"    selp.u32 %x, 1, 0, %done;\n    st.global.u32 [%out+{4 * count}], %x;\n"
            count += 1
    out = np.full(count, 9, np.uint32)
    run(text, {"out": out}, block=1, races=True)
    return out.tolist()


def state(register):
    return f"mbarrier.test_wait.shared::cta.b64 %done, [bar], {register};"


def test_phases_by_parity():
    got = observe(
        init(2),
        parity(0),
        parity(1),  # phase 0 is not complete; the one before it counts as complete
        f"{ARRIVE} _, [bar];",
        parity(0),
        parity(1),
        f"{ARRIVE} _, [bar];",
        parity(0),
        parity(1),
        f"{ARRIVE} _, [bar], 2;",
        parity(0),
        parity(1),
        f"{ARRIVE} %s0, [bar];",
        f"{ARRIVE} %s1, [bar];",
        parity(0),
        parity(1),
    )
    assert got == [0, 1, 0, 1, 1, 0, 0, 1, 1, 0]


def test_phases_by_state():
    got = observe(
        init(2),
        f"{ARRIVE} %s0, [bar];",
        state("%s0"),
        f"{ARRIVE} %s1, [bar];",
        state("%s0"),
        state("%s1"),
        f"{ARRIVE} %s2, [bar], 1;",
        state("%s1"),
        state("%s2"),
        f"{ARRIVE} %s3, [bar], 1;",
        state("%s2"),
        state("%s3"),
    )
    assert got == [0, 1, 1, 1, 0, 1, 1]


def test_transactions():
    """A phase completes when no arrival and no byte is missing, in whatever order they come."""
    expecting = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar],"
    assert observe(
        init(1),
        f"{expecting} 32;",
        parity(0),
        f"{COMPLETE} [bar], 16;",
        parity(0),
        f"{COMPLETE} [bar], 16;",
        parity(0),
        f"{EXPECT} [bar], 8;",
        f"{COMPLETE} [bar], 8;",
        parity(1),
        f"{ARRIVE} _, [bar];",
        parity(1),
    ) == [0, 0, 1, 0, 1]
    assert observe(
        init(1), f"{COMPLETE} [bar], 64;", parity(0), f"{expecting} 64;", parity(0), parity(1)
    ) == [0, 1, 0]


def test_dropped_arrivals_are_not_expected_again():
    drop = "mbarrier.arrive_drop.shared::cta.b64"
    assert observe(
        init(3),
        f"{ARRIVE} _, [bar];",
        f"{drop} _, [bar];",
        parity(0),
        f"{drop} %s0, [bar];",
        parity(0),
        f"{ARRIVE} _, [bar];",
        parity(1),
        parity(0),
    ) == [0, 1, 1, 0]
    assert observe(
        init(4),
        f"{drop} _, [bar], 3;",
        parity(0),
        f"{ARRIVE} _, [bar];",
        parity(0),
        f"{ARRIVE} _, [bar];",
        parity(1),
    ) == [0, 1, 1]


def test_a_barrier_can_be_made_anew():
    assert observe(
        init(1),
        f"{ARRIVE} _, [bar];",
        parity(0),
        "mbarrier.inval.shared::cta.b64 [bar];",
        init(2),
        parity(0),
        f"{ARRIVE} _, [bar];",
        parity(0),
        f"{ARRIVE} _, [bar];",
        parity(0),
    ) == [1, 0, 0, 1]


@pytest.mark.parametrize("races", [False, True])
def test_a_barrier_can_be_made_anew_any_number_of_times(races):
    again = (init(1), "mbarrier.inval.shared::cta.b64 [bar];") * 70
    run(BAR + "\n".join(again), block=1, races=races)


def test_barriers_in_generic_and_computed_addresses():
    assert observe(
        "mov.u32 %to, bar;",
        "mbarrier.init.b64 [%to], 1;",
        f"{ARRIVE} _, [%to];",
        parity(0),
        "cvta.shared.u64 %at, bar;",
        "mbarrier.arrive.b64 _, [%at];",
        parity(1),
        "add.u32 %to, %to, 8;",
        init(1, "%to"),
        f"{ARRIVE} _, [%to+-8];",
        parity(0),
    ) == [1, 1, 1]


HANDOVER = """
    @%first {init}
    shl.b32 %x, %tid, 2;
    mov.u32 %to, data;
    add.u32 %to, %to, %x;
    st.shared.u32 [%to], 0;
    bar.sync 0;
    @%second bra consumer;
    {again_arrive}
    shl.b32 %x, %tid, 2;
    mov.u32 %to, data;
    add.u32 %to, %to, %x;
    st.shared.u32 [%to], %tid;
    {arrive}
    bra end;
consumer:
    {wait}
    @!%done bra consumer;
    shl.b32 %x, %tid, 2;
    mov.u32 %to, data;
    add.u32 %to, %to, %x;
    ld.shared.u32 %x, [%to+-128];
    mul.wide.u32 %at, %tid, 4;
    add.u64 %at, %at, %out;
    st.global.u32 [%at+-128], %x;
end:
"""


def handover(**changes):
    parts = {
        "init": init(32),
        "arrive": f"{ARRIVE} _, [bar];",
        "wait": parity(0, "try_wait"),
        "again_arrive": "",
    }
    return BAR + HANDOVER.format(**(parts | changes))


@pytest.mark.parametrize("kind", ["try_wait", "test_wait"])
def test_data_is_handed_over(kind):
    out = np.zeros(32, np.uint32)
    run(handover(wait=parity(0, kind)), {"out": out}, block=64, races=True, schedule="all")
    np.testing.assert_array_equal(out, np.arange(32))


@pytest.mark.parametrize(
    "changes",
    [
        {"wait": "setp.eq.u32 %done, %tid, %tid;"},  # no wait
        {"wait": parity(1, "try_wait")},  # a wait for the phase before
        {
            "arrive": "mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [bar];"
        },  # an arrival that publishes nothing
        {
            "init": init(64),
            "again_arrive": f"{ARRIVE} _, [bar];",
            "arrive": f"bar.warp.sync -1; {ARRIVE} _, [other];",
        },
        {"init": init(32), "again_arrive": f"{ARRIVE} _, [bar];", "arrive": ""},  # arrives before it writes
    ],
)
def test_data_without_order_is_a_race(changes):
    body = handover(**changes)
    if "[other]" in body:
        body = body.replace("bar.sync 0;", f"@%first {init(32, 'other')}\n bar.sync 0;").replace(
            init(64), init(32)
        )
    for schedule in ("min", "max"):
        with pytest.raises(DataRaceError):
            run(body, {"out": np.zeros(32, np.uint32)}, block=64, races=True, schedule=schedule)


def test_lanes_whose_guard_is_false_do_not_wait():
    """Lanes 16 to 31 of the second warp never look at the barrier, which never completes for them."""
    text = (
        BAR
        + f"""
    .reg .pred %waits;
    @%first {init(1)}
    bar.sync 0;
    setp.lt.u32 %waits, %tid, 16;
    mov.u32 %x, 0;
    @%first {ARRIVE} _, [bar];
    setp.ne.u32 %done, %x, 0;
    @%waits {parity(0, "try_wait")}
    selp.u32 %x, 1, 0, %done;
    mul.wide.u32 %at, %tid, 4;
    add.u64 %at, %at, %out;
    st.global.u32 [%at], %x;
"""
    )
    out = np.full(64, 9, np.uint32)
    run(text, {"out": out}, block=64, races=True, schedule="all")
    np.testing.assert_array_equal(out, np.arange(64) < 16)


def test_phases_pass_data_back_and_forth():
    """Two warps increment one word in turns, four times each."""
    text = (
        BAR
        + f"""
    .reg .pred %more;
    .reg .b32 %turn, %phase;
    @%first {init(32)}
    @%first {init(32, "other")}
    @%first st.shared.u32 [data], 0;
    bar.sync 0;
    mov.u32 %turn, 0;
    setp.eq.u32 %first, %tid, 0;
    @%second setp.eq.u32 %first, %tid, 32;
again:
    and.b32 %phase, %turn, 1;
    @%second bra mine;
    xor.b32 %phase, %phase, 1;
wait_other:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [other], %phase;
    @!%done bra wait_other;
    bra work;
mine:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [bar], %phase;
    @!%done bra mine;
work:
    @%first ld.shared.u32 %x, [data];
    @%first add.u32 %x, %x, 1;
    @%first st.shared.u32 [data], %x;
    @%second {ARRIVE} _, [other];
    @!%second {ARRIVE} _, [bar];
    add.u32 %turn, %turn, 1;
    setp.lt.u32 %more, %turn, 4;
    @%more bra again;
    bar.sync 0;
    setp.eq.u32 %first, %tid, 0;
    @%first ld.shared.u32 %x, [data];
    @%first st.global.u32 [%out], %x;
"""
    )
    out = np.zeros(1, np.uint32)
    run(text, {"out": out}, block=64, races=True, schedule="all")
    assert out[0] == 8


@pytest.mark.parametrize(
    ("error", "statements", "instruction"),
    [
        (BarrierError, [f"{ARRIVE} _, [bar];"], "mbarrier.arrive"),
        (BarrierError, [parity(0)], "mbarrier.test_wait"),
        (BarrierError, [parity(0, "try_wait")], "mbarrier.try_wait"),
        (BarrierError, [f"{EXPECT} [bar], 16;"], "mbarrier.expect_tx"),
        (BarrierError, ["mbarrier.inval.shared::cta.b64 [bar];"], "mbarrier.inval"),
        (BarrierError, [init(1), f"{EXPECT} [bar], 1048576;"], "mbarrier.expect_tx"),
        (BarrierError, [init(0)], "mbarrier.init"),
        (BarrierError, [init(1 << 20)], "mbarrier.init"),
        (BarrierError, [init(1), f"{ARRIVE} _, [bar], 2;"], "mbarrier.arrive"),
        (
            BarrierError,
            [init(1), "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 16;", f"{ARRIVE} _, [bar];"],
            "mbarrier.arrive.shared",
        ),
        (
            BarrierError,
            [init(1), "mbarrier.inval.shared::cta.b64 [bar];", f"{ARRIVE} _, [bar];"],
            "mbarrier.arrive",
        ),
        (MemoryAccessError, [init(1, "data+4")], "mbarrier.init"),
        (MemoryAccessError, [init(1, "data+4096")], "mbarrier.init"),
        (UninitializedReadError, [init(1), "ld.shared.u64 %s0, [bar];"], "ld.shared"),
        (DeadlockError, [init(2), f"{ARRIVE} _, [bar];", parity(0, "try_wait")], "mbarrier.try_wait"),
    ],
)
def test_misuse(error, statements, instruction):
    found = fault(error, BAR + "\n".join(statements), block=1, races=True)
    assert instruction in found.at.instruction


def test_a_deadlock_names_the_barriers():
    found = fault(DeadlockError, BAR + init(3) + f"{ARRIVE} _, [bar];" + parity(0, "try_wait"), block=1)
    assert "2 arrivals and 0 bytes missing" in str(found)


def test_more_arrivals_than_lanes_expected():
    fault(BarrierError, BAR + f"@%first {init(31)} bar.sync 0; {ARRIVE} _, [bar];", races=True)


def test_use_without_a_barrier_after_the_init_is_a_race():
    body = BAR + f"@%first {init(64)} {ARRIVE} _, [bar];"
    fault(DataRaceError, body, instruction=ARRIVE, block=64, races=True)
    run(BAR + f"@%first {init(64)} bar.sync 0; {ARRIVE} _, [bar];", block=64, races=True, schedule="all")
    # Invalidating it while others may use it is one too.
    body = BAR + f"@%first {init(64)} bar.sync 0; {ARRIVE} _, [bar]; @%first mbarrier.inval.shared.b64 [bar];"
    fault(DataRaceError, body, instruction="mbarrier.inval", block=64, races=True)


@pytest.mark.parametrize(
    "statement",
    [
        "mbarrier.arrive.noComplete.shared::cta.b64 %s0, [bar], 1;",
        "mbarrier.pending_count.b64 %x, %s0;",
        "mbarrier.arrive.shared::cta.b64.odd _, [bar];",
    ],
)
def test_what_is_not_known_is_refused(statement):
    with pytest.raises(UnsupportedPtxError):
        translate(kernel(BAR + statement), "k")


COPY = """
    shl.b32 %x, %tid, 4;
    mov.u32 %to, data;
    add.u32 %to, %to, %x;
    mul.wide.u32 %at, %tid, 16;
    add.u64 %at, %at, %a;
    cp.async.cg.shared.global [%to], [%at], 16;
"""


def copies(count, *statements):
    """32 lanes copy 16 bytes each; the second warp reads all of it once the barrier says so."""
    text = BAR + f"@%first {init(count)}\n bar.sync 0;\n @%second bra consumer;\n" + COPY
    text += "\n".join(statements) + "\n    bra end;\n"
    text += f"""consumer:
    {parity(0, "try_wait")}
    @!%done bra consumer;
    shl.b32 %x, %tid, 4;
    mov.u32 %to, data;
    add.u32 %to, %to, %x;
    .reg .b32 %v<4>;
    ld.shared.v4.u32 {{%v0, %v1, %v2, %v3}}, [%to+-512];
    mul.wide.u32 %at, %tid, 16;
    add.u64 %at, %at, %out;
    st.global.v4.u32 [%at+-512], {{%v0, %v1, %v2, %v3}};
end:
"""
    a, out = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    run(text, {"a": a, "out": out}, block=64, races=True, schedule="all")
    np.testing.assert_array_equal(out, a)


def test_copies_arrive():
    copies(32, "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [bar];")
    # Without noinc the copies' arrivals are not in the count.
    copies(32, "cp.async.mbarrier.arrive.shared::cta.b64 [bar];", f"{ARRIVE} _, [bar];")


def test_copies_that_do_not_arrive():
    with pytest.raises(DeadlockError):
        copies(32, "cp.async.mbarrier.arrive.shared::cta.b64 [bar];")
    with pytest.raises((UninitializedReadError, DataRaceError)):
        copies(32, f"{ARRIVE} _, [bar];")
    with pytest.raises(BarrierError):
        copies(48, "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [bar];", f"{ARRIVE} _, [bar];")
