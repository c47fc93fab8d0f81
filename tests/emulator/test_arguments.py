"""What a launch takes: arguments of every kind, extents, and what it refuses."""

import struct

import ml_dtypes
import numpy as np
import pytest
from ptx_text import kernel, run

from flashactor import emulator
from flashactor.errors import DataRaceError, LaunchError, MemoryAccessError

COPY = "ld.param.b{0} {1}, [x]; ld.param.u64 %rd9, [out]; st.global.b{0} [%rd9], {1};"
REGISTER = {8: "%h1", 16: "%h1", 32: "%r1", 64: "%rd1"}


def passed(type_, argument):
    """The bytes that a kernel finds in a scalar parameter."""
    bits = int(type_.lstrip("busf"))
    out = np.zeros(bits // 8, np.uint8)
    text = kernel(COPY.format(bits, REGISTER[bits]), f".param .{type_} x, .param .u64 out")
    aligned = np.zeros(8, np.uint8)[: bits // 8]
    emulator.launch(text, "k", 1, 1, [argument, aligned])
    out[:] = aligned
    return out.tobytes()


@pytest.mark.parametrize(
    ("type_", "argument", "wanted"),
    [("u32", 7, struct.pack("<I", 7)), ("s32", -7, struct.pack("<i", -7)), ("u64", 2**64 - 1, b"\xff" * 8),
     ("s64", -1, b"\xff" * 8), ("u8", 200, b"\xc8"), ("u16", True, b"\x01\x00"),
          ("f32", 1.5, struct.pack("<f", 1.5)),
     ("f64", 0.1, struct.pack("<d", 0.1)), ("u32", np.uint32(9), struct.pack("<I", 9)),
     ("f32", np.float32(2.5), struct.pack("<f", 2.5)), ("b16", np.float16(1), b"\x00\x3c"),
     ("b16", ml_dtypes.bfloat16(1), b"\x80\x3f"), ("s64", np.int64(-2), struct.pack("<q", -2)),
     ("u32", b"abcd", b"abcd"), ("u32", bytearray(b"wxyz"), b"wxyz"), ("u32", memoryview(b"1234"), b"1234")],
)  # fmt: skip
def test_scalars(type_, argument, wanted):
    assert passed(type_, argument) == wanted


@pytest.mark.parametrize(
    ("type_", "argument"),
    [("u32", np.int64(1)), ("u64", np.uint32(1)), ("u32", b"abc"), ("u32", "text"), ("u32", None),
         ("u16", 1.5),
     ("u32", 2**32), ("u32", -(2**31) - 1), ("u8", 256), ("u64", 2**64), ("u32", [1]), ("u32", np.zeros(4)),
     ("u32", 1 + 2j), ("f32", np.float64(1))],
)  # fmt: skip
def test_what_does_not_fit(type_, argument):
    with pytest.raises(LaunchError) as caught:
        passed(type_, argument)
    assert caught.value.field == "x"


def test_arrays_of_every_type():
    for dtype in (np.uint8, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float32, np.int64):
        array = np.arange(32).astype(dtype)
        size = array.itemsize
        result = np.zeros(32, dtype)
        register = REGISTER[8 * size]
        body = f"mad.wide.u32 %a, %tid, {size}, %a; mad.wide.u32 %b, %tid, {size}, %b;"
        body += f"ld.global.b{8 * size} {register}, [%a]; st.global.b{8 * size} [%b], {register};"
        run(body, {"a": array, "b": emulator.Output(result)})
        assert np.array_equal(array, result)


def test_read_only_arrays_are_inputs():
    array = np.arange(32, dtype=np.uint32)
    array.flags.writeable = False
    result = np.zeros(32, np.uint32)
    run("mad.wide.u32 %a, %tid, 4, %a; mad.wide.u32 %b, %tid, 4, %b; ld.global.u32 %r1, [%a];"
        "st.global.u32 [%b], %r1;", {"a": array, "b": result})  # fmt: skip
    assert np.array_equal(array, result)


def test_structs_with_pointers_through_a_memory():
    memory = emulator.Memory()
    data, result = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    struct_ = struct.pack("<QQf", memory.add(data, "data"), memory.add(result, "result", written=False), 3.0)
    body = """
    ld.param.u64 %rd1, [p];
    ld.param.u64 %rd2, [p+8];
    ld.param.f32 %f1, [p+16];
    mad.wide.u32 %rd1, %tid, 4, %rd1;
    mad.wide.u32 %rd2, %tid, 4, %rd2;
    ld.global.f32 %f2, [%rd1];
    mul.f32 %f2, %f2, %f1;
    st.global.f32 [%rd2], %f2;
"""
    text = kernel(body, ".param .align 8 .b8 p[24]")
    emulator.launch(text, "k", 1, 32, [struct_.ljust(24, b"\0")], memory=memory)
    assert not result.any()
    memory.copy_back()
    assert np.array_equal(result, 3 * data)
    with pytest.raises(LaunchError):
        emulator.launch(text, "k", 1, 32, [struct_], memory=memory)


@pytest.mark.parametrize("args", [[], [np.zeros(1), np.zeros(1)]])
def test_the_number_of_arguments(args):
    with pytest.raises(LaunchError) as caught:
        emulator.launch(kernel("", ".param .u64 a"), "k", 1, 32, args)
    assert caught.value.field == "args"
    assert f"{len(args)} arguments" in str(caught.value)


@pytest.mark.parametrize("extents", [0, -1, (), (1, 2, 3, 4), (1, 0), 1.5, (2.0, 1)])
@pytest.mark.parametrize("which", ["grid", "block"])
def test_extents(which, extents):
    with pytest.raises(LaunchError) as caught:
        run("", **{which: extents})
    assert caught.value.field == which


@pytest.mark.parametrize(
    ("which", "extents"),
    [("grid", 2**31), ("grid", (1, 65536)), ("grid", (1, 1, 65536)), ("block", 1025), ("block", (1, 1, 65))],
)
def test_extents_beyond_a_device(which, extents):
    with pytest.raises(LaunchError, match="as on a device") as caught:
        run("", **{which: extents})
    assert caught.value.field == which


def test_extents_of_every_length():
    for grid in (2, (2,), (1, 2), (1, 1, 2)):
        count = np.zeros(1, np.uint32)
        run("atom.global.add.u32 %r1, [%a], 1;", {"a": count}, grid=grid, block=(4, 2, 2))
        assert count[0] == 32


def test_blocks_that_are_too_large():
    with pytest.raises(LaunchError, match="2048 threads"):
        run("", block=(1024, 2))
    run("", block=1024)
    with pytest.raises(LaunchError) as caught:
        run("", block=129, directives=".maxntid 128, 1, 1")
    assert "at most 128" in str(caught.value)
    run("", block=128, directives=".maxntid 128")
    with pytest.raises(LaunchError):
        run("", block=64, directives=".reqntid 128")


def test_many_blocks():
    array = np.zeros(64 * 300, np.uint32)
    run("mad.wide.u32 %a, %me, 4, %a; st.global.u32 [%a], %ctaid.x;", {"a": array}, grid=300, block=64)
    assert np.array_equal(array, np.repeat(np.arange(300), 64))


@pytest.mark.parametrize(
    ("field", "value"),
    [("shared", -1), ("shared", 228 * 1024), ("shared", 1.5), ("seed", -1), ("seed", None),
     ("max_steps", "9"), ("memory", {})],
)  # fmt: skip
def test_options_out_of_range(field, value):
    with pytest.raises(LaunchError) as caught:
        run("", **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("ptx", "entry", "field"), [(b"text", "k", "ptx"), (None, "k", "ptx"), ("", 7, "entry")]
)
def test_texts_that_are_no_text(ptx, entry, field):
    with pytest.raises(LaunchError) as caught:
        emulator.launch(ptx, entry, 1, 32, [])
    assert caught.value.field == field


@pytest.mark.parametrize("args", [None, "a", {}, np.zeros(3)])
def test_arguments_that_are_no_sequence(args):
    with pytest.raises(LaunchError) as caught:
        emulator.launch(kernel(""), "k", 1, 32, args)
    assert caught.value.field == "args"


@pytest.mark.parametrize("value", [64.0, float("inf")])
def test_a_float_is_no_integer(value):
    with pytest.raises(LaunchError, match="type u32"):
        passed("u32", value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, object),
        np.array(["abc"]),
        np.zeros(4, ">f4"),
        np.zeros(2, "M8[s]"),
        np.zeros(1, [("a", "O")]),
    ],
)
def test_arrays_of_what_is_no_number(array):
    with pytest.raises(LaunchError, match="byte order"):
        run("", {"a": array})
    with pytest.raises(LaunchError):
        emulator.Memory().add(array)


@pytest.mark.parametrize("array", [None, 5, [1, 2]])
def test_what_is_no_array(array):
    with pytest.raises(LaunchError, match="NumPy array"):
        emulator.Memory().add(array)
    with pytest.raises(LaunchError):
        run("", {"a": emulator.Output(array)})


def test_an_output_must_be_writeable():
    array = np.zeros(4, np.uint32)
    array.flags.writeable = False
    with pytest.raises(LaunchError, match="writeable"):
        run("", {"a": emulator.Output(array)})


STORE_AND_LOAD = """
    mad.wide.u32 %rd1, %tid, 4, %a;
    mad.wide.u32 %rd2, %tid, 4, %b;
    st.global.u32 [%rd1], 5;
    bar.sync 0;
    ld.global.u32 %r1, [%rd2];
    add.u32 %r1, %r1, 1;
    st.global.u32 [%rd2], %r1;
"""


def test_one_array_twice_is_one_memory():
    array = np.zeros(64, np.uint32)
    run(STORE_AND_LOAD, {"a": array, "b": array}, block=64, races=True)
    assert (array == 6).all()


def test_views_of_one_array_overlap_as_they_do():
    array = np.arange(96, dtype=np.uint32)
    with pytest.raises(DataRaceError):
        run(
            STORE_AND_LOAD.replace("bar.sync 0;", ""),
            {"a": array[32:], "b": array[:64]},
            block=64,
            races=True,
        )
    run(STORE_AND_LOAD, {"a": array[32:], "b": array[:64]}, block=64)
    assert array[:32].tolist() == list(range(1, 33))
    assert (array[32:64] == 6).all()
    assert (array[64:] == 5).all()


def test_views_find_their_place_in_either_order():
    array = np.arange(96, dtype=np.uint32)
    run(STORE_AND_LOAD, {"a": array[:64], "b": array[32:]}, block=64)
    assert (array[:32] == 5).all()
    assert (array[32:64] == 6).all()
    assert array[64:].tolist() == list(range(65, 97))


def test_the_elements_between_two_views_belong_to_nobody():
    array = np.zeros(96, np.uint32)
    with pytest.raises(MemoryAccessError):
        run("ld.global.u32 %r1, [%a+128];", {"a": array[:32], "b": array[64:]})


def test_an_input_that_is_an_output_too_may_be_written():
    array = np.zeros(64, np.uint32)
    view = array[:]
    view.flags.writeable = False
    run(STORE_AND_LOAD, {"a": array, "b": view}, block=64)
    assert (array == 6).all()


def test_floats_beyond_float32_become_infinite():
    assert passed("f32", 1e300) == struct.pack("<f", float("inf"))


def test_extents_may_be_numpy_integers():
    count = np.zeros(1, np.uint32)
    run("atom.global.add.u32 %r1, [%a], 1;", {"a": count}, grid=np.int64(2), block=(np.uint8(16),))
    assert count[0] == 32
