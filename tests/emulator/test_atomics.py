"""Atomics: every operation and type, on colliding lanes, in global and shared memory."""

import math
import random

import ml_dtypes
import numpy as np
import pytest
from ptx_text import fault, run

from flashactor import emulator
from flashactor.errors import MemoryAccessError, UnsupportedPtxError

RNG = random.Random(7)
REGISTER = {16: "%h1", 32: "%r1", 64: "%rd1"}


def signed(value, type_):
    bits = int(type_[1:])
    return value - (1 << bits) if type_[0] == "s" and value >> bits - 1 else value


OPERATIONS = {
    "add": lambda old, new, t: old + new,
    "min": lambda old, new, t: min(old, new, key=lambda v: signed(v, t)),
    "max": lambda old, new, t: max(old, new, key=lambda v: signed(v, t)),
    "and": lambda old, new, t: old & new,
    "or": lambda old, new, t: old | new,
    "xor": lambda old, new, t: old ^ new,
    "exch": lambda old, new, t: new,
    "inc": lambda old, new, t: 0 if old >= new else old + 1,
    "dec": lambda old, new, t: new if old == 0 or old > new else old - 1,
}
CASES = [(o, t) for o in ("add", "min", "max") for t in ("u32", "s32", "u64", "s64")]
CASES += [(o, t) for o in ("and", "or", "xor", "exch") for t in ("b32", "b64")] + [
    ("inc", "u32"),
    ("dec", "u32"),
]


def collide(space, instruction, values, initial, where, returns=True):
    """Lanes apply an atomic to one of several places; (places afterwards, what each lane got)."""
    size = values.dtype.itemsize
    register = REGISTER[8 * size]
    olds = np.zeros_like(values)
    memory = np.array(initial, values.dtype)
    places = np.array(where, np.uint32)
    target = "%c" if space == "global" else "%rd2"
    load = f"""
    mad.wide.u32 %a, %tid, {size}, %a;
    ld.global.b{8 * size} {register}, [%a];
    mad.wide.u32 %b, %tid, 4, %b;
    ld.global.u32 %r9, [%b];
    mad.wide.u32 %d, %tid, {size}, %d;
    mad.wide.u32 %c, %r9, {size}, %c;
"""
    if space == "shared":
        load += f"""
    mov.u64 %rd2, tile;
    mad.wide.u32 %rd2, %r9, {size}, %rd2;
    ld.global.b{8 * size} {register.replace("1", "5")}, [%c];
    st.shared.b{8 * size} [%rd2], {register.replace("1", "5")};
    bar.warp.sync -1;
"""
    if returns:
        act = f"atom.{space}.{instruction} {register.replace('1', '4')}, [{target}], {register};"
        act += f"st.global.b{8 * size} [%d], {register.replace('1', '4')};"
    else:
        act = f"red.{space}.{instruction} [{target}], {register};"
    if space == "shared":
        act += f"bar.warp.sync -1; ld.shared.b{8 * size} {register.replace('1', '5')}, [%rd2];"
        act += f"st.global.b{8 * size} [%c], {register.replace('1', '5')};"
    run(
        load + act,
        {"a": values, "b": places, "c": memory, "d": olds},
        module=".shared .align 8 .b8 tile[64];",
        block=len(values),
    )
    return memory, olds


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(("operation", "type_"), CASES)
def test_integers(space, operation, type_):
    bits = int(type_[1:])
    kind = np.dtype(f"u{bits // 8}")
    values = [RNG.choice([RNG.getrandbits(bits), RNG.randrange(6), (1 << bits) - 1]) for _ in range(32)]
    where = [RNG.randrange(4) for _ in range(32)]
    initial = [0, 3, (1 << bits) - 2, 1 << bits - 1]
    memory, olds = collide(space, f"{operation}.{type_}", np.array(values, kind), initial, where)
    expected = list(initial)
    for lane in range(32):  # lanes take turns in their order
        assert olds[lane] == expected[where[lane]]
        new = OPERATIONS[operation](expected[where[lane]], values[lane], type_)
        expected[where[lane]] = new & (1 << bits) - 1
    assert memory.tolist() == expected
    if operation != "exch":
        reduced, _ = collide(
            space, f"{operation}.{type_}", np.array(values, kind), initial, where, returns=False
        )
        assert reduced.tolist() == expected


@pytest.mark.parametrize("space", ["global", "shared"])
def test_float_add(space):
    where = [lane % 3 for lane in range(32)]
    for type_, dtype in (("f32", np.float32), ("f64", np.float64)):
        values = np.array([RNG.uniform(-5, 5) for _ in range(32)], dtype)
        memory, olds = collide(space, f"add.{type_}", values.view(f"u{dtype().itemsize}"), [0, 0, 0], where)
        expected = [dtype(0)] * 3
        for lane in range(32):
            assert olds.view(dtype)[lane] == expected[where[lane]]
            expected[where[lane]] += values[lane]
        assert memory.view(dtype).tolist() == expected


@pytest.mark.parametrize(("type_", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_half_add(type_, dtype):
    values = np.array([RNG.uniform(-5, 5) for _ in range(32)]).astype(dtype)
    memory, _ = collide("global", f"add.noftz.{type_}", values.view(np.uint16), [0], [0] * 32)
    total = dtype(0)
    for value in values:
        total = dtype(total + value)
    assert memory.view(dtype)[0] == total
    memory, _ = collide("global", f"add.noftz.{type_}x2", values.view(np.uint32), [0], [0] * 16)
    assert memory.view(dtype).tolist() == [np.add.accumulate(values[half::2])[-1] for half in (0, 1)]


def test_f32_add_flushes_subnormals_in_global_memory():
    """The ISA: atom.add.f32 flushes in global memory, and does not in shared memory."""
    tiny = np.array([2.0**-140], np.float32).view(np.uint32)
    memory, _ = collide("global", "add.f32", tiny, [0], [0])
    assert memory[0] == 0
    memory, _ = collide("shared", "add.f32", tiny, [0], [0])
    assert memory[0] == tiny[0]


def test_cas():
    memory = np.array([5, 7], np.uint32)
    result = np.zeros(32, np.uint32)
    body = """
    and.b32 %r1, %tid, 1;
    mad.wide.u32 %a, %r1, 4, %a;
    add.u32 %r2, %tid, 100;
    atom.global.cas.b32 %r3, [%a], 5, %r2;
    mad.wide.u32 %b, %tid, 4, %b;
    st.global.u32 [%b], %r3;
"""
    run(body, {"a": memory, "b": result})
    assert memory.tolist() == [100, 7]
    assert result.tolist() == [5, 7] + [100, 7] * 15
    wide, half = np.array([9], np.uint64), np.array([3, 4], np.uint16)
    run("atom.global.cas.b64 %rd1, [%a], 9, 11;", {"a": wide}, block=1)
    run("mov.u16 %h1, 3; mov.u16 %h2, 8; atom.global.cas.b16 %h3, [%a], %h1, %h2;", {"a": half}, block=1)
    assert (wide[0], half.tolist()) == (11, [8, 4])


def test_a_lock_made_of_cas():
    """Lanes of a warp that spin for a lock: the one that has it goes on."""
    body = """
    mov.u32 %r5, 0;
AGAIN:
    atom.global.acquire.gpu.cas.b32 %r1, [%a], 0, 1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra NEXT;
    ld.volatile.global.u32 %r2, [%b];
    add.u32 %r2, %r2, 1;
    st.volatile.global.u32 [%b], %r2;
    atom.global.release.gpu.exch.b32 %r3, [%a], 0;
    mov.u32 %r5, 1;
NEXT:
    setp.eq.u32 %p2, %r5, 0;
    @%p2 bra AGAIN;
"""
    for schedule in emulator.SCHEDULES:
        lock, count = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
        run(body, {"a": lock, "b": count}, block=96, grid=2, schedule=schedule)
        assert count[0] == 192


def test_vectors():
    memory = np.zeros(4, np.float32)
    run("mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000;"
        "red.global.v4.f32.add [%a], {%f1, %f2, %f1, %f2};"
        "atom.global.v2.f32.add {%f3, %f4}, [%a], {%f1, %f1};", {"a": memory})  # fmt: skip
    assert memory.tolist() == [64, 96, 32, 64]


def test_scopes_orders_and_generic_addresses():
    memory = np.zeros(1, np.uint32)
    orders = ("relaxed.cta", "acquire.gpu", "release.sys", "acq_rel.cluster")
    for order in orders:
        run(f"atom.{order}.add.u32 %r1, [%a], 1; red.{order.replace('acquire', 'relaxed')}.add.u32 [%a], 1;"
            "atom.add.u32 _, [%a], 1;", {"a": memory})  # fmt: skip
    assert memory[0] == 32 * 3 * len(orders)


def test_minimum_of_floats_through_integers():
    values = np.array([RNG.uniform(0, 5) for _ in range(32)], np.float32)
    memory, _ = collide("global", "min.u32", values.view(np.uint32), [0x7F800000], [0] * 32)
    assert math.isclose(memory.view(np.float32)[0], values.min())


def test_faults():
    array = {"a": np.zeros(4, np.uint32)}
    fault(MemoryAccessError, "\n atom.global.add.u32 %r1, [%a+2], 1;", array, instruction="atom.global")
    fault(MemoryAccessError, "\n atom.global.add.u32 %r1, [%a+16], 1;", array, instruction="atom.global")
    fault(MemoryAccessError, ".local .b8 s[4]; mov.u64 %rd1, s; cvta.local.u64 %rd1, %rd1;\n"
          "atom.add.u32 %r1, [%rd1], 1;", array, instruction="atom.add")  # fmt: skip


@pytest.mark.parametrize(
    "instruction",
    ["atom.global.sub.u32 %r1, [%a], %r2;", "atom.global.cas.b128 %rd1, [%a], %rd1, %rd1;",
     "atom.global.min.f32 %f1, [%a], %f2;", "atom.global.and.u32 %r1, [%a], %r2;",
     "atom.global.inc.u64 %rd1, [%a], %rd2;", "red.global.exch.b32 [%a], %r1;",
          "red.async.add.u32 [%a], %r1;"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, "\n" + instruction, {"a": np.zeros(4, np.uint32)}, instruction=instruction)
