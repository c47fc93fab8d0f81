"""Loads and stores: spaces, widths, extension, generic addresses, and every kind of wrong access."""

import numpy as np
import pytest
from ptx_text import compute, fault, kernel, run

from flashactor import emulator
from flashactor.errors import MemoryAccessError, UninitializedReadError, UnsupportedPtxError

BYTES = np.arange(256, dtype=np.uint8)
RNG = np.random.default_rng(6)


@pytest.mark.parametrize(
    "type_", ["u8", "s8", "b8", "u16", "s16", "u32", "s32", "b32", "u64", "s64", "f32", "f64"]
)
def test_copies_of_every_width(type_):
    size = int(type_[1:]) // 8
    source = RNG.integers(0, 256, (64, size), np.uint8)
    result = np.zeros_like(source)
    register = {1: "%h1", 2: "%h1", 4: "%r1", 8: "%rd1"}[size]
    register = {"f32": "%f1", "f64": "%fd1"}.get(type_, register)
    run(
        f"mad.wide.u32 %a, %me, {size}, %a; mad.wide.u32 %b, %me, {size}, %b;"
        f"ld.global.{type_} {register}, [%a]; st.global.{type_} [%b], {register};",
        {"a": source, "b": emulator.Output(result)},
        block=64,
    )
    assert np.array_equal(source, result)


@pytest.mark.parametrize(
    ("vector", "registers"),
    [("v2.u8", "%h1, %h2"), ("v4.u8", "%h1, %h2, %h3, %h4"), ("v2.u16", "%h1, %h2"),
         ("v4.b16", "%h1, %h2, %h3, %h4"),
     ("v2.f32", "%f1, %f2"), ("v4.u32", "%r1, %r2, %r3, %r4"), ("v2.u64", "%rd1, %rd2"),
          ("v2.f64", "%fd1, %fd2"),
     ("v8.b32", "%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8"), ("v4.b64", "%rd1, %rd2, %rd3, %rd4")],
)  # fmt: skip
@pytest.mark.parametrize("space", ["global", "shared", "local"])
def test_vectors(space, vector, registers):
    count, width = int(vector[1]), int(vector.split(".")[1][1:]) // 8
    size = count * width
    source = RNG.integers(0, 256, (32, size), np.uint8)
    result = np.zeros_like(source)
    through = {
        "global": "",
        "shared": f"mul.lo.u32 %r20, %tid, {size}; mov.u32 %r21, tile; add.u32 %r20, %r20, %r21;"
        f"st.shared.{vector} [%r20], {{{registers}}}; ld.shared.{vector} {{{registers}}}, [%r20];",
        "local": f"mov.u64 %rd9, stack; st.local.{vector} [%rd9], {{{registers}}};"
        f"ld.local.{vector} {{{registers}}}, [%rd9];",
    }[space]
    run(
        f".local .align 32 .b8 stack[32];mad.wide.u32 %a, %tid, {size}, %a; "
        f"mad.wide.u32 %b, %tid, {size}, %b;"
        f"ld.global.{vector} {{{registers}}}, [%a]; {through} st.global.{vector} [%b], {{{registers}}};",
        {"a": source, "b": result},
        module=".shared .align 32 .b8 tile[1024];",
    )
    assert np.array_equal(source, result)


def test_loads_extend_into_wider_registers():
    data = np.full(8, 0x80, np.uint8)
    body = "ld.global.{} %y0, [%rd1];"
    module_body = ".global .align 8 .b8 data[8] = {128, 255, 128, 255, 128, 255, 128, 255};"
    wanted = {"u8": 0x80, "s8": 2**64 - 0x80, "b8": 0x80, "u16": 0xFF80, "s16": 2**64 - 0x80, "b16": 0xFF80}
    wanted |= {"u32": 0xFF80FF80, "s32": 2**64 - 0x7F0080, "b32": 0xFF80FF80}
    for type_, value in wanted.items():
        for result, mask in (("u64", 2**64 - 1), ("u32", 2**32 - 1)):
            got = compute("mov.u64 %rd1, data;" + body.format(type_), result, data, module=module_body)
            assert (got == (value & mask)).all(), (type_, result)
    assert (
        compute("mov.u64 %rd1, data;" + body.format("s8"), "b16", data, module=module_body) == 0xFF80
    ).all()


def test_narrow_stores_cut():
    result = np.zeros((32, 4), np.uint8)
    run("mad.wide.u32 %a, %tid, 4, %a; st.global.u8 [%a+1], 0x1FF; mov.u32 %r1, 0xABCD; "
        "st.global.u16 [%a+2], %r1;",
        {"a": result})  # fmt: skip
    assert (result == [0, 0xFF, 0xCD, 0xAB]).all()


def test_parameters():
    """Scalars and structs, at constant offsets and at computed ones."""
    body = """
    ld.param.u32 %r1, [n];
    ld.param.f32 %f1, [x];
    ld.param.v2.u32 {%r2, %r3}, [s];
    ld.param.u8 %r4, [s+9];
    ld.param.u64 %rd1, [out];
    mov.u64 %rd2, s;
    and.b32 %r5, %tid, 1;
    mad.wide.u32 %rd2, %r5, 4, %rd2;
    ld.param.u32 %r6, [%rd2];
    mad.wide.u32 %rd1, %tid, 24, %rd1;
    st.global.v2.u32 [%rd1], {%r1, %r2};
    st.global.v2.u32 [%rd1+8], {%r3, %r4};
    st.global.u32 [%rd1+16], %r6;
    st.global.f32 [%rd1+20], %f1;
"""
    text = kernel(body, ".param .u32 n, .param .f32 x, .param .align 8 .b8 s[16], .param .u64 out")
    out = np.zeros((32, 6), np.uint32)
    struct = np.array([11, 22, 0x00330044, 0], np.uint32).tobytes()
    emulator.launch(text, "k", 1, 32, [7, 1.5, struct, out])
    assert (out[:, :4] == [7, 11, 22, 0]).all()
    assert out[:, 4].tolist() == [11, 22] * 16
    assert (out[:, 5].view(np.float32) == 1.5).all()


def test_variables_of_the_module():
    module = """
    .const .align 4 .u32 table[4] = {5, 6, 7, 8};
    .global .align 8 .b8 pad[3];
    .global .align 4 .f32 scale = 0f40000000;
    .global .align 4 .u32 counter = 40;
"""
    body = """
    and.b32 %r1, %x0, 3;
    mov.u64 %rd1, table;
    mad.wide.u32 %rd1, %r1, 4, %rd1;
    ld.const.u32 %y0, [%rd1];
    ld.global.f32 %y1, [scale];
    mov.u32 %r5, 1;
    setp.eq.u32 %p1, %tid, 0;
    @%p1 atom.global.add.u32 %r2, [counter], %r5;
    bar.sync 0;
    ld.global.u32 %y2, [counter];
    ld.const.u32 %y3, [table+8];
    cvta.const.u64 %rd2, %rd1;
    ld.u32 %y4, [%rd2];
"""
    lanes = np.arange(32, dtype=np.uint32)
    y0, y1, y2, y3, y4 = compute(body, "u32 f32 u32 u32 u32", lanes, module=module)
    assert y0.tolist() == [5 + lane % 4 for lane in range(32)]
    assert (y1 == 2).all()
    assert (y2 == 41).all()
    assert (y3 == 7).all()
    assert np.array_equal(y0, y4)


def test_local_memory_belongs_to_a_thread():
    body = """
    .local .align 16 .b8 stack[64];
    mov.u64 %rd1, stack;
    cvta.local.u64 %rd2, %rd1;
    and.b32 %r1, %x0, 15;
    mad.wide.u32 %rd3, %r1, 4, %rd1;
    st.local.u32 [%rd3], %x0;
    bar.sync 0;
    ld.local.u32 %y0, [%rd3];
    mad.wide.u32 %rd4, %r1, 4, %rd2;
    ld.u32 %y1, [%rd4];
"""
    lanes = np.arange(128, dtype=np.uint32)
    plain, generic = compute(body, "u32 u32", lanes)
    assert np.array_equal(plain, lanes)
    assert np.array_equal(generic, lanes)


def test_generic_addresses_of_several_spaces_at_once():
    body = """
    .local .align 4 .b8 stack[4];
    mov.u64 %rd1, tile;
    cvta.shared.u64 %rd1, %rd1;
    mov.u64 %rd2, stack;
    cvta.local.u64 %rd2, %rd2;
    mad.wide.u32 %rd1, %x0, 4, %rd1;
    mad.wide.u32 %rd3, %x0, 4, %a;
    rem.u32 %r1, %x0, 3;
    setp.eq.u32 %p0, %r1, 0;
    setp.eq.u32 %p1, %r1, 1;
    selp.b64 %rd4, %rd2, %rd3, %p1;
    selp.b64 %rd4, %rd1, %rd4, %p0;
    add.u32 %r2, %x0, 100;
    st.u32 [%rd4], %r2;
    ld.u32 %y0, [%rd4];
"""
    array = np.zeros(96, np.uint32)
    lanes = np.arange(96, dtype=np.uint32)
    result = np.zeros(96, np.uint32)
    run(
        body.replace("%x0", "%tid").replace("%y0", "%r3")
        + "mad.wide.u32 %rd5, %tid, 4, %b; st.u32 [%rd5], %r3;",
        {"a": array, "b": emulator.Output(result)},
        module=".shared .align 4 .b8 tile[384];",
        block=96,
    )
    assert np.array_equal(result, lanes + 100)
    assert array.tolist() == [lane + 100 if lane % 3 == 2 else 0 for lane in range(96)]


def test_dynamic_shared_memory_is_behind_the_static():
    body = """
    mov.u32 %r1, fixed;
    mov.u32 %r2, dynamic;
    sub.u32 %y0, %r2, %r1;
    mad.lo.u32 %r3, %x0, 4, %r2;
    st.shared.u32 [%r3], %x0;
    ld.shared.u32 %y1, [%r3];
    mov.u32 %y2, %dynamic_smem_size;
"""
    module = ".shared .align 4 .b8 fixed[8];\n.extern .shared .align 16 .b8 dynamic[];"
    lanes = np.arange(32, dtype=np.uint32)
    distance, value, size = compute(body, "u32 u32 u32", lanes, module=module, shared=128)
    assert (distance % 16 == 0).all()
    assert np.array_equal(value, lanes)
    assert (size == 128).all()


# ---- faults
ADDRESS = "mad.wide.u32 %a, %me, 4, %a;"


def test_beyond_the_end_of_an_array():
    error = fault(MemoryAccessError, ADDRESS + "\n ld.global.u32 %r1, [%a];", {"a": np.zeros(60, np.uint32)},
                  instruction="ld.global.u32 %r1, [%a];", grid=2)  # fmt: skip
    assert error.at.block == (1, 0, 0)
    assert error.at.thread == 28
    assert error.at.kernel == "k"
    assert "0 bytes behind the end of a" in str(error)
    base = error.at.address - 60 * 4
    assert base % 16 == np.zeros(60, np.uint32).ctypes.data % 16


def test_before_an_array_and_nowhere():
    array = {"a": np.zeros(32, np.uint32)}
    error = fault(
        MemoryAccessError, "\n st.global.u32 [%a+-4], 1;", array, instruction="st.global.u32 [%a+-4], 1;"
    )
    assert "4 bytes before a" in str(error)
    assert error.at.thread == 0
    fault(MemoryAccessError, "mov.u64 %rd1, 16;\n ld.global.u32 %r1, [%rd1];", array, instruction="ld.global")
    fault(MemoryAccessError, "mov.u64 %rd1, 0;\n ld.u32 %r1, [%rd1];", array, instruction="ld.u32")
    fault(MemoryAccessError, "mov.u64 %rd1, -8;\n ld.u32 %r1, [%rd1];", array, instruction="ld.u32")
    error = fault(
        MemoryAccessError,
        "mov.u64 %rd1, 0x0FF0000000000000;\n st.u32 [%rd1], 0;",
        array,
        instruction="st.u32",
    )
    assert error.at.address == 0x0FF0000000000000


def test_the_first_lane_of_a_mask_is_named():
    body = ADDRESS + "setp.eq.u32 %p1, %tid, 37;\n @%p1 add.u64 %a, %a, 4096;\n @%p1 ld.global.u32 %r1, [%a];"
    error = fault(
        MemoryAccessError, body, {"a": np.zeros(64, np.uint32)}, block=64, instruction="ld.global.u32"
    )
    assert error.at.thread == 37


def test_misaligned():
    array = {"a": np.zeros(64, np.uint32)}
    error = fault(
        MemoryAccessError, "\n ld.global.u32 %r1, [%a+2];", array, instruction="ld.global.u32 %r1, [%a+2];"
    )
    assert "misaligned" in str(error)
    assert error.at.address % 4 == 2
    fault(MemoryAccessError, "\n ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%a+8];", array, instruction="v4")
    fault(
        MemoryAccessError,
        "\n ld.shared.u32 %r1, [tile+1];",
        module=".shared .b8 tile[64];",
        instruction="ld.shared",
    )
    fault(MemoryAccessError, ".local .b8 s[16];\n st.local.u64 [s+4], 1;", instruction="st.local.u64")


def test_out_of_bounds_of_shared_local_and_parameters():
    module = ".shared .align 4 .b8 tile[64];"
    error = fault(
        MemoryAccessError, "\n st.shared.u32 [tile+64], 1;", module=module, instruction="st.shared.u32"
    )
    assert "64 bytes" in str(error)
    assert (error.at.thread, error.at.address) == (0, 64)
    fault(
        MemoryAccessError,
        "mov.u32 %r1, -4;\n ld.shared.u32 %r2, [%r1];",
        module=module,
        instruction="ld.shared",
    )
    fault(MemoryAccessError, "\n ld.shared.u32 %r2, [0];", instruction="ld.shared")
    fault(MemoryAccessError, ".local .b8 s[16];\n st.local.u32 [s+16], 1;", instruction="st.local")
    fault(MemoryAccessError, "\n ld.param.u64 %rd1, [a+8];", {"a": np.zeros(1)}, instruction="ld.param")
    fault(MemoryAccessError, "mov.u64 %rd2, 4096;\n ld.param.u64 %rd1, [%rd2];", {"a": np.zeros(1)},
          instruction="ld.param")  # fmt: skip


def test_stores_to_what_is_read_only():
    array = np.zeros(32, np.uint32)
    array.flags.writeable = False
    error = fault(
        MemoryAccessError, ADDRESS + "\n st.global.u32 [%a], 1;", {"a": array}, instruction="st.global"
    )
    assert "write to an input" in str(error)
    fault(
        MemoryAccessError, ADDRESS + "\n red.global.add.u32 [%a], 1;", {"a": array}, instruction="red.global"
    )
    module = ".const .u32 c = 1;"
    fault(MemoryAccessError, "\n st.const.u32 [c], 1;", module=module, instruction="st.const")
    error = fault(MemoryAccessError, "mov.u64 %rd1, c; cvta.const.u64 %rd1, %rd1;\n st.u32 [%rd1], 1;",
         module=module,
                  instruction="st.u32")  # fmt: skip
    fault(MemoryAccessError, "\n st.param.u64 [a], 1;", {"a": np.zeros(1)}, instruction="st.param")


def test_uninitialised_reads():
    output = {"a": emulator.Output(np.zeros(32, np.uint32))}
    error = fault(
        UninitializedReadError, ADDRESS + "\n ld.global.u32 %r1, [%a];", output, instruction="ld.global"
    )
    assert "inside a" in str(error)
    fault(
        UninitializedReadError, ADDRESS + "\n atom.global.add.u32 %r1, [%a], 1;", output, instruction="atom"
    )
    half = ADDRESS + "st.global.u16 [%a], 1;\n ld.global.u32 %r1, [%a];"
    fault(UninitializedReadError, half, output, instruction="ld.global")
    module = ".shared .align 8 .b8 tile[256];"
    body = "mul.lo.u32 %r1, %tid, 8; st.shared.u32 [%r1], 1;\n ld.shared.u64 %rd1, [%r1];"
    error = fault(UninitializedReadError, body, module=module, instruction="ld.shared")
    assert error.at.address == 0
    fault(UninitializedReadError, ".local .b8 s[8]; st.local.u32 [s], 1;\n ld.local.u32 %r1, [s+4];",
          instruction="ld.local")  # fmt: skip
    run(ADDRESS + "st.global.u32 [%a], 1; ld.global.u32 %r1, [%a];", output)


def test_shared_memory_is_fresh_in_every_block():
    body = """
    setp.eq.u32 %p1, %ctaid.x, 0;
    @%p1 st.shared.u32 [tile], 1;
    bar.sync 0;
    ld.shared.u32 %r1, [tile];
"""
    error = fault(UninitializedReadError, body, module=".shared .b32 tile;", instruction="ld.shared", grid=2)
    assert error.at.block == (1, 0, 0)


def test_padding_of_a_strided_view():
    base = np.zeros((8, 16), np.uint32)
    view = base[:, :12]
    body = "mad.wide.u32 %a, %tid, 4, %a;\n ld.global.u32 %r1, [%a];"
    run(body, {"a": view}, block=12)
    error = fault(MemoryAccessError, body, {"a": view}, block=13, instruction="ld.global")
    assert error.at.thread == 12
    assert "inside a, 48 bytes from its start" in str(error)
    body = "mad.wide.u32 %a, %tid, 4, %a;\n st.global.u32 [%a], 5;"
    run(body, {"a": view}, block=12)
    assert (view[0] == 5).all()
    assert (base[:, 12:] == 0).all()


def test_negative_strides():
    base = np.arange(32, dtype=np.uint32)
    result = np.zeros(32, np.uint32)
    body = """
    mul.wide.u32 %rd1, %tid, 4;
    sub.u64 %a, %a, %rd1;
    ld.global.u32 %r1, [%a];
    add.u64 %b, %b, %rd1;
    st.global.u32 [%b], %r1;
"""
    run(body, {"a": base[::-1], "b": result})
    assert np.array_equal(result, base[::-1])


def test_arrays_keep_their_alignment():
    base = np.zeros(64, np.uint32)
    odd = base[1:33]
    run("st.global.u32 [%a], 1;", {"a": odd}, block=1)
    fault(MemoryAccessError, "\n st.global.v2.u32 [%a], {%r1, %r1};", {"a": odd}, instruction="st.global.v2")


@pytest.mark.parametrize(
    "instruction",
    ["ld.global.v4.u32 {%r1, %r2}, [%a];", "ld.global.v2.u32 %r1, [%a];", "ld.global.u32 {%r1, %r2}, [%a];",
     "st.global.v2.u32 [%a], %r1;", "ld.global.b128 %rd1, [%a];", "ld.global.u64 %r1, [%a];",
     "ld.texture.u32 %r1, [%a];", "st.async.global.u32 [%a], %r1;",
          "ld.global.v3.u32 {%r1, %r2, %r3}, [%a];"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, "\n" + instruction, {"a": np.zeros(64, np.uint32)}, instruction=instruction)


def test_cache_hints_and_orders_change_nothing():
    a = np.arange(32, dtype=np.uint32)
    loads = ("global.nc.L1::no_allocate.L2::128B", "global.ca", "volatile.global", "relaxed.gpu.global",
             "acquire.sys.global", "global.cs")  # fmt: skip
    stores = (
        "global",
        "global.wb",
        "volatile.global",
        "relaxed.gpu.global",
        "release.sys.global",
        "global.cs",
    )
    for load, store in zip(loads, stores, strict=True):
        run(ADDRESS + f"ld.{load}.u32 %r1, [%a]; add.u32 %r1, %r1, 1; st.{store}.u32 [%a], %r1;", {"a": a})
    assert np.array_equal(a, np.arange(32) + len(loads))


def test_a_register_that_nothing_has_written_is_all_ones():
    result = np.zeros((32, 2), np.float32)
    run(
        "mad.wide.u32 %a, %me, 8, %a; @%p1 mov.f32 %f2, 0f3F800000;"
        "st.global.f32 [%a], %f1; st.global.f32 [%a+4], %f2;",
        {"a": emulator.Output(result)},
    )
    assert np.isnan(result[:, 0]).all()
    assert (result[:, 1] == 1).all()
