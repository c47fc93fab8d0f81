"""The launch plan: the grid covers every tile of queries once, the parameters carry what the kernel reads."""

import math
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashactor import DType, SmArch
from flashactor.arrays import HOST, ArrayView
from flashactor.errors import LaunchError
from flashactor.kernels.launch import plan_forward
from flashactor.kernels.params import FWD_PARAMS
from flashactor.kernels.sm80 import forward_spec

SPEC = forward_spec(SmArch.SM80, DType.BF16, 64, causal=True)


def view(shape, pointer=0x1000, dtype="bfloat16", strides=None):
    if strides is None:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return ArrayView(tuple(shape), tuple(strides), dtype, HOST, pointer, "none", array=None)


def plan(batch, seqlen_q, seqlen_k, heads_q, heads_kv, spec=SPEC, head_dim=64, scale=0.125):
    return plan_forward(
        spec,
        view((batch, seqlen_q, heads_q, head_dim), 0x1000),
        view((batch, seqlen_k, heads_kv, head_dim), 0x2000),
        view((batch, seqlen_k, heads_kv, head_dim), 0x3000),
        view((batch, seqlen_q, heads_q, head_dim), 0x4000),
        view((batch, heads_q, seqlen_q), 0x5000, "float32"),
        scale,
    )


def unpack(params):
    kinds = "".join(
        {"pointer": "Q", "i64": "q", "int": "i", "float": "f"}[kind] for _, kind in FWD_PARAMS.fields
    )
    names = [name for name, _ in FWD_PARAMS.fields]
    return dict(zip(names, struct.unpack(f"<{kinds}", params), strict=True))


def find_work(block, params, causal, tile_m):
    """find_work() of fwd.cu, in Python."""
    sequence_head, tile = divmod(block, params["q_tiles"])
    batch, head = divmod(sequence_head, params["heads_q"])
    return batch, head, (params["q_tiles"] - 1 - tile if causal else tile) * tile_m


def test_the_mirror_of_find_work_is_what_the_kernel_does():
    source = (Path(__file__).resolve().parents[2] / "kernels_cu/sm80/fwd.cu").read_text()
    body = re.search(r"Work find_work\(.*?\n\}", source, re.DOTALL)[0]
    for line in (
        "sequence_head = blockIdx.x / p.q_tiles;",
        "tile = blockIdx.x % p.q_tiles;",
        "batch = sequence_head / p.heads_q;",
        "head = sequence_head % p.heads_q;",
        "(C::kCausal ? p.q_tiles - 1 - tile : tile) * C::kTileM",
    ):
        assert line in body


@given(
    batch=st.integers(1, 5),
    seqlen_q=st.integers(1, 700),
    heads_kv=st.integers(1, 3),
    gqa_ratio=st.integers(1, 4),
    causal=st.booleans(),
)
def test_every_tile_of_queries_is_computed_once(batch, seqlen_q, heads_kv, gqa_ratio, causal):
    heads_q = heads_kv * gqa_ratio
    spec = forward_spec(SmArch.SM80, DType.F16, 64, causal)
    launch = plan(batch, seqlen_q, 33, heads_q, heads_kv, spec)
    params = unpack(launch.params)
    found = [find_work(block, params, causal, spec.tile_m) for block in range(launch.grid[0])]
    rows = {(b, h, row) for b, h, first in found for row in range(first, min(first + spec.tile_m, seqlen_q))}
    assert len(found) == len(set(found))
    assert len(rows) == batch * heads_q * seqlen_q
    assert max(row for _, _, row in rows) == seqlen_q - 1


def test_the_longest_rows_of_a_causal_head_come_first():
    launch = plan(1, 1000, 1000, 1, 1)
    rows = [find_work(block, unpack(launch.params), True, 128)[2] for block in range(launch.grid[0])]
    assert rows == sorted(rows, reverse=True)


def test_parameters():
    values = unpack(plan(2, 100, 120, 8, 2, scale=0.25).params)
    assert [values[name] for name in ("q", "k", "v", "out", "lse")] == [
        0x1000,
        0x2000,
        0x3000,
        0x4000,
        0x5000,
    ]
    assert [values[f"q_stride_{axis}"] for axis in ("batch", "row", "head")] == [51200, 512, 64]
    assert [values[f"k_stride_{axis}"] for axis in ("batch", "row", "head")] == [15360, 128, 64]
    assert [values[f"lse_stride_{axis}"] for axis in ("batch", "head", "row")] == [800, 100, 1]
    assert [values[n] for n in ("seqlen_q", "seqlen_k", "heads_q", "gqa_ratio", "head_dim", "q_tiles")] == [
        100,
        120,
        8,
        4,
        64,
        1,
    ]
    assert values["scale_log2"] == pytest.approx(0.25 / math.log(2))


def test_strides_beyond_32_bits_arrive_whole():
    big = 2**33
    q = view((2, 4, 1, 64), strides=(big, 2 * big, 3 * big, 1))
    small = view((2, 4, 1, 64))
    launch = plan_forward(SPEC, q, small, small, small, view((2, 1, 4), dtype="float32"), 1.0)
    values = unpack(launch.params)
    assert [values[f"q_stride_{axis}"] for axis in ("batch", "row", "head")] == [big, 2 * big, 3 * big]


def test_block_and_shared_memory_are_the_specs():
    launch = plan(1, 1, 1, 1, 1)
    assert launch.block == (SPEC.threads, 1, 1)
    assert launch.shared_bytes == SPEC.shared_bytes
    assert launch.grid == (1, 1, 1)


def test_a_batch_beyond_65535_fits_the_grid():
    assert plan(100_000, 1, 1, 4, 4).grid == (400_000, 1, 1)


def test_a_grid_that_no_device_has():
    with pytest.raises(LaunchError, match="split the batch"):
        plan(2**24, 1, 1, 128, 1)
