"""One wgmma in PTX: its operands packed element by element, after the PTX ISA's layouts of matrices.

Everything here is written from the ISA (section 9.7.15.5) and shares nothing with the emulator: chunks of 16
bytes are permuted by their row's number, as the ISA draws it, not by address bits.
"""

import ml_dtypes
import numpy as np
from ptx_text import run

TYPES = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
MODES = {0: 0, 128: 1, 64: 2, 32: 3}
"""Span of the swizzle in bytes -> bits 62 and 63 of the descriptor."""

SHARED = 96 * 1024


def permuted(chunk, line, span):
    """Where the ISA's swizzle puts a chunk of 16 bytes of a line of ``span`` bytes."""
    if span == 128:
        return chunk ^ line % 8
    if span == 64:
        return chunk ^ line // 2 % 4
    if span == 32:
        return chunk ^ line // 4 % 2
    return chunk


def address(row, k, item, span, mn_major, leading, stride):
    """Byte offset of element [row][k] of an operand tile, from the tile's start."""
    if not mn_major:
        byte = k * item
        if not span:  # core matrices: eight rows of 16 bytes
            return row // 8 * stride + byte // 16 * leading + row % 8 * 16 + byte % 16
        return row // 8 * stride + row % 8 * span + permuted(byte // 16, row % 8, span) * 16 + byte % 16
    if not span:  # core matrices: eight k of 16 bytes
        return row // 8 * stride + k // 8 * leading + k % 8 * 16 + row % 8 * 2
    wide = span // 2
    chunk = permuted(row % wide // 8, k % 8, span)
    return row // wide * leading + k // 8 * stride + k % 8 * span + chunk * 16 + row % 8 * 2


def pack(image, start, matrix, span, mn_major, leading, stride):
    """Write a matrix [rows][k] into an image of shared memory; its descriptor."""
    item = matrix.dtype.itemsize
    raw = matrix.view(f"u{item}")
    taken = set()
    for row in range(matrix.shape[0]):
        for k in range(matrix.shape[1]):
            at = start + address(row, k, item, span, mn_major, leading, stride)
            assert at not in taken, "the strides let elements overlap"
            taken.add(at)
            image[at : at + item] = np.frombuffer(raw[row, k].tobytes(), np.uint8)
    return descriptor(start, leading, stride, span)


def descriptor(start, leading, stride, span):
    """The 64 bits that describe an operand in shared memory."""
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | MODES[span] << 62


def result_place(thread, index):
    """Row and column of a thread's result ``index``."""
    warp, lane = divmod(thread, 32)
    return 16 * warp + lane // 4 + 8 * (index // 2 % 2), 8 * (index // 4) + 2 * (lane % 4) + index % 2


def left_place(thread, index, item):
    """Row and k of element ``index`` of a thread's A registers."""
    warp, lane = divmod(thread, 32)
    if item == 2:
        return 16 * warp + lane // 4 + 8 * (index // 2 % 2), 2 * (lane % 4) + index % 2 + 8 * (index // 4)
    return 16 * warp + lane // 4 + 8 * (index // 4 % 2), 4 * (lane % 4) + index % 4 + 16 * (index // 8)


def names(prefix, count):
    """``{%x0, %x1, ...}``."""
    return "{" + ", ".join(f"%{prefix}{index}" for index in range(count)) + "}"


FILL = """
    .shared .align 1024 .b8 memory[98304];
    .reg .pred %more;
    .reg .b32 %at, %word, %to, %row, %column;
    .reg .b64 %from, %wide, %place;
    mov.u32 %at, %tid;
fill:
    mul.wide.u32 %wide, %at, 4;
    add.u64 %from, %image, %wide;
    ld.global.b32 %word, [%from];
    mov.u32 %to, memory;
    shl.b32 %at, %at, 2;
    add.u32 %to, %to, %at;
    shr.u32 %at, %at, 2;
    st.shared.b32 [%to], %word;
    add.u32 %at, %at, 128;
    setp.lt.u32 %more, %at, 24576;
    @%more bra fill;
    fence.proxy.async.shared::cta;
    bar.sync 0;
"""


def product(left, right, before, type_a, type_b, result, left_mode, right_mode, *, scale_d=1, signs=(1, 1)):
    """The results [64][n] of one wgmma.

    ``left_mode`` is None for A in registers, else (span, mn_major, leading, stride), as ``right_mode``.
    """
    columns, item = right.shape[0], right.dtype.itemsize
    image = np.full(SHARED, 0xFF, np.uint8)
    right_descriptor = pack(image, 49152, right, *right_mode)
    count = columns // 2
    d = np.zeros((128, count), np.float32 if result == "f32" else np.float16)
    for thread in range(128):
        for index in range(count):
            d[thread, index] = before[result_place(thread, index)]
    d = d.view(np.uint32)
    registers = d.shape[1]
    body = (
        FILL
        + f"    .reg .b32 %d<{registers}>, %a<4>;\n    .reg .pred %scale;\n    .reg .b64 %dl, %dr, %pl;\n"
    )
    body += f"    setp.ne.u32 %scale, {scale_d}, 0;\n"
    arrays = {"image": image.view(np.uint32), "d": d}
    body += f"    mul.wide.u32 %wide, %tid, {4 * registers};\n    add.u64 %place, %d, %wide;\n"
    for index in range(registers):
        body += f"    ld.global.b32 %d{index}, [%place+{4 * index}];\n"
    if left_mode is None:
        a = np.zeros((128, 16 // item), TYPES[type_a])
        for thread in range(128):
            for index in range(16 // item):
                a[thread, index] = left[left_place(thread, index, item)]
        arrays["a"] = a.view(np.uint32)
        body += "    mul.wide.u32 %wide, %tid, 16;\n    add.u64 %pl, %a, %wide;\n"
        body += f"    ld.global.v4.b32 {names('a', 4)}, [%pl];\n"
        operand, transposes = names("a", 4), (int(right_mode[1]),)
    else:
        body += f"    mov.b64 %dl, {pack(image, 1024, left, *left_mode):#x};\n"
        operand, transposes = "%dl", (int(left_mode[1]), int(right_mode[1]))
    body += f"    mov.b64 %dr, {right_descriptor:#x};\n"
    constants = [*signs, *(transposes if item == 2 else ())]
    shape = f"m64n{columns}k{32 // item}"
    body += f"""
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.{shape}.{result}.{type_a}.{type_b} {names("d", registers)}, {operand}, %dr,
        %scale, {", ".join(map(str, constants))};
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
"""
    for index in range(registers):
        body += f"    st.global.b32 [%place+{4 * index}], %d{index};\n"
    run(body, arrays, block=128, races=True)
    values = d.view(np.float32 if result == "f32" else np.float16)
    out = np.zeros((64, columns), values.dtype)
    for thread in range(128):
        for index in range(count):
            out[result_place(thread, index)] = values[thread, index]
    return out


# Short products of m64n8k16 with A in registers.
FENCE = "wgmma.fence.sync.aligned;"
COMMIT = "wgmma.commit_group.sync.aligned;"
WAIT = "wgmma.wait_group.sync.aligned 0;"
WAIT1 = "wgmma.wait_group.sync.aligned 1;"
DECLARE = """
    .reg .f32 %d<8>, %e<8>, %x;
    .reg .b32 %a<4>, %i;
    .reg .b64 %left, %right;
    .reg .pred %on, %q;
    mov.f32 %d0, 0f00000000; mov.f32 %d1, %d0; mov.f32 %d2, %d0; mov.f32 %d3, %d0;
    mov.f32 %e0, %d0; mov.f32 %e1, %d0; mov.f32 %e2, %d0; mov.f32 %e3, %d0;
    mov.b32 %a0, 0; mov.b32 %a1, 0; mov.b32 %a2, 0; mov.b32 %a3, 0;
"""


def multiply(results="d", columns=8):
    """A product that adds to registers, with A in registers."""
    items = ", ".join(f"%{results}{index}" for index in range(columns // 2))
    return (
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{items}}}, "
        "{%a0, %a1, %a2, %a3}, %right, %on, 1, 1, 0;"
    )


D, E = multiply("d"), multiply("e")
