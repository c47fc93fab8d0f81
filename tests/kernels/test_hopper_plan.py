"""What a plan on Hopper depends on, and what it does not."""

from itertools import product

import numpy as np
import pytest
from hopper_plan_tools import fa3, main_of, on_hopper, packed, paged
from plan_tools import dense, ints

from flashactor import SmArch
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.sm90 import HOPPER_PARAMS
from flashactor.kernels.sm90_forward import SM90


def test_lengths_and_pages_are_read_on_the_device_alone():
    """What a captured graph replays: new contents of the same arrays change nothing in the plan."""

    def blanked(request):
        step, values = main_of(request)
        pointers = {name for name, kind in HOPPER_PARAMS.fields if kind == "pointer"}
        return step.spec, step.grid, step.tensor_maps, {n: values[n] for n in values if n not in pointers}

    tables = np.zeros((2, 3), np.int32), np.full((2, 3), 8, np.int32)
    plans = [blanked(paged(table=table, lens=ints(*n))) for table in tables for n in ((40, 33), (1, 48))]
    assert all(other == plans[0] for other in plans)
    fixed = {"max_seqlen_q": 70, "max_seqlen_k": 90}
    lengths = product(((30, 70), (70, 30)), ((50, 70), (90, 30)))
    plans = [blanked(packed(lengths_q=q, lengths_k=k, **fixed)) for q, k in lengths]
    assert all(other == plans[0] for other in plans)


@pytest.mark.parametrize("make", [dense, packed, paged, fa3], ids=lambda make: make.__name__)
def test_a_plan_is_a_pure_function(make):
    request = make()
    assert on_hopper(request) == on_hopper(request)


@pytest.mark.parametrize("others", [0, 1, 7, 300])
def test_invariant_plans_do_not_know_the_batch(others):
    def cut(batch):
        shape = forward_shape(dense(batch, 1, 9000, batch_invariant=True), SmArch.SM90A, SM90)
        return shape.spec, shape.pack, shape.q_tiles, shape.num_splits, shape.blocks_per_split

    assert cut(1 + others) == cut(1)
