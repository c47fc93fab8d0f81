"""cp.async: sizes, zero fill, groups, and what must not happen while a copy is in flight."""

import numpy as np
import pytest
from ptx_text import fault, run

from flashactor import emulator
from flashactor.errors import AsyncHazardError, MemoryAccessError, UninitializedReadError, UnsupportedPtxError

MODULE = ".shared .align 16 .b8 tile[2048];"
RNG = np.random.default_rng(8)


def start(size):
    """Registers: %r1 the thread's place in the tile, %a its source, %b its result."""
    return f"""
    mov.u32 %r1, tile;
    mad.lo.u32 %r1, %tid, {size}, %r1;
    mad.wide.u32 %a, %tid, {size}, %a;
    mad.wide.u32 %b, %tid, {size}, %b;
"""


def read_back(size):
    return "".join(
        f"ld.shared.u32 %r2, [%r1+{at}]; st.global.u32 [%b+{at}], %r2;" for at in range(0, size, 4)
    )


def arrays(size, lanes=32):
    source = RNG.integers(1, 255, (lanes, size), np.uint8)
    return {"a": source, "b": emulator.Output(np.zeros_like(source))}


@pytest.mark.parametrize(("caching", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
@pytest.mark.parametrize("wait", ["wait_group 0", "wait_all"])
def test_sizes(caching, size, wait):
    given = arrays(size)
    body = start(size) + f"cp.async.{caching}.shared.global.L2::128B [%r1], [%a], {size};"
    run(body + f"cp.async.commit_group; cp.async.{wait};" + read_back(size), given, MODULE)
    assert np.array_equal(given["a"], given["b"].array)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_the_rest_is_filled_with_zeros(size):
    given = arrays(size)
    body = start(size) + f"min.u32 %r3, %tid, {size}; cp.async.ca.shared.global [%r1], [%a], {size}, %r3;"
    run(body + "cp.async.wait_all;" + read_back(size), given, MODULE)
    wanted = given["a"].copy()
    for lane in range(32):
        wanted[lane, lane:] = 0
    assert np.array_equal(given["b"].array, wanted)


def test_what_is_not_copied_is_not_touched():
    given = {"a": RNG.integers(1, 255, 20, np.uint8), "b": emulator.Output(np.zeros((2, 16), np.uint8))}
    body = start(16) + "mul.lo.u32 %r3, %tid, 12; sub.u32 %r3, 16, %r3;\n"
    copy = "cp.async.cg.shared.global [%r1], [%a], 16, %r3;"
    run(body + copy + "cp.async.wait_all;" + read_back(16), given, MODULE, block=2)
    assert given["b"].array.reshape(-1).tolist() == [*given["a"].tolist(), *[0] * 12]
    fault(MemoryAccessError, body + "add.u32 %r3, %r3, 1;\n min.u32 %r3, %r3, 16;\n" + copy, given, MODULE,
          block=2, instruction="cp.async.cg")  # fmt: skip
    run(start(16) + "mov.u64 %rd1, 16; cp.async.cg.shared.global [%r1], [%rd1], 16, 0; cp.async.wait_all;"
        + read_back(16), given, MODULE, block=2)  # fmt: skip
    assert not given["b"].array.any()


def test_groups_arrive_in_order():
    """wait_group 1 leaves the newest of three groups in flight."""
    three = start(4) + "".join(
        f"cp.async.ca.shared.global [%r1+{128 * n}], [%a+{128 * n}], 4; cp.async.commit_group;"
        for n in range(3)
    )
    given = {
        "a": RNG.integers(1, 255, (3, 32, 4), np.uint8),
        "b": emulator.Output(np.zeros((3, 32, 4), np.uint8)),
    }

    def read(n):
        return f"ld.shared.u32 %r2, [%r1+{128 * n}]; st.global.u32 [%b+{128 * n}], %r2;\n"

    run(
        three + "cp.async.wait_group 1;" + read(0) + read(1) + "cp.async.wait_group 0;" + read(2),
        given,
        MODULE,
    )
    assert np.array_equal(given["a"], given["b"].array)
    fault(UninitializedReadError, three + "cp.async.wait_group 1;\n" + read(2), given, MODULE,
          instruction="ld.shared.u32 %r2, [%r1+256];")  # fmt: skip
    fault(
        UninitializedReadError,
        three + "cp.async.wait_group 2;\n" + read(1),
        given,
        MODULE,
        instruction="ld.shared",
    )
    run(three + "cp.async.wait_group 2;" + read(0), given, MODULE)
    uncommitted = start(4) + "cp.async.ca.shared.global [%r1], [%a], 4;\n cp.async.wait_group 0;\n"
    fault(UninitializedReadError, uncommitted + read(0), given, MODULE, instruction="ld.shared")
    run(start(4) + "cp.async.ca.shared.global [%r1], [%a], 4; cp.async.wait_all;" + read(0), given, MODULE)


def test_the_data_is_there_after_the_wait_and_not_before():
    given = arrays(4)
    body = start(4) + "cp.async.ca.shared.global [%r1], [%a], 4; cp.async.commit_group;\n"
    error = fault(UninitializedReadError, body + read_back(4), given, MODULE, instruction="ld.shared")
    assert "asynchronous copy" in str(error)
    assert (error.at.thread, error.at.address) == (0, 0)
    fault(AsyncHazardError, body + "st.shared.u32 [%r1], 0;", given, MODULE, instruction="st.shared")
    again = body + "st.shared.u32 [%r1+512], 0;\n ld.shared.u32 %r2, [%r1+512];"
    run(again, given, MODULE)


def test_another_threads_copy_needs_a_barrier():
    """A thread's wait covers its own copies alone."""
    given = arrays(4, 64)
    body = (
        start(4)
        + """
    xor.b32 %r4, %tid, 32;
    setp.lt.u32 %p1, %tid, 32;
    mov.u32 %r5, tile;
    mad.lo.u32 %r5, %r4, 4, %r5;
    cp.async.ca.shared.global [%r1], [%a], 4;
    cp.async.wait_all;
    {}
    ld.shared.u32 %r2, [%r5];
    st.global.u32 [%b], %r2;
"""
    )
    run(body.format("bar.sync 0;"), given, MODULE, block=64, races=True)
    assert np.array_equal(given["b"].array, np.roll(given["a"], 32, 0))
    late = body.replace("cp.async.wait_all;", "@%p1 cp.async.wait_all;")
    fault(
        UninitializedReadError, late.format("bar.sync 0;"), given, MODULE, block=64, instruction="ld.shared"
    )


def test_faults_of_addresses():
    given = arrays(16)
    fault(MemoryAccessError, start(16) + "\n cp.async.cg.shared.global [%r1+8], [%a], 16;", given, MODULE,
          instruction="cp.async.cg")  # fmt: skip
    fault(MemoryAccessError, start(16) + "\n cp.async.cg.shared.global [%r1], [%a+8], 16;", given, MODULE,
          instruction="cp.async.cg")  # fmt: skip
    fault(MemoryAccessError, start(16) + "\n cp.async.cg.shared.global [%r1], [%a+512], 16;", given, MODULE,
          instruction="cp.async.cg")  # fmt: skip
    fault(MemoryAccessError, start(16) + "\n cp.async.cg.shared.global [%r1+2048], [%a], 16;", given, MODULE,
          instruction="cp.async.cg")  # fmt: skip
    fault(UninitializedReadError, start(16) + "\n cp.async.cg.shared.global [%r1], [%b], 16;", given, MODULE,
          instruction="cp.async.cg")  # fmt: skip


@pytest.mark.parametrize(
    "instruction",
    ["cp.async.cg.shared.global [%r1], [%rd1], 8;", "cp.async.ca.shared.global [%r1], [%rd1], 2;",
     "cp.async.ca.shared.global [%r1], [%rd1], 4, %p1;",     "cp.async.wait_group %r1;",
          "cp.sync [%r1], [%rd1];"],
)  # fmt: skip
def test_refused(instruction):
    fault(UnsupportedPtxError, "\n" + instruction, module=MODULE, instruction=instruction)
