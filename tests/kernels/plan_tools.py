"""Arrays without memory, requests over them, and parameters unpacked: what tests of plans share."""

import math
import struct

import numpy as np

from flashactor import Fa2FwdRequest, SmArch
from flashactor.arrays import HOST, ArrayView
from flashactor.executors.operands import _output_shapes
from flashactor.kernels.plan import plan
from flashactor.kernels.sm80_forward import SM80

FORMATS = {"pointer": "Q", "i64": "q", "int": "i", "u32": "I", "float": "f"}
SCRATCH = 0x70000


def view(shape, pointer=0x1000, dtype="bfloat16", strides=None):
    """An array that nobody reads."""
    if strides is None:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return ArrayView(tuple(shape), tuple(strides), dtype, HOST, pointer, "none", array=None)


def ints(*values):
    return np.array(values, np.int32)


def dense(batch=2, seqlen_q=100, seqlen_k=120, heads_q=8, heads_kv=2, head_dim=64, **options):
    """A dense forward request over arrays without memory."""
    return Fa2FwdRequest.from_arrays(
        options.pop("q", view((batch, seqlen_q, heads_q, head_dim), 0x1000)),
        options.pop("k", view((batch, seqlen_k, heads_kv, head_dim), 0x2000)),
        options.pop("v", view((batch, seqlen_k, heads_kv, head_dim), 0x3000)),
        **options,
    )


def planned(request, arch=SmArch.SM80, workspace=SCRATCH, family=SM80):
    """The launches of a request, with outputs at addresses of their own where it has none."""
    arrays = request.arrays()
    for name, (shape, dtype) in _output_shapes(request, arrays).items():
        arrays.setdefault(name, view(shape, 0x40000 if name == "out" else 0x50000, dtype))
    return plan(request, arch, family, arrays, workspace).launches


def unpack(params, layout):
    """The fields of a parameter struct by name."""
    names = [name for name, _ in layout.fields]
    return dict(
        zip(names, struct.unpack(f"<{''.join(FORMATS[k] for _, k in layout.fields)}", params), strict=True)
    )
