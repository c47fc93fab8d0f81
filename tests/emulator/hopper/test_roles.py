"""What kernels with specialised warps use: elect.sync, setmaxnreg, named barriers, fences, griddepcontrol."""

import numpy as np
import pytest
from ptx_text import fault, kernel, run
from wgmma_text import COMMIT, DECLARE, FENCE, WAIT, D, descriptor

from flashactor.emulator.translate.translator import translate
from flashactor.errors import (
    AsyncHazardError,
    BarrierError,
    DataRaceError,
    DeadlockError,
    DivergenceError,
    UnsupportedPtxError,
)

STORE = """
    .reg .b64 %wide, %place;
    mul.wide.u32 %wide, %tid, 4;
    add.u64 %place, %out, %wide;
"""


def test_one_lane_is_elected():
    """elect.sync (PTX ISA, section 9.7.13.14): one lane of the mask has the predicate, all get its number."""
    body = (
        STORE
        + """
    elect.sync %r0|%p0, 0xFFFFFFFF;
    selp.u32 %r1, 100, 0, %p0;
    add.u32 %r0, %r0, %r1;
    st.global.u32 [%place], %r0;
"""
    )
    out = np.full(64, 9, np.uint32)
    run(body, {"out": out}, block=64, races=True)
    assert (out % 100 == out[0] % 100).all()
    assert (out[:32] >= 100).sum() == (out[32:] >= 100).sum() == 1
    leader = int(np.argmax(out[:32]))
    assert out[leader] == 100 + leader
    # Without the leader's number, and among some lanes.
    body = (
        STORE
        + """
    setp.ge.u32 %p1, %tid, 24;
    mov.u32 %r1, 0;
    @!%p1 bra end;
    elect.sync _|%p0, 0xFF000000;
    selp.u32 %r1, 1, 0, %p0;
end:
    st.global.u32 [%place], %r1;
"""
    )
    out = np.full(32, 9, np.uint32)
    run(body, {"out": out}, races=True)
    assert out.sum() == out[24:].sum() == 1


def test_elect_needs_the_lanes_of_its_mask():
    fault(DivergenceError, "setp.lt.u32 %p1, %tid, 8; @%p1 elect.sync _|%p0, 0xFFFFFFFF;")


@pytest.mark.parametrize(
    "statement",
    [
        "setmaxnreg.dec.sync.aligned.u32 24;",
        "setmaxnreg.inc.sync.aligned.u32 256;",
        "griddepcontrol.wait;",
        "griddepcontrol.launch_dependents;",
        "fence.proxy.async;",
        "fence.proxy.async.global;",
        "fence.proxy.async.shared::cta;",
        "fence.proxy.alias;",
        "fence.mbarrier_init.release.cluster;",
        "fence.acq_rel.cta;",
        "fence.sc.gpu;",
        "membar.gl;",
        "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
        "fence.proxy.tensormap::generic.release.gpu;",
    ],
)
def test_what_orders_or_hints_changes_no_result(statement):
    out = np.zeros(128, np.uint32)
    run(
        STORE + statement + "st.global.u32 [%place], %tid;",
        {"out": out},
        block=128,
        races=True,
        schedule="all",
    )
    np.testing.assert_array_equal(out, np.arange(128))


def test_register_counts_are_checked():
    for count in (20, 30, 264):
        fault(BarrierError, f"setmaxnreg.dec.sync.aligned.u32 {count};", block=128)
    fault(DivergenceError, "setp.lt.u32 %p1, %tid, 8; @%p1 setmaxnreg.dec.sync.aligned.u32 24;", block=128)
    for statement in ("setmaxnreg.dec.aligned.u32 24;", "setmaxnreg.sync.aligned.u32 24;", "griddepcontrol;"):
        with pytest.raises(UnsupportedPtxError):
            translate(kernel(statement), "k")


ROLES = "setp.lt.u32 %p1, %tid, 128; @%p1 bra producer; {consumer} bra join; producer: {producer} join:"


def roles(producer, consumer):
    """A block whose first warpgroup does one thing, and the others another; each thread then stores."""
    instructions = {"dec": "setmaxnreg.dec.sync.aligned.u32", "inc": "setmaxnreg.inc.sync.aligned.u32"}
    parts = {
        name: "".join(f"{instructions[action]} {count};" for action, count in actions)
        for name, actions in (("producer", producer), ("consumer", consumer))
    }
    return STORE + ROLES.format(**parts) + "st.global.u32 [%place], %tid;"


@pytest.mark.parametrize(
    ("threads", "producer", "consumer"),
    [
        (384, [("dec", 24)], [("inc", 240)]),
        (512, [("dec", 32)], [("inc", 160)]),
        (384, [("dec", 168)], [("inc", 168)]),
        (256, [("dec", 24)], [("inc", 256)]),
    ],
)
def test_registers_pass_from_one_warpgroup_to_others(threads, producer, consumer):
    out = np.zeros(threads, np.uint32)
    run(roles(producer, consumer), {"out": out}, block=threads, schedule="all")
    np.testing.assert_array_equal(out, np.arange(threads))


@pytest.mark.parametrize(
    ("threads", "producer", "consumer", "error", "message"),
    [
        (384, [("dec", 32)], [("inc", 240)], DeadlockError, "168 registers a thread, 64 to be had"),
        (512, [("dec", 32)], [("inc", 168)], DeadlockError, "waits for registers"),
        (384, [], [("inc", 176)], DeadlockError, "168 registers a thread, 0 to be had"),
        (384, [("dec", 24)], [("dec", 240)], BarrierError, "a release from 168 to 240"),
        (384, [("inc", 24)], [("inc", 240)], BarrierError, "a claim of 24 by who has 168"),
    ],
)
def test_registers_that_nobody_has_are_not_given(threads, producer, consumer, error, message):
    out = np.zeros(threads, np.uint32)
    for schedule in ("min", "max", "random"):
        with pytest.raises(error, match=message):
            run(roles(producer, consumer), {"out": out}, block=threads, schedule=schedule)


def test_a_warpgroup_changes_its_registers_together():
    body = "setp.lt.u32 %p1, %tid, 32; @!%p1 bra join; setmaxnreg.dec.sync.aligned.u32 24; join:"
    fault(DeadlockError, body, block=128)


HANDOVER = (
    STORE
    + """
    .shared .align 16 .b8 data[1024];
    setp.ge.u32 %p1, %tid, 128;
    shl.b32 %r0, %tid, 2;
    mov.u32 %r1, data;
    add.u32 %r1, %r1, %r0;
    @%p1 bra consumer;
    st.shared.u32 [%r1], %tid;
    {produce}
    bra end;
consumer:
    {consume}
    ld.shared.u32 %r2, [%r1+-512];
    st.global.u32 [%place+-512], %r2;
end:
"""
)


@pytest.mark.parametrize(
    ("produce", "consume"),
    [
        ("bar.arrive 3, 256;", "bar.sync 3, 256;"),
        ("barrier.cta.arrive.aligned 3, 256;", "barrier.cta.sync.aligned 3, 256;"),
        ("bar.sync 3, 256;", "bar.sync 3, 256;"),
        ("bar.arrive 1, 256; bar.arrive 2, 256;", "bar.sync 2, 256; bar.sync 1, 256;"),
    ],
)
def test_named_barriers_join_two_warpgroups(produce, consume):
    out = np.zeros(128, np.uint32)
    body = HANDOVER.format(produce=produce, consume=consume)
    run(body, {"out": out}, block=256, races=True, schedule="all")
    np.testing.assert_array_equal(out, np.arange(128))


@pytest.mark.parametrize(
    ("produce", "consume", "error"),
    [
        ("", "bar.sync 3, 128;", DataRaceError),
        ("bar.arrive 3, 256;", "", DataRaceError),
        ("bar.sync 3, 128;", "bar.sync 4, 128;", DataRaceError),
        ("bar.arrive 3, 128;", "bar.sync 3, 256;", (BarrierError, DeadlockError)),
        ("bar.arrive 3, 256;", "bar.sync 4, 256;", DeadlockError),
        ("bar.arrive 3, 288;", "bar.sync 3, 288;", DeadlockError),
        ("bar.arrive 3, 200;", "bar.sync 3, 200;", BarrierError),
        ("bar.arrive 16, 256;", "bar.sync 16, 256;", BarrierError),
    ],
)
def test_faults_of_named_barriers(produce, consume, error):
    # Data of before, so that reading too early is a race and not a read of nothing.
    body = HANDOVER.replace(
        "@%p1 bra consumer;", "@!%p1 st.shared.u32 [%r1], 0; bar.sync 0; @%p1 bra consumer;"
    )
    for schedule in ("min", "max"):
        with pytest.raises(error):
            run(
                body.format(produce=produce, consume=consume),
                {"out": np.zeros(128, np.uint32)},
                block=256,
                races=True,
                schedule=schedule,
            )


def test_wgmma_reads_what_a_fence_has_passed():
    """A product of what threads stored: the fence may be the writer's, or the reader's after the barrier."""
    fence, barrier = "fence.proxy.async.shared::cta;", "bar.sync 0;"
    store = (
        DECLARE
        + f"""
    .shared .align 1024 .b8 data[4096];
    setp.ne.u32 %on, 1, 0;
    mov.b64 %right, {descriptor(0, 128, 256, 0):#x};
    mul.lo.u32 %r0, %tid, 16;
    mov.u32 %r1, data;
    add.u32 %r1, %r1, %r0;
    st.shared.v4.u32 [%r1], {{%tid, %tid, %tid, %tid}};
"""
    )
    product = f"{FENCE} {D} {COMMIT} {WAIT}"
    later = "st.shared.u32 [%r1], 5;"

    def check(*statements):
        run(store + "\n".join(statements), block=128, races=True)

    check(fence, barrier, product)
    check(barrier, fence, product)
    check(fence, barrier, product, barrier, later)
    with pytest.raises(AsyncHazardError):
        check(barrier, product)
    with pytest.raises(DataRaceError):
        check(fence, product)
    with pytest.raises(DataRaceError):
        check(fence, barrier, product, later)
