"""Predicates: comparisons, selection, guarded instructions."""

import itertools
import math
import operator

import numpy as np
import pytest
from ptx_text import compute

RELATIONS = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge,
}  # fmt: skip
FLOATS = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 2.5, 2.0**-149, -(2.0**-149)]
COMBINE = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def grid(values, dtype):
    return [np.array(column, dtype) for column in zip(*itertools.product(values, values), strict=True)]


def integers(type_):
    bits = int(type_[1:])
    raw = [0, 1, 2, (1 << bits) - 1, (1 << bits) - 2, 1 << bits - 1, (1 << bits - 1) - 1]
    a, b = grid(raw, f"u{bits // 8}")
    view = f"{'i' if type_[0] == 's' else 'u'}{bits // 8}"
    return a, b, list(zip(a.view(view).tolist(), b.view(view).tolist(), strict=True))


def float_relation(name, a, b):
    """The ISA's tables: ordered comparisons are false beside a NaN, unordered ones true."""
    unordered = math.isnan(a) or math.isnan(b)
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    if name in RELATIONS:
        return not unordered and RELATIONS[name](a, b)
    return unordered or RELATIONS[name[:-1]](a, b)


FLOAT_NAMES = [*RELATIONS, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]


@pytest.mark.parametrize("type_", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_integer_comparisons(type_):
    a, b, rows = integers(type_)
    for name, relation in RELATIONS.items():
        got = compute(f"setp.{name}.{type_} %y0, %x0, %x1;", "pred", a, b)
        assert got.tolist() == [relation(x, y) for x, y in rows], name
    if type_[0] == "u":
        for name, same in {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.items():
            got = compute(f"setp.{name}.{type_} %y0, %x0, %x1;", "pred", a, b)
            assert got.tolist() == [RELATIONS[same](x, y) for x, y in rows], name
    for name in ("eq", "ne"):
        got = compute(f"setp.{name}.b{type_[1:]} %y0, %x0, %x1;", "pred", a, b)
        assert got.tolist() == [RELATIONS[name](x, y) for x, y in rows], name


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_float_comparisons(name):
    for type_, dtype in (("f32", np.float32), ("f64", np.float64)):
        a, b = grid(FLOATS, dtype)
        got = compute(f"setp.{name}.{type_} %y0, %x0, %x1;", "pred", a, b)
        assert got.tolist() == [
            float_relation(name, x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)
        ]
    a, b = grid(FLOATS[:8], np.float16)
    got = compute(f"setp.{name}.f16 %y0, %x0, %x1;", "pred", a.view(np.uint16), b.view(np.uint16))
    assert got.tolist() == [float_relation(name, x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]


def test_ftz_comparison():
    tiny = np.array([2.0**-149, -(2.0**-130)], np.float32)
    assert compute("setp.eq.ftz.f32 %y0, %x0, 0f00000000;", "pred", tiny).all()
    assert not compute("setp.eq.f32 %y0, %x0, 0f00000000;", "pred", tiny).any()


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("inverted", ["", "!"])
def test_two_results_and_a_third_predicate(combine, inverted):
    a = np.array([1, 1, 2, 2], np.uint32)
    b = np.array([2, 2, 1, 1], np.uint32)
    c = np.array([True, False, True, False])
    p, q = compute(f"setp.lt.{combine}.u32 %y0|%y1, %x0, %x1, {inverted}%x2;", "pred pred", a, b, c)
    for i in range(4):
        third = bool(c[i]) != bool(inverted)
        assert p[i] == COMBINE[combine](bool(a[i] < b[i]), third)
        assert q[i] == COMBINE[combine](not a[i] < b[i], third)
    p, q = compute("setp.lt.u32 %y0|%y1, %x0, %x1;", "pred pred", a, b)
    assert p.tolist() == (a < b).tolist()
    assert q.tolist() == (a >= b).tolist()


def test_third_predicate_may_be_the_result():
    a = np.arange(8, dtype=np.uint32)
    got = compute("setp.gt.u32 %y0, %x0, 2; setp.lt.and.u32 %y0, %x0, 6, %y0;", "pred", a)
    assert got.tolist() == [2 < v < 6 for v in range(8)]


def test_logic_of_predicates():
    a, b = (np.array(v) for v in zip(*itertools.product([False, True], repeat=2), strict=True))
    for name, function in COMBINE.items():
        assert compute(f"{name}.pred %y0, %x0, %x1;", "pred", a, b).tolist() == function(a, b).tolist()
    assert compute("not.pred %y0, %x0;", "pred", a).tolist() == (~a).tolist()
    assert compute("mov.pred %y0, %x0;", "pred", a).tolist() == a.tolist()
    assert compute("xor.pred %y0, %x0, !%x1;", "pred", a, b).tolist() == (a ^ ~b).tolist()


def test_selp():
    for dtype, type_ in ((np.uint16, "b16"), (np.uint32, "u32"), (np.uint64, "s64"), (np.float32, "f32")):
        a, b = np.arange(8).astype(dtype), np.arange(100, 108).astype(dtype)
        c = np.arange(8) % 3 == 0
        got = compute(f"selp.{type_} %y0, %x0, %x1, %x2;", type_, a, b, c)
        assert got.tolist() == np.where(c, a, b).tolist()
    assert compute("selp.b32 %y0, 7, -1, %x0;", "u32", c).tolist() == [7 if v else 2**32 - 1 for v in c]


def test_slct():
    a, b = np.full(6, 1, np.uint32), np.full(6, 2, np.uint32)
    c = np.array([-1.0, -0.0, 0.0, 5.0, np.nan, -(2.0**-149)], np.float32)
    assert compute("slct.b32.f32 %y0, %x0, %x1, %x2;", "u32", a, b, c).tolist() == [2, 1, 1, 1, 2, 2]
    assert compute("slct.ftz.b32.f32 %y0, %x0, %x1, %x2;", "u32", a, b, c).tolist() == [2, 1, 1, 1, 2, 1]
    d = np.array([0, 1, -1, 2**31 - 1, -(2**31), 5], np.int32).view(np.uint32)
    assert compute("slct.u32.s32 %y0, %x0, %x1, %x2;", "u32", a, b, d).tolist() == [1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_set_of_floats(name):
    a, b = grid(FLOATS, np.float32)
    wanted = [float_relation(name, x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    got = compute(f"set.{name}.u32.f32 %y0, %x0, %x1;", "u32", a, b)
    assert got.tolist() == [0xFFFFFFFF if w else 0 for w in wanted]
    got = compute(f"set.{name}.f32.f32 %y0, %x0, %x1;", "f32", a, b)
    assert got.tolist() == [1.0 if w else 0.0 for w in wanted]


def test_set_of_integers():
    a, b, rows = integers("s32")
    assert compute("set.lt.s32.s32 %y0, %x0, %x1;", "u32", a, b).tolist() == [
        0xFFFFFFFF if x < y else 0 for x, y in rows
    ]


def test_guarded_instructions_leave_the_other_lanes_alone():
    a = np.arange(64, dtype=np.uint32)
    odd = a % 2 == 1
    got = compute(
        "mov.u32 %y0, %x0; @%x1 add.u32 %y0, %y0, 100; @!%x1 mul.lo.u32 %y0, %y0, 3;", "u32", a, odd
    )
    assert got.tolist() == np.where(odd, a + 100, a * 3).tolist()
    got = compute("mov.u32 %y0, 5; @%x1 mov.u32 %y0, %x0;", "u32", a, np.zeros(64, bool))
    assert (got == 5).all()


def test_guarded_setp_of_its_own_guard():
    a = np.arange(32, dtype=np.uint32)
    got = compute("setp.lt.u32 %y0, %x0, 16; @%y0 setp.lt.u32 %y0, %x0, 8;", "pred", a)
    assert got.tolist() == [v < 8 for v in range(32)]
    p, q = compute("setp.lt.u32 %y0|%y1, %x0, 16; @%y0 setp.lt.u32 %y0|%y1, %x0, 8;", "pred pred", a)
    assert p.tolist() == [v < 8 for v in range(32)]
    assert q.tolist() == [v >= 8 for v in range(32)]
