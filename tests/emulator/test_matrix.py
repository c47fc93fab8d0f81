"""ldmatrix, stmatrix, movmatrix and mma.sync against fragments built element by element from the ISA."""

import ml_dtypes
import numpy as np
import pytest
from ptx_text import fault, run

from flashactor import emulator
from flashactor.errors import DivergenceError, MemoryAccessError, UninitializedReadError, UnsupportedPtxError

RNG = np.random.default_rng(10)
DTYPES = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "e4m3": ml_dtypes.float8_e4m3fn,
         "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def a_place(lane, i, k, bits):
    """Row and column of element ``i`` of a lane's fragment of A (16 x k): groupID and threadID_in_group."""
    group, member = lane >> 2, lane % 4
    if bits == 16:
        row = group if i % 4 < 2 else group + 8
        return row, member * 2 + (i & 1) + (8 if i >= 4 else 0)
    row = group if (0 <= i < 4 or 8 <= i < 12) else group + 8
    return row, member * 4 + (i & 3) + (16 if i >= 8 else 0)


def b_place(lane, i, k, bits):
    """The same for B (k x 8)."""
    group, member = lane >> 2, lane % 4
    if bits == 16:
        return member * 2 + (i & 1) + (8 if i >= 2 else 0), group
    return member * 4 + (i & 3) + (16 if i >= 4 else 0), group


def c_place(lane, i):
    """The same for C and D (16 x 8)."""
    group, member = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), member * 2 + (i & 1)


def spread(matrix, place):
    """A matrix as each lane's elements, in the order of its registers."""
    count = matrix.size // 32
    rows = [[matrix[place(lane, i)] for i in range(count)] for lane in range(32)]
    return np.array(rows, matrix.dtype)


SHAPES = [("f16", "f16", 8), ("f16", "f16", 16), ("bf16", "bf16", 8), ("bf16", "bf16", 16), ("e4m3",
     "e4m3", 32),
          ("e5m2", "e5m2", 32), ("e4m3", "e5m2", 32), ("e5m2", "e4m3", 32)]  # fmt: skip


@pytest.mark.parametrize(("a_type", "b_type", "k"), SHAPES)
@pytest.mark.parametrize("accumulator", ["f32", "f16"])
def test_mma(a_type, b_type, k, accumulator):
    if a_type == "bf16" and accumulator == "f16":
        return
    small = 4 if accumulator == "f32" else 2  # small integers: every sum is exact
    a = RNG.integers(-small, small + 1, (16, k)).astype(DTYPES[a_type])
    b = RNG.integers(-small, small + 1, (k, 8)).astype(DTYPES[b_type])
    c = RNG.integers(-9, 10, (16, 8)).astype(np.float32 if accumulator == "f32" else np.float16)
    bits = a.itemsize * 8
    fa = spread(a, lambda lane, i: a_place(lane, i, k, bits)).view(np.uint32)
    fb = spread(b, lambda lane, i: b_place(lane, i, k, bits)).view(np.uint32)
    fc = spread(c, c_place).view(np.uint32)
    d = np.zeros_like(fc)

    def loads(base, first, count, pointer):
        return f"mad.wide.u32 %rd1, %tid, {4 * count}, {pointer};" + "".join(
            f"ld.global.u32 {base}{first + n}, [%rd1+{4 * n}];" for n in range(count)
        )

    def names(base, first, count):
        return "{" + ", ".join(f"{base}{first + n}" for n in range(count)) + "}"

    na, nb, nc = fa.shape[1], fb.shape[1], fc.shape[1]
    c_base = "%f" if accumulator == "f32" else "%r"
    body = loads("%r", 0, na, "%a") + loads("%r", 4, nb, "%b") + loads(c_base, 8, nc, "%c")
    body += (
        f"mma.sync.aligned.m16n8k{k}.row.col.{accumulator}.{a_type}.{b_type}.{accumulator} "
        f"{names(c_base, 12, nc)}, {names('%r', 0, na)}, {names('%r', 4, nb)}, {names(c_base, 8, nc)};"
    )
    body += f"mad.wide.u32 %rd1, %tid, {4 * nc}, %d;" + "".join(
        f"st.global.b32 [%rd1+{4 * n}], {c_base}{12 + n};" for n in range(nc)
    )
    run(body, {"a": fa, "b": fb, "c": fc, "d": emulator.Output(d)})
    exact = a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
    assert np.array_equal(d, spread(exact.astype(c.dtype), c_place).view(np.uint32))


def test_mma_may_overwrite_its_accumulators():
    out = np.zeros((32, 4), np.float32)
    body = """
    mov.b32 %r1, 0x3C003C00;
    mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
        {%f1,%f2,%f3,%f4}, {%r1,%r1,%r1,%r1}, {%r1,%r1}, {%f1,%f2,%f3,%f4};
    mov.b32 %r1, 0x40004000;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
        {%f1,%f2,%f3,%f4}, {%r1,%r1,%r1,%r1}, {%r1,%r1}, {%f1,%f2,%f3,%f4};
    mad.wide.u32 %a, %tid, 16, %a;
    st.global.v4.f32 [%a], {%f1, %f2, %f3, %f4};
"""
    run(body, {"a": out})
    assert (out == 16 + 64).all()


FILL = """
    mov.u32 %r10, tile;
    mad.lo.u32 %r11, %tid, 16, %r10;
    mad.wide.u32 %a, %tid, 16, %a;
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%a];
    st.shared.v4.u32 [%r11], {%r1, %r2, %r3, %r4};
    bar.sync 0;
"""
MODULE = ".shared .align 16 .b8 tile[512];"


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix(count, trans):
    """Lane 8 m + r gives the address of row r of matrix m, in any order of rows in memory."""
    rows = RNG.integers(0, 65536, (32, 8)).astype(np.uint16)
    order = RNG.permutation(32).astype(np.uint32)
    out = np.zeros((32, count), np.uint32)
    registers = ", ".join(f"%r{1 + n}" for n in range(count))
    body = (
        FILL
        + f"""
    mad.wide.u32 %b, %tid, 4, %b;
    ld.global.u32 %r12, [%b];
    mad.lo.u32 %r12, %r12, 16, %r10;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{registers}}}, [%r12];
    mad.wide.u32 %c, %tid, {4 * count}, %c;
"""
        + "".join(f"st.global.u32 [%c+{4 * n}], %r{1 + n};" for n in range(count))
    )
    run(body, {"a": rows, "b": order, "c": out}, MODULE, races=True)
    for matrix in range(count):
        for lane in range(32):
            row, column = lane // 4, 2 * (lane % 4)
            places = [(row, column), (row, column + 1)] if not trans else [(column, row), (column + 1, row)]
            low, high = (int(rows[order[8 * matrix + r], c]) for r, c in places)
            assert out[lane, matrix] == low | high << 16


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_stmatrix(count, trans):
    fragments = RNG.integers(0, 2**32, (32, count), dtype=np.uint32)
    out = np.zeros((32, 8), np.uint16)
    registers = ", ".join(f"%r{1 + n}" for n in range(count))
    body = FILL + f"mad.wide.u32 %b, %tid, {4 * count}, %b;"
    body += "".join(f"ld.global.u32 %r{1 + n}, [%b+{4 * n}];" for n in range(count))
    body += f"""
    stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r11], {{{registers}}};
    bar.sync 0;
    ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r11];
    mad.wide.u32 %c, %tid, 16, %c;
    st.global.v4.u32 [%c], {{%r1, %r2, %r3, %r4}};
"""
    before = np.full((32, 8), 7, np.uint16)
    run(body, {"a": before, "b": fragments, "c": out}, MODULE, races=True)
    wanted = before.copy()
    halves = fragments.view(np.uint16).reshape(32, count, 2)
    for matrix in range(count):
        for lane in range(32):
            for half in range(2):
                row, column = lane // 4, 2 * (lane % 4) + half
                if trans:
                    row, column = column, row
                wanted[8 * matrix + row, column] = halves[lane, matrix, half]
    assert np.array_equal(out, wanted)


def test_movmatrix():
    fragment = RNG.integers(0, 2**32, 32, dtype=np.uint32)
    out = np.zeros(32, np.uint32)
    run("mad.wide.u32 %a, %tid, 4, %a; mad.wide.u32 %b, %tid, 4, %b; ld.global.u32 %r1, [%a];"
        "movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; st.global.u32 [%b], %r2;", {"a": fragment,
             "b": out})  # fmt: skip
    assert np.array_equal(out.view(np.uint16).reshape(8, 8), fragment.view(np.uint16).reshape(8, 8).T)


def test_several_warps_of_several_blocks():
    rows = RNG.integers(0, 65536, (2 * 64, 8)).astype(np.uint16)
    out = np.zeros((2 * 64, 2), np.uint32)
    body = """
    mov.u32 %r10, tile;
    mad.lo.u32 %r11, %tid, 16, %r10;
    mad.wide.u32 %a, %me, 16, %a;
    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%a];
    st.shared.v4.u32 [%r11], {%r1, %r2, %r3, %r4};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%r11];
    mad.wide.u32 %b, %me, 8, %b;
    st.global.v2.u32 [%b], {%r1, %r2};
"""
    for schedule in emulator.SCHEDULES:
        out[:] = 0
        run(
            body,
            {"a": rows, "b": out},
            ".shared .align 16 .b8 tile[1024];",
            grid=2,
            block=64,
            schedule=schedule,
        )
        for warp in range(4):
            for matrix in range(2):
                eight = rows[32 * warp + 8 * matrix :][:8]
                got = out[32 * warp : 32 * warp + 32, matrix]
                assert np.array_equal(np.ascontiguousarray(got).view(np.uint16).reshape(8, 8), eight)


def test_faults():
    load = "\n ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];"
    error = fault(UninitializedReadError, "mov.u32 %r2, tile;" + load, module=MODULE, instruction="ldmatrix")
    assert error.at.address == 0
    fault(
        MemoryAccessError,
        "mov.u32 %r2, tile; add.u32 %r2, %r2, 8;" + load,
        module=MODULE,
        instruction="ldmatrix",
    )
    fault(MemoryAccessError, "mov.u32 %r2, 512;" + load, module=MODULE, instruction="ldmatrix")
    fault(DivergenceError, "mov.u32 %r2, tile; setp.lt.u32 %p1, %tid, 8;\n @%p1" + load[1:], module=MODULE,
          instruction="ldmatrix")  # fmt: skip


def test_rows_of_lanes_that_give_no_address_do_not_matter():
    body = (
        FILL
        + """
    setp.ge.u32 %p1, %tid, 8;
    @%p1 mov.u32 %r11, 99999;
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r11];
"""
    )
    run(body, {"a": np.zeros((32, 8), np.uint16)}, MODULE)


REGISTERS = "{%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};"


@pytest.mark.parametrize(
    "instruction",
    ["ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2}, [%r3];",
     "ldmatrix.sync.aligned.m8n8.x1.shared.b8 {%r1}, [%r3];",
     "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1}, [%r3];",
     "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r3], {%r1};",
     f"mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {REGISTERS}",
     f"mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32 {REGISTERS}",
     f"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {REGISTERS}",
     f"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {REGISTERS}",


                                f"mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {REGISTERS}",
     "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16 {%r7,%r8},{%r1,%r2,%r3,%r4},{%r5,%r6},{%r7,%r8};"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, "\n" + instruction, module=MODULE, instruction=instruction)
