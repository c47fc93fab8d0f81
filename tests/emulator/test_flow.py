"""Branches: the order of basic blocks, and where diverged lanes meet again."""

import random

import numpy as np
from ptx_text import compute, kernel, run

from flashactor.emulator.ptx.flow import flow_of
from flashactor.emulator.ptx.parse import parse

RNG = random.Random(5)
LANES = np.arange(128, dtype=np.uint32)


def flow(body):
    return flow_of(parse(kernel(body)).entries["k"])


def test_lanes_that_leave_early_do_not_miss_at_the_barrier():
    out = np.zeros(64, np.uint32)
    body = """
    setp.ge.u32 %p1, %tid, 40;
    @%p1 bra DONE;
    bar.sync 0;
    mad.wide.u32 %out, %tid, 4, %out;
    st.global.u32 [%out], 1;
DONE:
"""
    for schedule in ("min", "max", "random"):
        run(body, {"out": out}, block=64, schedule=schedule, races=True)
        assert out.tolist() == [1] * 40 + [0] * 24


def test_a_join_comes_after_what_leads_to_it():
    found = flow("@%p1 bra A; mov.u32 %r1, 1; bra B; A: mov.u32 %r1, 2; B: mov.u32 %r2, %r1;")
    assert found.loops == ()
    for position, block in enumerate(found.blocks):
        assert all(successor > position for successor in block.successors)


def test_text_behind_a_loop_that_is_inside_it():
    """A compiler may put a loop's cold part behind the kernel's end."""
    body = """
    mov.u32 %y0, 0;
    mov.u32 %r1, 0;
HEAD:
    setp.eq.u32 %p1, %r1, 3;
    @%p1 bra COLD;
BACK:
    add.u32 %r1, %r1, 1;
    add.u32 %y0, %y0, 1;
    setp.lt.u32 %p2, %r1, 8;
    @%p2 bra HEAD;
    bra END;
COLD:
    add.u32 %y0, %y0, 100;
    bra BACK;
END:
"""
    found = flow(body.replace("%y0", "%r9"))
    ((start, stop),) = found.loops
    for position, block in enumerate(found.blocks):
        backward = [successor for successor in block.successors if successor <= position]
        assert all(successor == start for successor in backward)
        assert (start <= position < stop) or not backward
    assert (compute(body, "u32", LANES) == 108).all()


def test_nested_loops_are_nested_ranges():
    body = """
OUTER:
    mov.u32 %r2, 0;
INNER:
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, 4;
    @%p1 bra INNER;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 4;
    @%p2 bra OUTER;
"""
    outer, inner = flow(body).loops
    assert outer[0] <= inner[0]
    assert inner[1] <= outer[1]


def test_unreachable_code_is_left_out():
    assert len(flow("bra END; mov.u32 %r1, 1; bra END; END:").blocks) == 2


def test_lanes_meet_again_behind_a_branch():
    """At the join all lanes run together: activemask sees every one of them."""
    body = """
    and.b32 %r1, %x0, 3;
    setp.eq.u32 %p1, %r1, 0;
    setp.eq.u32 %p2, %r1, 1;
    @%p1 bra ZERO;
    @%p2 bra ONE;
    mov.u32 %y1, 30;
    bra JOIN;
ZERO:
    mov.u32 %y1, 10;
    activemask.b32 %y2;
    bra JOIN;
ONE:
    mov.u32 %y1, 20;
JOIN:
    activemask.b32 %y0;
"""
    body = "mov.u32 %y2, 0;" + body
    for schedule in ("min", "max", "random"):
        mask, value, inside = compute(body, "u32 u32 u32", LANES, schedule=schedule)
        assert (mask == 0xFFFFFFFF).all()
        assert value.tolist() == [{0: 10, 1: 20}.get(lane % 4, 30) for lane in range(128)]
        assert inside.tolist() == [0x11111111 if lane % 4 == 0 else 0 for lane in range(128)]


def test_lanes_meet_again_behind_a_loop():
    body = """
    mov.u32 %y1, 0;
    setp.eq.u32 %p1, %x0, 0;
    @%p1 bra DONE;
    mov.u32 %r1, %x0;
LOOP:
    add.u32 %y1, %y1, %r1;
    sub.u32 %r1, %r1, 1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra LOOP;
DONE:
    activemask.b32 %y0;
"""
    counts = np.array([RNG.randrange(20) for _ in range(128)], np.uint32)
    mask, total = compute(body, "u32 u32", counts)
    assert (mask == 0xFFFFFFFF).all()
    assert total.tolist() == [n * (n + 1) // 2 for n in counts.tolist()]


def test_nested_loops_with_breaks_against_python():
    body = """
    mov.u32 %y0, 0;
    mov.u32 %r1, 0;
OUTER:
    setp.ge.u32 %p1, %r1, %x0;
    @%p1 bra END;
    mov.u32 %r2, 0;
INNER:
    add.u32 %r3, %r1, %r2;
    mad.lo.u32 %y0, %y0, 3, %r3;
    setp.gt.u32 %p2, %y0, 100000;
    @%p2 bra RESET;
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p3, %r2, %x1;
    @%p3 bra INNER;
NEXT:
    add.u32 %r1, %r1, 1;
    bra.uni OUTER;
RESET:
    and.b32 %y0, %y0, 255;
    setp.lt.u32 %p4, %y0, 10;
    @%p4 bra END;
    bra NEXT;
END:
    activemask.b32 %y1;
"""

    def python(n, m):
        y, i = 0, 0
        while i < n:
            j = 0
            while True:
                y = (3 * y + i + j) % 2**32
                if y > 100000:
                    y &= 255
                    if y < 10:
                        return y
                    break
                j += 1
                if j >= m:
                    break
            i += 1
        return y

    n, m = (np.array([RNG.randrange(12) for _ in range(256)], np.uint32) for _ in range(2))
    for schedule in ("min", "max", "random"):
        got, mask = compute(body, "u32 u32", n, m, schedule=schedule)
        assert got.tolist() == [python(*row) for row in zip(n.tolist(), m.tolist(), strict=True)]
        assert (mask == 0xFFFFFFFF).all()


def test_guarded_exit_and_ret():
    body = """
    mov.u32 %y0, 7;
    ld.param.u64 %rd1, [y0];
    mad.wide.u32 %rd1, %me, 4, %rd1;
    st.global.u32 [%rd1], 3;
    setp.lt.u32 %p1, %x0, 40;
    setp.gt.u32 %p2, %x0, 90;
    @%p1 exit;
    @%p2 ret;
"""
    got = compute(body, "u32", LANES)
    assert got.tolist() == [7 if 40 <= lane <= 90 else 3 for lane in range(128)]


def test_a_loop_that_jumps_into_its_middle():
    """Two entries to one cycle: compilers avoid it, the emulator runs it."""
    body = """
    mov.u32 %y0, 0;
    mov.u32 %r1, %x0;
    setp.gt.u32 %p1, %x0, 5;
    @%p1 bra MIDDLE;
TOP:
    add.u32 %y0, %y0, 1;
MIDDLE:
    add.u32 %y0, %y0, 10;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 9;
    @%p2 bra TOP;
"""

    def python(x):
        y, r, middle = 0, x, x > 5
        while True:
            if not middle:
                y += 1
            middle = False
            y += 10
            r += 1
            if r >= 9:
                return y

    x = LANES % 12
    assert compute(body, "u32", x).tolist() == [python(v) for v in x.tolist()]


def test_registers_survive_loops_that_do_not_mention_them():
    """Slots are shared by registers whose lifetimes do not overlap; a loop stretches lifetimes."""
    body = """
    mov.u32 %r1, %x0;
    mul.lo.u32 %r2, %x0, 7;
    mov.u32 %r3, 0;
    mov.u32 %y0, 0;
A:
    add.u32 %r4, %r3, %r2;
    add.u32 %r5, %r4, 1;
    mov.u32 %r6, 0;
B:
    mul.lo.u32 %r7, %r6, 3;
    add.u32 %y0, %y0, %r7;
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %p1, %r6, 3;
    @%p1 bra B;
    add.u32 %y0, %y0, %r5;
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p1, %r3, 4;
    @%p1 bra A;
    add.u32 %y0, %y0, %r1;
"""
    wanted = [sum(9 + i + 7 * x + 1 for i in range(4)) + x for x in LANES.tolist()]
    assert compute(body, "u32", LANES).tolist() == wanted


def test_a_register_that_an_iteration_leaves_to_the_next():
    body = """
    mov.u32 %y0, 0;
    mov.u32 %r1, 0;
LOOP:
    setp.eq.u32 %p1, %r1, 0;
    @%p1 mov.u32 %r2, %x0;
    add.u32 %r3, %r1, 5;
    add.u32 %y0, %y0, %r3;
    add.u32 %r4, %r2, %r3;
    add.u32 %y0, %y0, %r4;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, 3;
    @%p2 bra LOOP;
"""
    assert compute(body, "u32", LANES).tolist() == [2 * (5 + 6 + 7) + 3 * x for x in LANES.tolist()]
