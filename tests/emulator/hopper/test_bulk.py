"""cp.async.bulk, cp.reduce.async.bulk and bulk groups (PTX ISA, section 9.7.9.25.4)."""

import ml_dtypes
import numpy as np
import pytest
from bulk_text import INIT, WAIT, launch, words
from ptx_text import kernel

from flashactor import emulator
from flashactor.emulator.translate.translator import translate
from flashactor.errors import (
    AsyncHazardError,
    BarrierError,
    DataRaceError,
    DeadlockError,
    MemoryAccessError,
    UninitializedReadError,
    UnsupportedPtxError,
)

EXPECT = "@%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256;"
LOAD = """
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [memory], [%a], 256, [bar];
"""
FENCE = "fence.proxy.async.shared::cta;\n bar.sync 0;"
STORE = "@%first cp.async.bulk.global.shared::cta.bulk_group [%out], [memory], 256;"
COMMIT = "@%first cp.async.bulk.commit_group;"
DONE = "@%first cp.async.bulk.wait_group 0;"
READ = "@%first cp.async.bulk.wait_group.read 0;"
FILL, TAKE = words(64, "a", "shared", "fill"), words(64, "shared", "out", "take")


def go(*statements, a=None, out=None, **options):
    """Run statements with 64 words of input and of output."""
    a = np.arange(64, dtype=np.uint32) if a is None else a
    out = np.zeros(64, np.uint32) if out is None else out
    launch("\n".join(statements), {"a": a, "out": out}, emulator.Memory(), **options)
    return out


def test_a_load_and_a_store():
    want = np.arange(64)
    np.testing.assert_array_equal(go(INIT, EXPECT, LOAD, WAIT, TAKE, schedule="all"), want)
    np.testing.assert_array_equal(go(FILL, FENCE, STORE, COMMIT, DONE, schedule="all"), want)
    np.testing.assert_array_equal(go(FILL, FENCE, STORE, COMMIT, READ, schedule="all"), want)
    # What a bulk copy wrote, a bulk copy may read without a fence.
    np.testing.assert_array_equal(go(INIT, EXPECT, LOAD, WAIT, STORE, COMMIT, DONE, schedule="all"), want)


def test_bytes_may_be_expected_after_the_copy_began():
    np.testing.assert_array_equal(go(INIT, LOAD, EXPECT, WAIT, TAKE, schedule="all"), np.arange(64))


def test_a_thread_that_only_asks_waits_too():
    ask = WAIT.replace("try_wait", "test_wait")
    np.testing.assert_array_equal(go(INIT, EXPECT, LOAD, ask, TAKE, schedule="all"), np.arange(64))
    with pytest.raises(DeadlockError, match="ask without end"):
        go(INIT, EXPECT.replace("256", "512"), LOAD, ask, TAKE)


def test_two_loads_on_one_barrier():
    half = LOAD.replace("256", "128")
    other = half.replace("[memory]", "[memory+128]").replace("[%a]", "[%a+128]")
    np.testing.assert_array_equal(go(INIT, EXPECT, half, other, WAIT, TAKE, schedule="all"), np.arange(64))


TYPES = {
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "f64": np.float64,
    "b32": np.uint32,
    "b64": np.uint64,
}
OPERATIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@pytest.mark.parametrize(
    ("operation", "type_"),
    [
        ("add", "u32"),
        ("add", "s32"),
        ("add", "u64"),
        ("add.noftz", "f16"),
        ("add.noftz", "bf16"),
        ("add", "f32"),
        ("add", "f64"),
        ("min", "s32"),
        ("min", "u64"),
        ("max", "s64"),
        ("max", "f16"),
        ("min", "bf16"),
        ("and", "b32"),
        ("or", "b64"),
        ("xor", "b32"),
    ],
)
def test_reductions(operation, type_):
    rng = np.random.default_rng(2)
    name = operation.split(".")[0]
    low = -50 if type_[0] in "sbf" and type_[-2:] != "32b" and name not in ("and", "or", "xor") else 0
    low = 0 if type_[0] == "u" else low
    a, out = (
        rng.integers(low, 50, 256 // np.dtype(TYPES[type_]).itemsize).astype(TYPES[type_]) for _ in range(2)
    )
    want = OPERATIONS[name](out, a)
    store = STORE.replace("cp.async", "cp.reduce.async").replace(
        "bulk_group", f"bulk_group.{operation}.{type_}"
    )
    go(FILL, FENCE, store, COMMIT, DONE, a=a.view(np.uint32), out=out.view(np.uint32))
    np.testing.assert_array_equal(out, want)


def test_increments_wrap():
    out = np.arange(64, dtype=np.uint32) % 7
    want = np.where(out >= 4, 0, out + 1)
    store = STORE.replace("cp.async", "cp.reduce.async").replace("bulk_group", "bulk_group.inc.u32")
    go(FILL, FENCE, store, COMMIT, DONE, a=np.full(64, 4, np.uint32), out=out)
    np.testing.assert_array_equal(out, want)


def test_groups_are_waited_for_oldest_first():
    """Two groups read two places; the first may be written again when one group is left."""
    second = STORE.replace("[memory]", "[memory+256]").replace("[%out]", "[%out+256]")
    fill = words(128, "a", "shared", "fill")
    wait = "@%first cp.async.bulk.wait_group.read 1;"
    again = "@%first st.shared.u32 [memory{}], 7;"
    begin = [fill, FENCE, STORE, COMMIT, second, COMMIT, wait]
    a = np.arange(128, dtype=np.uint32)
    for schedule in ("min", "max", "random"):
        out = go(*begin, again.format(""), DONE, a=a, out=np.zeros(128, np.uint32), schedule=schedule)
        np.testing.assert_array_equal(out, np.arange(128))
        with pytest.raises(AsyncHazardError):
            go(*begin, again.format("+256"), DONE, a=a, out=np.zeros(128, np.uint32), schedule=schedule)


READ_ANYWAY = "ld.shared.u32 %word, [memory];"
WRITE_AGAIN = "@%first st.shared.u32 [memory+128], 7;"
OTHERS_WRITE = "bar.sync 0; @!%first st.shared.u32 [memory+128], 7;"
INVALIDATE = "@%first mbarrier.inval.shared::cta.b64 [bar]; @%first mbarrier.init.shared::cta.b64 [bar], 1;"

FAULTS = {
    "a read before the wait": ([INIT, EXPECT, LOAD, READ_ANYWAY, WAIT], UninitializedReadError),
    "a write before the wait": ([INIT, EXPECT, LOAD, WRITE_AGAIN, WAIT], AsyncHazardError),
    "two loads to one place": (
        [INIT, EXPECT, EXPECT.replace("arrive.expect", "expect").replace("_, ", ""), LOAD, LOAD, WAIT],
        AsyncHazardError,
    ),
    "a store of a place that is loaded": (
        [INIT, EXPECT, LOAD, STORE, COMMIT, WAIT, DONE],
        UninitializedReadError,
    ),
    "a barrier that the copy may not see": (
        [INIT.replace("@%first fence.mbarrier_init.release.cluster;", ""), EXPECT, LOAD, WAIT],
        AsyncHazardError,
    ),
    "a barrier that is not there": ([LOAD], BarrierError),
    "a barrier that goes away": ([INIT, LOAD, "@%first mbarrier.inval.shared::cta.b64 [bar];"], BarrierError),
    "more bytes than expected": ([INIT, EXPECT.replace("256", "128"), LOAD, WAIT], DeadlockError),
    "a load over what threads stored": ([INIT, FILL, "bar.sync 0;", EXPECT, LOAD, WAIT], AsyncHazardError),
    "a load over what others read": (
        [INIT, FILL, FENCE, "@!%first ld.shared.u32 %word, [memory+8];", EXPECT, LOAD, WAIT],
        DataRaceError,
    ),
    "a store without a proxy fence": ([FILL, "bar.sync 0;", STORE, COMMIT, DONE], AsyncHazardError),
    "a store behind a fence of global memory": (
        [FILL, "fence.proxy.async.global; bar.sync 0;", STORE, COMMIT, DONE],
        AsyncHazardError,
    ),
    "a store without a barrier": ([FILL, "fence.proxy.async;", STORE, COMMIT, DONE], DataRaceError),
    "a store of what nobody wrote": ([STORE, COMMIT, DONE], UninitializedReadError),
    "a source written before it was read": (
        [FILL, FENCE, STORE, COMMIT, WRITE_AGAIN, DONE],
        AsyncHazardError,
    ),
    "a source written after an uncommitted wait": (
        [FILL, FENCE, STORE, DONE, WRITE_AGAIN, COMMIT, DONE],
        AsyncHazardError,
    ),
    "a source that a newer store reads": (
        [
            *(FILL, FENCE, STORE, COMMIT, STORE, COMMIT, DONE.replace("group 0", "group 1")),
            *("bar.sync 0; @!%first st.shared.u32 [memory+128], 7;", DONE),
        ],
        AsyncHazardError,
    ),
    "a source written without a barrier": (
        [FILL, FENCE, STORE, COMMIT, DONE, "@!%first st.shared.u32 [memory+128], 7;"],
        DataRaceError,
    ),
    "a wait of another thread": (
        [FILL, FENCE, STORE, COMMIT, "@!%first cp.async.bulk.wait_group 0;", OTHERS_WRITE, DONE],
        AsyncHazardError,
    ),
    "an end without a wait": ([FILL, FENCE, STORE, COMMIT], AsyncHazardError),
    "an end without a commit": ([FILL, FENCE, STORE, DONE], AsyncHazardError),
    "a misaligned destination": ([INIT, LOAD.replace("[memory]", "[memory+8]")], MemoryAccessError),
    "a misaligned source": ([INIT, LOAD.replace("[%a]", "[%a+4]")], MemoryAccessError),
    "a size that is no multiple of 16": ([INIT, LOAD.replace("256", "100")], MemoryAccessError),
    "no size": ([INIT, LOAD.replace("256", "0")], MemoryAccessError),
    "a load beyond the array": ([INIT, EXPECT, LOAD.replace("256", "272"), WAIT], MemoryAccessError),
    "a load before the array": ([INIT, EXPECT, LOAD.replace("[%a]", "[%a+-16]"), WAIT], MemoryAccessError),
    "a store beyond the array": (
        [words(128, "two", "shared", "fill"), FENCE, STORE.replace("256", "272"), COMMIT, DONE],
        MemoryAccessError,
    ),
    "a load beyond shared memory": ([INIT, LOAD.replace("[memory]", "[memory+65424]")], MemoryAccessError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    statements, error = FAULTS[name]
    arrays = {
        "a": np.arange(64, dtype=np.uint32),
        "out": np.zeros(64, np.uint32),
        "two": np.zeros(128, np.uint32),
    }
    for schedule in ("min", "max"):
        with pytest.raises(error) as caught:
            launch("\n".join(statements), arrays, emulator.Memory(), schedule=schedule)
        assert type(caught.value) is error


def test_two_blocks_must_not_store_to_one_place():
    from bulk_text import DECLARE
    from ptx_text import pointers

    parameters, loads = pointers("a", "out")
    text = kernel(DECLARE + loads + "\n".join([FILL, FENCE, STORE, COMMIT, DONE]), parameters)
    arguments = [np.zeros(64, np.uint32), np.zeros(64, np.uint32)]
    emulator.launch(text, "k", 1, 32, arguments, races=True)
    with pytest.raises(DataRaceError):
        emulator.launch(text, "k", 2, 32, arguments, races=True)
    reduced = text.replace("cp.async.bulk.global", "cp.reduce.async.bulk.global").replace(
        "bulk_group [", "bulk_group.add.u32 ["
    )
    arguments[0][:] = 3
    emulator.launch(reduced, "k", 5, 32, arguments, races=True)
    np.testing.assert_array_equal(arguments[1], 15)


@pytest.mark.parametrize(
    "statement",
    [
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [memory], [%to], 16, [bar];",
        "cp.async.bulk.shared::cluster.global [memory], [%place], 16, [bar];",
        "cp.async.bulk.global.shared::cta [%place], [memory], 16;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.xor.f32 [%place], [memory], 16;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u16 [%place], [memory], 16;",
        "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%place], [memory], 16, %word;",
    ],
)
def test_forms_that_are_not_known_are_refused(statement):
    from bulk_text import DECLARE

    with pytest.raises(UnsupportedPtxError):
        translate(kernel(DECLARE + statement), "k")


def test_a_prefetch_does_nothing():
    np.testing.assert_array_equal(
        go("cp.async.bulk.prefetch.L2.global [%a], 256;", FILL, FENCE, STORE, COMMIT, DONE), np.arange(64)
    )
