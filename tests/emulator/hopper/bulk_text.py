"""Kernels of one bulk copy, and where the PTX ISA puts the bytes of a box in shared memory."""

import itertools

import numpy as np
from ptx_text import kernel, pointers
from wgmma_text import permuted

from flashactor import emulator

DECLARE = """
    .shared .align 1024 .b8 memory[65536];
    .shared .align 8 .b64 bar;
    .reg .pred %first, %done, %more;
    .reg .b32 %at, %word, %to;
    .reg .b64 %tensor, %wide, %place;
    setp.eq.u32 %first, %tid, 0;
"""
INIT = """
    @%first mbarrier.init.shared::cta.b64 [bar], 1;
    @%first fence.mbarrier_init.release.cluster;
    bar.sync 0;
"""
WAIT = """
wait:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [bar], 0;
    @!%done bra wait;
"""


def words(count, source, target, label):
    """A loop of 32 threads over words, from ``source`` to ``target``: ``shared`` or the name of a pointer."""
    load = "ld.shared.u32 %word, [%to];" if source == "shared" else "ld.global.u32 %word, [%place];"
    store = "st.shared.u32 [%to], %word;" if target == "shared" else "st.global.u32 [%place], %word;"
    pointer = target if source == "shared" else source
    return f"""
    mov.u32 %at, %tid;
{label}:
    mul.wide.u32 %wide, %at, 4;
    add.u64 %place, %{pointer}, %wide;
    mov.u32 %to, memory;
    mad.lo.u32 %to, %at, 4, %to;
    {load}
    {store}
    add.u32 %at, %at, 32;
    setp.lt.u32 %more, %at, {count};
    @%more bra {label};
"""


def launch(body, arrays, memory, map_=None, block=32, **options):
    """Launch a body with a tensor map as a ``__grid_constant__`` parameter, and pointers to arrays."""
    parameters, loads = pointers(*arrays)
    arguments = [memory.add(array, name) for name, array in arrays.items()]
    if map_ is not None:
        parameters = ", ".join(filter(None, [parameters, ".param .align 64 .b8 map[128]"]))
        loads += "    mov.b64 %wide, map;\n    cvta.param.u64 %tensor, %wide;\n"
        arguments.append(map_)
    text = kernel(DECLARE + loads + body, parameters)
    options = {"races": True} | options
    result = emulator.launch(text, "k", 1, block, arguments, memory=memory, **options)
    memory.copy_back()
    return result


def items_of(box, steps):
    """Offsets from its origin of the elements that a box moves, dimension 0 the fastest."""
    ranges = [range(0, extent, step) for extent, step in zip(box, (1, *steps[1:]), strict=True)]
    return [tuple(reversed(at)) for at in itertools.product(*reversed(ranges))]


def byte_of(position, item, span):
    """Where the byte ``position`` of a box lies in shared memory, after the swizzle."""
    if not span:
        return position * item
    line, byte = divmod(position * item, span)
    return line * span + permuted(byte // 16, line, span) * 16 + byte % 16


def element(tensor, at):
    """Element [x0, x1, ...] of a tensor whose last axis is dimension 0, or None outside of it."""
    index = tuple(reversed(at))
    if any(not 0 <= i < extent for i, extent in zip(index, tensor.shape, strict=True)):
        return None
    return index


def encode(memory, tensor, box, name="float32", **options):
    """The map of a tensor that is put into device memory: its last axis is dimension 0."""
    address = memory.add(tensor, "tensor", read_only=not tensor.flags.writeable)
    strides = tuple(reversed(tensor.strides))[1:]
    return emulator.encode_tiled(name, address, tuple(reversed(tensor.shape)), strides, box, **options)


def padded(shape, dtype, seed=3):
    """A tensor of small integers with a gap behind each of its rows; strides are multiples of 16."""
    item = np.dtype(dtype).itemsize
    row = -(-shape[-1] * item // 16) * 16 + 16
    raw = np.zeros((*shape[:-1], row // item), dtype)
    view = raw[..., : shape[-1]]
    view[...] = np.random.default_rng(seed).integers(1, 100, shape).astype(dtype)
    return view
