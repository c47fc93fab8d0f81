"""What orders blocks of a grid, for the race check: fences, then atomics or ordered stores and loads."""

import numpy as np
import pytest
from ptx_text import run

from flashactor.errors import DataRaceError

# Block 0 writes data and raises a flag; block 1 waits for the flag and reads the data.
HAND_OVER = """
    setp.ne.u32 %p1, %tid, 0;
    @%p1 bra DONE;
    mov.u32 %r1, %ctaid.x;
    setp.ne.u32 %p2, %r1, 0;
    @%p2 bra READER;
    st.global.u32 [%data], 42;
    {release}
    bra DONE;
READER:
    {acquire}
    setp.eq.u32 %p3, %r2, 0;
    @%p3 bra READER;
    ld.global.u32 %r3, [%data];
    st.global.u32 [%out], %r3;
DONE:
"""
FENCE = "fence.acq_rel.gpu;"
RAISE = "atom.global.exch.b32 %r2, [%flag], 1;"
ASK = "atom.global.add.u32 %r2, [%flag], 0;"


def hand_over(release, acquire, schedule):
    data, flag, out = (np.zeros(1, np.uint32) for _ in range(3))
    arrays = {"data": data, "flag": flag, "out": out}
    run(HAND_OVER.format(release=release, acquire=acquire), arrays, grid=2, races=True, schedule=schedule)
    return out[0]


@pytest.mark.parametrize("schedule", ["min", "max", "random"])
@pytest.mark.parametrize(
    ("release", "acquire"),
    [
        (FENCE + RAISE, ASK + FENCE),
        ("membar.gl;" + RAISE, ASK),
        ("st.release.gpu.global.u32 [%flag], 1;", "ld.acquire.gpu.global.u32 %r2, [%flag];"),
        (FENCE + "st.volatile.global.u32 [%flag], 1;", "ld.volatile.global.u32 %r2, [%flag];"),
        ("atom.release.gpu.global.exch.b32 %r2, [%flag], 1;", "ld.relaxed.gpu.global.u32 %r2, [%flag];"),
    ],
)
def test_data_is_handed_over(release, acquire, schedule):
    assert hand_over(release, acquire, schedule) == 42


@pytest.mark.parametrize("schedule", ["min", "max", "random"])
@pytest.mark.parametrize(
    ("release", "acquire"),
    [
        (RAISE, ASK),  # no fence before the flag
        ("membar.cta;" + RAISE, ASK),
        (RAISE + FENCE, ASK),
        (FENCE + RAISE + "st.global.u32 [%data], 43;", ASK),  # what comes after the fence is not covered
        (FENCE + RAISE, "mov.u32 %r2, 1;"),  # nobody waits for the flag
    ],
)
def test_data_without_order_is_a_race(release, acquire, schedule):
    with pytest.raises(DataRaceError, match="global memory"):
        hand_over(release, acquire, schedule)


SUM = """
    setp.ne.u32 %p1, %tid, 0;
    @%p1 bra DONE;
    mul.wide.u32 %rd1, %me, 4;
    shr.u64 %rd1, %rd1, 5;
    add.u64 %rd1, %rd1, %partial;
    add.u32 %r1, %me, 1;
    st.global.u32 [%rd1], %r1;
    {fence}
    atom.global.add.u32 %r2, [%ticket], 1;
    setp.ne.u32 %p2, %r2, 7;
    @%p2 bra DONE;
    mov.u32 %r3, 0;
    mov.u32 %r4, 0;
NEXT:
    ld.global.u32 %r5, [%partial];
    add.u32 %r3, %r3, %r5;
    add.u64 %partial, %partial, 4;
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p3, %r4, 8;
    @%p3 bra NEXT;
    st.global.u32 [%out], %r3;
DONE:
"""


@pytest.mark.parametrize("schedule", ["min", "max", "random"])
def test_the_last_block_adds_up_what_all_have_written(schedule):
    def arrays():
        return {
            "partial": np.zeros(8, np.uint32),
            "ticket": np.zeros(1, np.uint32),
            "out": np.zeros(1, np.uint32),
        }

    given = arrays()
    run(SUM.format(fence=FENCE), given, grid=8, races=True, schedule=schedule)
    assert given["out"][0] == sum(32 * block + 1 for block in range(8))
    with pytest.raises(DataRaceError):
        run(SUM.format(fence=""), arrays(), grid=8, races=True, schedule=schedule)
