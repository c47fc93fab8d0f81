"""Plans on Hopper, and where its kernels find their rows: what tests of tiles, maps and plans share."""

import numpy as np
from plan_tools import SCRATCH, ints, planned, unpack, view

from flashactor import Fa3FwdRequest, KvLayout, PagedAttentionRequest, SmArch, VarlenFwdRequest
from flashactor.kernels.sm90 import HOPPER_PARAMS
from flashactor.kernels.sm90_forward import SM90


def on_hopper(request, workspace=SCRATCH):
    return planned(request, SmArch.SM90A, workspace, SM90)


def main_of(request):
    """(the main launch, its parameters by name)."""
    step = on_hopper(request)[0]
    return step, unpack(step.params, HOPPER_PARAMS)


def fa3(batch=2, seqlen=100, heads_q=8, heads_kv=2, head_dim=64, **options):
    q = view((batch, seqlen, heads_q, head_dim), 0x1000)
    k = view((batch, seqlen, heads_kv, head_dim), 0x2000)
    return Fa3FwdRequest.from_arrays(q, k, k, **options)


def paged(page=16, pages=9, hnd=False, seqlen_q=1, head_dim=64, **options):
    shape = (pages, 2, page, head_dim) if hnd else (pages, page, 2, head_dim)
    q, cache = view((2, seqlen_q, 8, head_dim)), view(shape, 0x2000)
    layout = KvLayout.HND if hnd else KvLayout.NHD
    table = options.pop("table", np.zeros((2, 3), np.int32))
    lens = options.pop("lens", ints(page, page))
    return PagedAttentionRequest.from_arrays(q, cache, cache, table, lens, layout=layout, **options)


def packed(lengths_q=(30, 70), lengths_k=(50, 70), ratio=4, **options):
    q = view((sum(lengths_q), 2 * ratio, 64), 0x1000)
    k = view((sum(lengths_k), 2, 64), 0x2000)
    offsets = (ints(0, *np.cumsum(lengths)) for lengths in (lengths_q, lengths_k))
    return VarlenFwdRequest.from_arrays(q, k, k, *offsets, **options)


def find_work(index, p, consumers):
    """find_work() of sm90/fwd_work.cuh, in Python: batch entry, first head, split, first row."""
    section, within = divmod(index, p["lines_together"] * p["q_tiles"])
    first_line = section * p["lines_together"]
    tile, line = divmod(within, min(p["lines"] - first_line, p["lines_together"]))
    sequence_head, split = divmod(first_line + line, p["num_splits"])
    batch, group = divmod(sequence_head, p["heads_q"] // p["pack"])
    return batch, group * p["pack"], split, (p["q_tiles"] - 1 - tile) * consumers * p["consumer_rows"]


def query_of(row, p):
    """PackedRows::query() of packed_rows.cuh, in Python."""
    return (2 * row * p["pack_multiplier"] >> 32) >> p["pack_shift"]
