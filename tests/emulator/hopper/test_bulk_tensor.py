"""cp.async.bulk.tensor in both directions, element by element (PTX ISA, sections 9.7.9.25.5 and 5.5)."""

import ml_dtypes
import numpy as np
import pytest
from bulk_text import INIT, WAIT, byte_of, element, encode, items_of, launch, padded, words
from ptx_text import kernel

from flashactor import emulator
from flashactor.emulator.translate.translator import translate
from flashactor.errors import (
    DeadlockError,
    LaunchError,
    MemoryAccessError,
    UninitializedReadError,
    UnsupportedPtxError,
)

NAMES = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "uint8": np.uint8,
    "int64": np.int64,
}
SWIZZLES = {
    0: emulator.Swizzle.NONE,
    32: emulator.Swizzle.B32,
    64: emulator.Swizzle.B64,
    128: emulator.Swizzle.B128,
}

# dtype, shape (dimension 0 last), box (dimension 0 first), origin, element strides, span of the swizzle
COPIES = {
    "rank 1": ("float32", (100,), (64,), (8,), (1,), 0),
    "rank 1, beyond the end": ("float32", (100,), (64,), (72,), (1,), 0),
    "rank 1, before the start": ("bfloat16", (100,), (64,), (-7,), (1,), 0),
    "rank 2": ("bfloat16", (30, 40), (16, 8), (3, 5), (1, 1), 0),
    "rank 2, a corner": ("float32", (10, 12), (8, 8), (8, 6), (1, 1), 0),
    "rank 2, the opposite corner": ("float32", (10, 12), (8, 8), (-3, -5), (1, 1), 0),
    "rank 2, all outside": ("float32", (10, 12), (8, 8), (40, -20), (1, 1), 0),
    "rank 3": ("uint8", (5, 6, 64), (32, 3, 4), (16, 2, 1), (1, 1, 1), 0),
    "rank 4": ("float16", (3, 4, 5, 24), (8, 3, 2, 3), (10, 3, 1, 1), (1, 1, 1, 1), 0),
    "rank 5": ("int64", (2, 3, 2, 3, 6), (4, 2, 2, 2, 2), (3, 1, -1, 2, 1), (1, 1, 1, 1, 1), 0),
    "swizzle 32": ("bfloat16", (40, 48), (16, 24), (8, 3), (1, 1), 32),
    "swizzle 64": ("bfloat16", (40, 48), (32, 24), (8, 30), (1, 1), 64),
    "swizzle 128": ("bfloat16", (40, 96), (64, 24), (40, -4), (1, 1), 128),
    "swizzle 128 of float32, rank 3": ("float32", (4, 9, 40), (32, 5, 3), (2, 1, 2), (1, 1, 1), 128),
    "swizzle 128 of bytes": ("uint8", (20, 200), (128, 16), (100, 8), (1, 1), 128),
    "steps": ("float32", (20, 12), (8, 9), (4, 2), (1, 2), 0),
    "steps that the driver ignores": ("float32", (20, 12), (8, 4), (4, 2), (3, 1), 0),
    "steps of rank 3, swizzled": ("bfloat16", (12, 20, 64), (64, 8, 6), (0, 3, 2), (1, 3, 4), 128),
    "steps beyond the end": ("float32", (6, 12), (8, 12), (8, 2), (1, 3), 0),
}


def prepared(case, **options):
    dtype, shape, box, origin, steps, span = COPIES[case]
    memory = emulator.Memory()
    tensor = padded(shape, NAMES[dtype])
    map_ = encode(memory, tensor, box, dtype, element_strides=steps, swizzle=SWIZZLES[span], **options)
    items = items_of(box, steps)
    places = [tuple(o + i for o, i in zip(origin, item, strict=True)) for item in items]
    return memory, tensor, map_, places, len(items) * tensor.itemsize


def coordinates(origin):
    return "{" + ", ".join(map(str, origin)) + "}"


def load(origin, size, to="memory", map_="%tensor"):
    return f"""
    @%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {size};
    @%first cp.async.bulk.tensor.{len(origin)}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
        [{to}], [{map_}, {coordinates(origin)}], [bar];
"""


def store(origin, operation=""):
    reduce = "cp.reduce" if operation else "cp"
    dot = f".{operation}" if operation else ""
    return f"""
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%first {reduce}.async.bulk.tensor.{len(origin)}d.global.shared::cta{dot}.tile.bulk_group
        [%tensor, {coordinates(origin)}], [memory];
    @%first cp.async.bulk.commit_group;
    @%first cp.async.bulk.wait_group 0;
"""


@pytest.mark.parametrize("fills_nan", [False, True])
@pytest.mark.parametrize("case", COPIES)
def test_loads(case, fills_nan):
    fills_nan = fills_nan and "float" in COPIES[case][0]
    memory, tensor, map_, places, size = prepared(case, fills_nan=fills_nan)
    out = np.zeros(size // 4, np.uint32)
    body = INIT + load(COPIES[case][3], size) + WAIT + words(size // 4, "shared", "out", "copy")
    launch(body, {"out": out}, memory, map_, schedule="all")
    got = out.view(tensor.dtype)
    item = tensor.itemsize
    for position, place in enumerate(places):
        index = element(tensor, place)
        value = got[byte_of(position, item, COPIES[case][5]) // item]
        if index is not None:
            assert value == tensor[index], (position, place)
        else:
            assert np.isnan(value.astype(float)) if fills_nan else value == 0, (position, place)


@pytest.mark.parametrize("case", COPIES)
def test_stores(case):
    memory, tensor, map_, places, size = prepared(case)
    item = tensor.itemsize
    box = np.zeros(size // item, tensor.dtype)
    want = tensor.copy()
    for position, place in enumerate(places):
        box[byte_of(position, item, COPIES[case][5]) // item] = position % 50 + 100
        if element(tensor, place) is not None:
            want[element(tensor, place)] = position % 50 + 100
    body = words(size // 4, "image", "shared", "fill") + store(COPIES[case][3])
    launch(body, {"image": box.view(np.uint32)}, memory, map_, schedule="all")
    np.testing.assert_array_equal(tensor, want)


def test_what_lies_outside_of_the_tensor_may_be_anything():
    case = "rank 1, beyond the end"  # 28 of 64 numbers are inside, and 32 are written
    memory, tensor, map_, _, size = prepared(case)
    box = np.arange(size // 4, dtype=np.float32)
    want = tensor.copy()
    want[72:] = box[:28]
    body = words(32, "image", "shared", "fill") + store(COPIES[case][3])
    launch(body, {"image": box.view(np.uint32)}, memory, map_)
    np.testing.assert_array_equal(tensor, want)
    memory, _, map_, _, _ = prepared(case)
    with pytest.raises(UninitializedReadError):
        launch(store(COPIES[case][3]), {}, memory, map_)


def test_stores_that_add():
    memory, tensor, map_, places, size = prepared("rank 2, a corner")
    box = np.arange(size // 4, dtype=np.float32)
    want = tensor.copy()
    for position, place in enumerate(places):
        if element(tensor, place) is not None:
            want[element(tensor, place)] += box[position]
    body = words(size // 4, "image", "shared", "fill") + store(COPIES["rank 2, a corner"][3], "add")
    launch(body, {"image": box.view(np.uint32)}, memory, map_)
    np.testing.assert_array_equal(tensor, want)


def test_a_map_in_global_memory():
    memory, tensor, map_, places, size = prepared("rank 2")
    copy = np.frombuffer(map_, np.uint8).copy()
    out = np.zeros(size // 4, np.uint32)
    body = INIT + "prefetch.tensormap [%maps];" + load(COPIES["rank 2"][3], size, map_="%maps") + WAIT
    launch(body + words(size // 4, "shared", "out", "copy"), {"maps": copy, "out": out}, memory)
    assert [float(x) for x in out.view(tensor.dtype)] == [float(tensor[element(tensor, p)]) for p in places]


@pytest.mark.parametrize(
    ("error", "words_", "change"),
    [
        (MemoryAccessError, "misaligned bulk tensor copy", {"to": "memory+64"}),
        (MemoryAccessError, "out of bounds of shared memory", {"to": "memory+65408"}),
        (MemoryAccessError, "no tensor map", {"origin": (3,)}),
        (MemoryAccessError, "no tensor map", {"map_": "%tensor+64"}),
        (DeadlockError, "every thread waits", {"more": 16}),
        (DeadlockError, "every thread waits", {"more": -16}),
    ],
)
def test_faults_of_loads(error, words_, change):
    memory, _, map_, _, size = prepared("rank 2")
    more = change.pop("more", 0)
    statement = load(**({"origin": (3, 5), "size": size + more} | change))
    with pytest.raises(error, match=words_):
        launch(INIT + statement + WAIT, {}, memory, map_)


def test_arrays_are_bounded():
    """A map that says more than the array holds, and an array that is an input."""
    memory = emulator.Memory()
    tensor = np.ones((4, 16), np.float32)
    address = memory.add(tensor, "tensor")
    map_ = emulator.encode_tiled("float32", address, (16, 9), (64,), (16, 8))
    with pytest.raises(MemoryAccessError, match="behind the end of tensor"):
        launch(INIT + load((0, 0), 512) + WAIT, {}, memory, map_)
    box = words(128, "image", "shared", "fill")
    with pytest.raises(MemoryAccessError, match="outside of every array"):
        launch(box + store((0, 0)), {"image": np.zeros(128, np.uint32)}, memory, map_)
    memory = emulator.Memory()
    tensor.flags.writeable = False
    map_ = encode(memory, tensor, (16, 4))
    with pytest.raises(MemoryAccessError, match="a bulk store to an input"):
        launch(box + store((0, 0)), {"image": np.zeros(128, np.uint32)}, memory, map_)


@pytest.mark.parametrize(
    "statement",
    [
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[memory], [%tensor, {1}], [bar];",
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile::gather4.mbarrier::complete_tx::bytes "
        "[memory], [%tensor, {1, 2}], [bar];",
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
        "[memory], [%tensor, {1, 2, 3}], [bar], {0};",
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[memory], [%tensor, {1, 2}], [bar], %word;",
        "cp.async.bulk.tensor.2d.global.shared::cta.tile [%tensor, {1, 2}], [memory];",
    ],
)
def test_forms_that_are_not_known_are_refused(statement):
    from bulk_text import DECLARE

    with pytest.raises(UnsupportedPtxError):
        translate(kernel(DECLARE + statement), "k")


GOOD = {"dtype": "float32", "address": 1 << 20, "dims": (64, 32), "strides": (256,), "box": (32, 8)}


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float8"},
        {"address": (1 << 20) + 8},
        {"address": 0},
        {"dims": (64,)},
        {"dims": (0, 32)},
        {"dims": (64, (1 << 32) + 1)},
        {"strides": (24,)},
        {"strides": (1 << 40,)},
        {"strides": (256, 256)},
        {"box": (32, 257)},
        {"box": (32, 0)},
        {"box": (3, 8)},
        {"box": (32, 8, 1)},
        {"element_strides": (1, 9)},
        {"element_strides": (0, 1)},
        {"swizzle": emulator.Swizzle.B64},
        {"dtype": "int32", "fills_nan": True},
        {"dims": (1,) * 6, "strides": (16,) * 5, "box": (4,) * 6},
        {"dims": (), "strides": (), "box": ()},
    ],
)
def test_maps_that_the_driver_refuses(change):
    emulator.encode_tiled(**GOOD)
    with pytest.raises(LaunchError):
        emulator.encode_tiled(**(GOOD | change))


def test_a_map_says_what_it_was_made_of():
    from flashactor.emulator.tensormap import decode

    data = emulator.encode_tiled(
        **GOOD, element_strides=(5, 3), swizzle=emulator.Swizzle.B128, fills_nan=True
    )
    assert len(data) == 128
    map_ = decode(data)
    assert (map_.address, map_.dims, map_.strides, map_.box) == (1 << 20, (64, 32), (256,), (32, 8))
    assert (map_.box_items, map_.box_bytes, map_.fills_nan) == ((32, 3), 384, True)
    assert decode(bytes(128)) is None
