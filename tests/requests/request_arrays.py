"""Arguments of correct requests, for tests that replace some of them."""

from dataclasses import replace

import ml_dtypes
import numpy as np

from flashactor import ChunkLayout
from flashactor.arrays import ArrayView, Device

BF16 = ml_dtypes.bfloat16


def zeros(*shape, dtype=BF16):
    return np.zeros(shape, dtype)


def ints(*values):
    return np.array(values, np.int32)


def dense(**changes):
    """Arguments of a correct dense request, some of them replaced."""
    arrays = {"q": zeros(2, 5, 8, 64), "k": zeros(2, 7, 2, 64), "v": zeros(2, 7, 2, 64)}
    return {**arrays, **changes}


def on_device(arguments):
    """The arguments with every array as one of a device, whose values the host cannot read."""
    return {
        name: replace(ArrayView.of(value, name), device=Device("cuda", 0), array=None)
        if isinstance(value, np.ndarray)
        else value
        for name, value in arguments.items()
    }


def backward(**changes):
    arrays = {
        **dense(),
        "dout": zeros(2, 5, 8, 64),
        "out": zeros(2, 5, 8, 64),
        "lse": zeros(2, 8, 5, dtype=np.float32),
    }
    return {**arrays, **changes}


def fp8(**changes):
    e4m3 = {name: zeros(1, 4, 2, 64, dtype=ml_dtypes.float8_e4m3fn) for name in "qkv"}
    return {**e4m3, **changes}


def packed(**changes):
    arrays = {
        "q": zeros(10, 8, 64),
        "k": zeros(12, 2, 64),
        "v": zeros(12, 2, 64),
        "cu_seqlens_q": ints(0, 4, 4, 10),
        "cu_seqlens_k": ints(0, 5, 6, 12),
    }
    return {**arrays, **changes}


def paged(**changes):
    arrays = {
        "q": zeros(2, 1, 8, 64),
        "k_cache": zeros(10, 16, 2, 64),
        "v_cache": zeros(10, 16, 2, 64),
        "page_table": ints(3, 1, 9, 2).reshape(2, 2),
        "seq_lens": ints(20, 16),
    }
    return {**arrays, **changes}


def chunked(**changes):
    arrays = {
        "q": zeros(2, 4, 8, 64),
        "k": zeros(2, 4, 2, 64),
        "v": zeros(2, 4, 2, 64),
        "k_cache": zeros(2, 16, 2, 64),
        "v_cache": zeros(2, 16, 2, 64),
        "chunk": ChunkLayout(4, 12, 4, 3),
    }
    return {**arrays, **changes}


def merge(**changes):
    out, lse = zeros(2, 5, 8, 64), zeros(2, 8, 5, dtype=np.float32)
    return {"out_a": out, "lse_a": lse, "out_b": out.copy(), "lse_b": lse.copy(), **changes}


POOLS = {name: zeros(10, 8, 2, 64) for name in ("k_cache", "v_cache")}
