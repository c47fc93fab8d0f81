"""The report: bank conflicts and sectors, counted by hand."""

import numpy as np
import pytest
from ptx_text import run

MODULE = ".shared .align 128 .b8 tile[16384];"


def line(result, space, text):
    (found,) = [each for each in result.memory_lines if each.space == space and text in each.instruction]
    return found.requests, found.transactions, found.ideal


def shared(access, place, block=32):
    """An access of shared memory at the byte ``place`` of each thread, which is in %r11."""
    body = f"mov.u32 %r10, tile;\n{place}\nadd.u32 %r11, %r11, %r10;\n{access}"
    result = run(body, module=MODULE, block=block, report=True)
    return line(result, "shared", "st.shared")


@pytest.mark.parametrize(
    ("stride", "ways"),
    [(4, 1), (8, 2), (16, 4), (32, 8), (64, 16), (128, 32), (12, 1), (20, 1), (132, 1), (256, 32)],
)
def test_conflicts_by_stride(stride, ways):
    assert shared("st.shared.u32 [%r11], 0;", f"mul.lo.u32 %r11, %tid, {stride};") == (1, ways, 1)


def test_broadcast_and_bytes():
    assert shared("st.shared.u32 [%r11], 0;", "mov.u32 %r11, 0;") == (1, 1, 1)
    assert shared("st.shared.u8 [%r11], 0;", "mov.u32 %r11, %tid;") == (1, 1, 1)
    assert shared("st.shared.u16 [%r11], 0;", "mul.lo.u32 %r11, %tid, 2;") == (1, 1, 1)


def test_wide_accesses_take_more_wavefronts():
    assert shared("st.shared.v2.u32 [%r11], {0, 0};", "mul.lo.u32 %r11, %tid, 8;") == (1, 2, 2)
    assert shared("st.shared.u64 [%r11], 0;", "mul.lo.u32 %r11, %tid, 8;") == (1, 2, 2)
    assert shared("st.shared.v4.u32 [%r11], {0, 0, 0, 0};", "mul.lo.u32 %r11, %tid, 16;") == (1, 4, 4)
    # Eight lanes, 128 bytes apart: all in the same four banks.
    assert shared("st.shared.v4.u32 [%r11], {0, 0, 0, 0};", "mul.lo.u32 %r11, %tid, 128;") == (1, 32, 4)
    assert shared("st.shared.u64 [%r11], 0;", "mul.lo.u32 %r11, %tid, 128;") == (1, 32, 2)
    assert shared("st.shared.v4.u32 [%r11], {0, 0, 0, 0};", "mul.lo.u32 %r11, %tid, 144;") == (1, 4, 4)


def test_every_warp_counts():
    assert shared("st.shared.u32 [%r11], 0;", "mul.lo.u32 %r11, %tid, 8;", block=96) == (3, 6, 3)
    half = "mul.lo.u32 %r11, %tid, 8; setp.lt.u32 %p1, %tid, 16;"
    assert shared("@%p1 st.shared.u32 [%r11], 0;", half) == (1, 1, 1)


def matrices(place):
    body = f"""
    mov.u32 %r10, tile;
    mad.lo.u32 %r11, %tid, 128, %r10;
    mov.u32 %r12, 0;
FILL:
    st.shared.v4.u32 [%r11], {{0, 0, 0, 0}};
    add.u32 %r11, %r11, 16;
    add.u32 %r12, %r12, 1;
    setp.lt.u32 %p1, %r12, 8;
    @%p1 bra FILL;
    bar.sync 0;
    {place}
    add.u32 %r11, %r11, %r10;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r11];
"""
    return line(run(body, module=MODULE, report=True), "shared", "ldmatrix")


def test_ldmatrix_with_and_without_a_swizzle():
    """Rows of 128 bytes: each matrix of 8 rows takes 8 wavefronts, or 1 if they are swizzled by row."""
    row = "and.b32 %r12, %tid, 15; shr.u32 %r13, %tid, 4;"
    assert matrices(row + "shl.b32 %r13, %r13, 4; mad.lo.u32 %r11, %r12, 128, %r13;") == (1, 32, 4)
    swizzled = row + "and.b32 %r14, %r12, 7; xor.b32 %r13, %r13, %r14; shl.b32 %r13, %r13, 4;"
    assert matrices(swizzled + "mad.lo.u32 %r11, %r12, 128, %r13;") == (1, 4, 4)


def globally(access, place, block=32):
    aligned = np.zeros(1 << 15, np.uint8)
    body = f"{place}\ncvt.u64.u32 %rd1, %r11; add.u64 %rd1, %rd1, %a;\n{access}"
    return line(run(body, {"a": aligned}, report=True, block=block), "global", access.split()[-3][:4])


@pytest.mark.parametrize(
    ("stride", "sectors", "ideal"), [(4, 4, 4), (8, 8, 4), (32, 32, 4), (64, 32, 4), (0, 1, 1)]
)
def test_sectors_by_stride(stride, sectors, ideal):
    assert globally("ld.global.u32 %r1, [%rd1];", f"mul.lo.u32 %r11, %tid, {stride};") == (1, sectors, ideal)
    if stride:
        assert globally("st.global.u32 [%rd1], 0;", f"mul.lo.u32 %r11, %tid, {stride};") == (
            1,
            sectors,
            ideal,
        )


def test_sectors_of_wide_and_shifted_accesses():
    wide = "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%rd1];"
    assert globally(wide, "mul.lo.u32 %r11, %tid, 16;") == (1, 16, 16)
    shifted = "mul.lo.u32 %r11, %tid, 4; add.u32 %r11, %r11, 16;"
    assert globally("ld.global.u32 %r1, [%rd1];", shifted) == (1, 5, 4)
    assert globally("ld.global.u32 %r1, [%rd1];", "mul.lo.u32 %r11, %tid, 4;", block=64) == (2, 8, 8)


def test_lines_say_where_they_are():
    body = "mad.wide.u32 %a, %tid, 4, %a;\n ld.global.u32 %r1, [%a];\n ld.global.u32 %r2, [%a];"
    result = run(body, {"a": np.zeros(32, np.uint32)}, report=True)
    first, second = result.memory_lines
    assert (first.instruction, second.instruction) == ("ld.global.u32 %r1, [%a]", "ld.global.u32 %r2, [%a]")
    assert second.ptx_line == first.ptx_line + 1
    assert first.cuda_line is None
    assert run(body, {"a": np.zeros(32, np.uint32)}).memory_lines == ()
