"""Instructions of a warp: shuffles, votes, reductions, election; and lanes that are missing."""

import random

import numpy as np
import pytest
from ptx_text import compute, fault, run

from flashactor.errors import DivergenceError, UnsupportedPtxError

RNG = random.Random(9)
LANES = np.arange(64, dtype=np.uint32)
VALUES = np.array([RNG.getrandbits(32) for _ in range(64)], np.uint32)


def shuffled(mode, values, b, c):
    """The ISA's pseudocode, for a warp."""
    result, valid = [], []
    for lane in range(32):
        bval, cval, segment = b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31
        most = lane & segment | cval & ~segment
        least = lane & segment
        if mode == "up":
            source = lane - bval
            inside = source >= most
        elif mode == "down":
            source = lane + bval
            inside = source <= most
        elif mode == "bfly":
            source = lane ^ bval
            inside = source <= most
        else:
            source = least | bval & ~segment
            inside = source <= most
        result.append(values[source if inside else lane])
        valid.append(inside)
    return result, valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8, 4, 2])
def test_shuffles(mode, width):
    """As __shfl_*_sync pass them: segments of ``width`` lanes."""
    c = (32 - width) << 8 | (0 if mode == "up" else 31)
    for b in (0, 1, 3, width - 1, width, 31, 33):
        got, valid = compute(f"shfl.sync.{mode}.b32 %y0|%y1, %x0, {b}, {c}, -1;", "u32 pred", VALUES)
        for warp in (0, 32):
            values, inside = shuffled(mode, VALUES[warp : warp + 32].tolist(), [b] * 32, [c] * 32)
            assert got[warp : warp + 32].tolist() == values
            assert valid[warp : warp + 32].tolist() == inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles_by_registers(mode):
    b = np.array([RNG.getrandbits(6) for _ in range(64)], np.uint32)
    c = np.array([RNG.choice([0, 31, 7]) | RNG.choice([0, 16, 24, 28]) << 8 for _ in range(64)], np.uint32)
    if mode in ("up", "down"):
        b %= 8
    got, valid = compute(
        f"shfl.sync.{mode}.b32 %y0|%y1, %x0, %x1, %x2, 0xFFFFFFFF;", "u32 pred", VALUES, b, c
    )
    for warp in (0, 32):
        here = slice(warp, warp + 32)
        values, inside = shuffled(mode, VALUES[here].tolist(), b[here].tolist(), c[here].tolist())
        assert got[here].tolist() == values
        assert valid[here].tolist() == inside


def test_shuffle_among_some_lanes():
    body = """
    mov.u32 %y0, %x0;
    and.b32 %r1, %x0, 1;
    setp.eq.u32 %p1, %r1, 1;
    @%p1 shfl.sync.bfly.b32 %y0, %x0, 2, 31, 0xAAAAAAAA;
"""
    assert compute(body, "u32", LANES).tolist() == [v ^ 2 if v & 1 else v for v in range(64)]


def test_a_sum_by_butterflies():
    body = "mov.u32 %y0, %x0;" + "".join(
        f"shfl.sync.bfly.b32 %r1, %y0, {step}, 31, -1; add.u32 %y0, %y0, %r1;" for step in (16, 8, 4, 2, 1)
    )
    got = compute(body, "u32", VALUES)
    assert got.tolist() == [sum(map(int, VALUES[w : w + 32])) % 2**32 for w in (0, 32) for _ in range(32)]


@pytest.mark.parametrize("chosen", [[], [0], list(range(64)), [3, 40], list(range(32)), [1, 31, 33]])
def test_votes(chosen):
    p = np.isin(LANES, chosen)
    any_, all_, uni, ballot, not_any = compute(
        "vote.sync.any.pred %y0, %x0, -1; vote.sync.all.pred %y1, %x0, -1; vote.sync.uni.pred %y2, %x0, -1;"
        "vote.sync.ballot.b32 %y3, %x0, -1; vote.sync.any.pred %y4, !%x0, -1;", "pred pred pred u32 pred",
             p)  # fmt: skip
    for warp in (0, 32):
        mine = p[warp : warp + 32]
        here = slice(warp, warp + 32)
        assert (any_[here] == mine.any()).all()
        assert (all_[here] == mine.all()).all()
        assert (uni[here] == (mine.all() or not mine.any())).all()
        assert (ballot[here] == sum(1 << int(i) for i in np.flatnonzero(mine))).all()
        assert (not_any[here] == (~mine).any()).all()


def test_groups_of_lanes_in_one_instruction():
    """Each lane names its own half of the warp; the halves do not see each other."""
    p = np.isin(LANES % 32, [1, 20, 21])
    mask = np.where(LANES % 32 < 16, 0xFFFF, 0xFFFF0000).astype(np.uint32)
    ballot, total, lane, leads, whole = compute(
        "vote.sync.ballot.b32 %y0, %x1, %x2; redux.sync.add.u32 %y1, %x0, %x2; elect.sync %y2|%y3, %x2;"
        "vote.sync.uni.pred %y4, %x1, %x2;", "u32 u32 u32 pred pred", LANES, p, mask)  # fmt: skip
    for start in range(0, 64, 16):
        here = slice(start, start + 16)
        assert (ballot[here] == (2 if start % 32 == 0 else 3 << 20)).all()
        assert (total[here] == sum(range(start, start + 16))).all()
        assert (lane[here] == start % 32).all()
        assert leads[here].tolist() == [True] + [False] * 15
        assert not whole[here].any()


REDUCE = {
    "add": sum, "min": min, "max": max,
    "and": lambda values: int(np.bitwise_and.reduce(values)),
    "or": lambda values: int(np.bitwise_or.reduce(values)),
    "xor": lambda values: int(np.bitwise_xor.reduce(values)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "type_"),
    [(o, t) for o in ("add", "min", "max") for t in ("u32", "s32")]
    + [(o, "b32") for o in ("and", "or", "xor")],
)
@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0F0F0F0F])
def test_redux(operation, type_, mask):
    body = f"mov.u32 %y0, 0; setp.ne.u32 %p1, %x1, 0; @%p1 redux.sync.{operation}.{type_} %y0, %x0, {mask};"
    taking = np.array([mask >> (lane % 32) & 1 for lane in range(64)], np.uint32)
    got = compute(body, "u32", VALUES, taking)
    typed = VALUES.view(np.int32) if type_ == "s32" else VALUES
    for warp in (0, 32):
        chosen = [int(typed[lane]) for lane in range(warp, warp + 32) if taking[lane]]
        wanted = REDUCE[operation](np.array(chosen, np.int64).tolist()) & 0xFFFFFFFF
        assert got[warp : warp + 32].tolist() == [wanted if t else 0 for t in taking[warp : warp + 32]]


def test_elect_and_activemask():
    body = """
    mov.u32 %y0, 99;
    mov.u32 %y2, 0;
    setp.gt.u32 %p2, %tid, 36;
    setp.eq.u32 %p3, %tid, 200;
    @%p2 bra SKIP;
    activemask.b32 %y2;
    bra JOIN;
SKIP:
    activemask.b32 %y2;
JOIN:
    elect.sync %y0|%p3, 0xFFFFFFFF;
    selp.u32 %y1, 1, 0, %p3;
"""
    leader, elected, mask = compute(body, "u32 u32 u32", LANES)
    assert (leader == 0).all()
    assert elected.tolist() == [int(lane % 32 == 0) for lane in range(64)]
    low = (1 << 5) - 1
    assert mask.tolist() == [0xFFFFFFFF] * 32 + [low] * 5 + [0xFFFFFFFF & ~low] * 27


def test_special_registers():
    body = "".join(
        f"mov.u32 %y{n}, %{name};"
        for n, name in enumerate(
            ["laneid", "warpid", "lanemask_lt", "lanemask_ge", "lanemask_eq", "nctaid.x", "ctaid.x"]
        )
    )
    lane, warp, below, least, own, grid, block = compute(body, " ".join(["u32"] * 7), LANES, block=32)
    number = LANES % 32
    assert np.array_equal(lane, number)
    assert (warp == 0).all()
    assert below.tolist() == [(1 << n) - 1 for n in number.tolist()]
    assert least.tolist() == [0xFFFFFFFF & ~((1 << n) - 1) for n in number.tolist()]
    assert own.tolist() == [1 << n for n in number.tolist()]
    assert (grid == 2).all()
    assert np.array_equal(block, LANES // 32)


def test_threads_in_three_dimensions():
    result = np.zeros((2 * 3 * 2, 4 * 2 * 3, 6), np.uint32)
    names = ["tid.x", "tid.y", "tid.z", "ctaid.x", "ctaid.y", "ctaid.z"]
    body = """
    mov.u32 %r1, %tid.y; mad.lo.u32 %r2, %r1, 4, %tid; mov.u32 %r1, %tid.z; mad.lo.u32 %r2, %r1, 8, %r2;
    mov.u32 %r3, %ctaid.x; mov.u32 %r1, %ctaid.y; mad.lo.u32 %r3, %r1, 2, %r3;
    mov.u32 %r1, %ctaid.z; mad.lo.u32 %r3, %r1, 6, %r3;
    mad.lo.u32 %r2, %r3, 24, %r2; mad.wide.u32 %a, %r2, 24, %a;
""" + "".join(f"mov.u32 %r1, %{name}; st.global.u32 [%a+{4 * n}], %r1;" for n, name in enumerate(names))
    run(body, {"a": result}, grid=(2, 3, 2), block=(4, 2, 3))
    for block in range(12):
        for thread in range(24):
            wanted = [thread % 4, thread // 4 % 2, thread // 8, block % 2, block // 2 % 3, block // 6]
            assert result[block, thread].tolist() == wanted


DIVERGED = "setp.lt.u32 %p1, %tid, {};\n @%p1 "


@pytest.mark.parametrize(


                            "instruction",
    ["shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", "vote.sync.any.pred %p2, %p3, -1;",
         "redux.sync.add.u32 %r1, %r2, -1;",
     "bar.warp.sync -1;", "elect.sync %r1|%p2, -1;", "bar.sync 0;",
          "vote.sync.ballot.b32 %r1, %p1, 0xFFFFF;"],
)  # fmt: skip
def test_lanes_that_are_named_must_come(instruction):
    error = fault(DivergenceError, DIVERGED.format(10) + instruction, instruction=instruction)
    assert "10, 11, 12" in str(error)
    assert error.at.thread == 0


def test_lanes_that_come_must_be_named():
    error = fault(DivergenceError, "\n vote.sync.any.pred %p2, %p3, 0xFFFF;", instruction="vote.sync")
    assert error.at.thread == 16
    body = "shl.b32 %r1, 1, %tid;\n bar.warp.sync %r1;"
    run(body)
    fault(DivergenceError,
              "setp.eq.u32 %p1, %tid, 3; selp.u32 %r1, 8, 0xFFFFFFF7, %p1; setp.eq.u32 %p2, %tid, 5;\n"
          "@%p2 mov.u32 %r1, -1;\n bar.warp.sync %r1;", instruction="bar.warp.sync")  # fmt: skip


def test_a_shuffle_from_a_lane_that_is_absent():
    body = DIVERGED.format(16) + "shfl.sync.bfly.b32 %r1, %r2, 16, 31, 0xFFFF;"
    fault(DivergenceError, body, instruction="shfl.sync")


def test_lanes_that_have_left_do_not_count():
    body = """
    setp.gt.u32 %p1, %tid, 19;
    @%p1 exit;
    vote.sync.any.pred %p2, %p1, -1;
    bar.warp.sync 0xFFFFFFFF;
    redux.sync.add.u32 %r1, %tid, -1;
    mad.wide.u32 %a, %tid, 4, %a;
    st.global.u32 [%a], %r1;
"""
    result = np.zeros(32, np.uint32)
    run(body, {"a": result})
    assert result.tolist() == [190] * 20 + [0] * 12


def test_a_warp_that_is_not_full():
    result = np.zeros(40, np.uint32)
    body = (
        "vote.sync.ballot.b32 %r1, 1, -1; mad.wide.u32 %a, %tid, 4, %a; st.global.u32 [%a], %r1; bar.sync 0;"
    )
    run(body, {"a": result}, block=40)
    assert result.tolist() == [0xFFFFFFFF] * 32 + [0xFF] * 8


@pytest.mark.parametrize(
    "instruction",
    ["match.any.sync.b32 %r1, %r2, -1;", "shfl.idx.b32 %r1, %r2, 0, 31;", "vote.any.pred %p1, %p2;",
     "redux.sync.mul.u32 %r1, %r2, -1;", "redux.sync.add.f32 %f1, %f2, -1;",
          "shfl.sync.rot.b32 %r1, %r2, 0, 31, -1;",
     "elect.sync %r1, -1;", "vote.sync.ballot.pred %p1, %p2, -1;"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, "\n" + instruction, instruction=instruction)
