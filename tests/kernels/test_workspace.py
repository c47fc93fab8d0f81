"""Scratch memory: its parts are aligned, in order, and do not overlap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_tools import dense

from flashactor import SmArch, workspace_size
from flashactor.kernels.plan import workspace_of
from flashactor.kernels.select import choose_family
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.workspace import ALIGNMENT, Workspace


@given(sizes=st.lists(st.integers(0, 5000), max_size=6), base=st.integers(0, 2**20))
def test_parts_lie_apart_and_inside(sizes, base):
    workspace = Workspace({f"part {i}": size for i, size in enumerate(sizes)})
    found = workspace.addresses(base * 16)
    assert list(found) == list(workspace.parts)
    end = base * 16
    for name, address in found.items():
        assert address >= end
        assert (address - base * 16) % ALIGNMENT == 0
        end = address + workspace.parts[name]
    assert end <= base * 16 + workspace.size
    assert workspace.size < sum(sizes) + ALIGNMENT * (len(sizes) + 1)


def test_nothing_takes_nothing():
    assert Workspace({}).size == 0
    assert Workspace({}).addresses(0) == {}


@pytest.mark.parametrize("arch", SmArch)
def test_the_size_is_a_function_of_shapes_alone(arch):
    options = {"batch": 1, "seqlen_q": 1, "seqlen_k": 9000}
    first, second = dense(**options), dense(**options, softmax_scale=3.0)
    size = workspace_of(first, arch, choose_family(first, arch)).size
    assert workspace_size(first, arch) == workspace_size(second, arch) == size > 0
    assert workspace_size(dense(**{**options, "seqlen_k": 90}), arch) == 0


def test_partial_results_have_room():
    request = dense(batch=1, seqlen_q=3, seqlen_k=9000, batch_invariant=True)
    workspace = workspace_of(request, SmArch.SM80, SM80)
    splits, rows = 5, 3 * 8
    assert workspace.parts == {"partial_out": splits * rows * 64 * 4, "partial_lse": splits * rows * 4}
