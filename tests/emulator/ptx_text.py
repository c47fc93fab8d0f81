"""Small kernels in PTX: some instructions, with loads of inputs before and stores of results after them."""

import numpy as np
import pytest

from flashactor import emulator

REGISTERS = """
    .reg .pred %p<16>;
    .reg .b16 %h<16>;
    .reg .b32 %r<32>;
    .reg .b64 %rd<16>;
    .reg .f32 %f<32>;
    .reg .f64 %fd<8>;
"""
THREAD = """
    mov.u32 %me, %ctaid.x;
    mov.u32 %many, %ntid.x;
    mov.u32 %tid, %tid.x;
    mad.lo.u32 %me, %me, %many, %tid;
"""


def kernel(body, parameters="", module="", directives=""):
    """A PTX text with one entry ``k``; ``%me`` numbers the threads of the grid, ``%tid`` those of a block."""
    return f""".version 8.7
.target sm_90a
.address_size 64
{module}
.visible .entry k({parameters}) {directives}
{{
    .reg .b32 %me, %many, %tid;
{REGISTERS}{THREAD}{body}
    ret;
}}
"""


def pointers(*names):
    """Pointer parameters, and their loads into registers ``%<name>``."""
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    loads = "".join(f"    .reg .b64 %{name};\n    ld.param.u64 %{name}, [{name}];\n" for name in names)
    return parameters, loads


def run(body, arrays=None, module="", directives="", grid=1, block=32, **options):
    """Launch a body with pointers ``%<name>`` to arrays, by name; the arrays hold the results."""
    arrays = arrays or {}
    parameters, loads = pointers(*arrays)
    text = kernel(loads + body, parameters, module, directives)
    return emulator.launch(text, "k", grid, block, list(arrays.values()), **options)


def fault(error, body, arrays=None, module="", instruction=None, **options):
    """The error that a launch raises; its PTX line is that of ``instruction``, if one is given."""
    parameters, loads = pointers(*(arrays or {}))
    text = kernel(loads + body, parameters, module)
    with pytest.raises(error) as caught:
        run(body, arrays, module, **options)
    assert type(caught.value) is error
    if instruction is not None:
        lines = [number for number, line in enumerate(text.split("\n"), 1) if instruction in line]
        assert caught.value.at.ptx_line in lines, (caught.value, lines)
        assert instruction.rstrip(";") in caught.value.at.instruction
    return caught.value


_CLASS = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}
_SIZE = {"pred": 4, "f16x2": 4, "bf16x2": 4, "bf16": 2, "e4m3x2": 2, "e5m2x2": 2, "f32x2": 8}


def _size(type_):
    return _SIZE.get(type_) or int(type_[1:]) // 8


def compute(body, results, *inputs, block=None, module="", **options):
    """Run a body once for each element of its inputs.

    Inputs are in ``%x0``, ``%x1``, ...; an array of bools in predicates. what it leaves in ``%y0``, ...,
    registers of the types ``results``, is returned as unsigned integers, floats where the type is f32 or f64,
    and bools for ``pred``.
    """
    types = results.split()
    inputs = [np.atleast_1d(np.asarray(values)) for values in inputs]
    count = len(inputs[0]) if inputs else 32
    block = block or min(count, 128)
    padded = -(-count // block) * block
    text, arrays = [], []
    for number, values in enumerate(inputs):
        size = values.dtype.itemsize
        arrays.append(np.resize(values.view(f"u{size}"), padded))
        text.append(f"ld.param.u64 %rd15, [x{number}]; mad.wide.u32 %rd15, %me, {size}, %rd15;")
        if values.dtype == bool:
            text.append(
                f".reg .pred %x{number}; ld.global.u8 %r31, [%rd15]; setp.ne.u32 %x{number}, %r31, 0;"
            )
        else:
            kind = f"f{8 * size}" if values.dtype.kind == "f" and size > 2 else _CLASS[size]
            text.append(f".reg .{kind} %x{number}; ld.global.u{8 * size} %x{number}, [%rd15];")
    after, outputs = [], []
    for number, type_ in enumerate(types):
        size = _size(type_)
        kind = type_ if type_ in ("pred", "f32", "f64") else _CLASS[size]
        text.append(f".reg .{kind} %y{number};")
        outputs.append(np.zeros(padded, f"u{size}"))
        after.append(f"ld.param.u64 %rd15, [y{number}]; mad.wide.u32 %rd15, %me, {size}, %rd15;")
        value = f"%y{number}"
        if type_ == "pred":
            after.append(f"selp.u32 %r31, 1, 0, {value};")
            value = "%r31"
        after.append(f"st.global.u{8 * size} [%rd15], {value};")
    names = [f"x{n}" for n in range(len(arrays))] + [f"y{n}" for n in range(len(outputs))]
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    emulator.launch(
        kernel("\n".join([*text, body, *after]), parameters, module),
        "k",
        padded // block,
        block,
        [*arrays, *map(emulator.Output, outputs)],
        **options,
    )
    decoded = [_decoded(values[:count], type_) for values, type_ in zip(outputs, types, strict=True)]
    return decoded[0] if len(decoded) == 1 else decoded


def _decoded(values, type_):
    if type_ == "pred":
        return values != 0
    return values.view(f"f{_size(type_)}") if type_ in ("f32", "f64") else values


def signed(values):
    """Unsigned integers as signed ones of the same width, as a list of Python ints."""
    return values.view(values.dtype.str.replace("u", "i")).tolist()
