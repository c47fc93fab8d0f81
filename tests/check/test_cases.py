"""The cases: each runs its kernel, on arrays with poison where no element lies."""

import numpy as np
import pytest

from flashactor.check.cases import cases_of
from flashactor.check.covering import covering_specs
from flashactor.check.layouts import Layout, placed, unwritten_lse
from flashactor.check.pages import (
    BEFORE_POOL,
    NO_PAGE,
    PAGE_SIZES,
    out_of_the_pool,
    page_table,
    poison_unused,
)
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.forward import forward_shape
from flashactor.kernels.plan import kernels_of
from flashactor.kernels.select import family_of
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm90 import CONSUMER_ROWS, hopper_spec
from flashactor.kernels.sm90_forward import SM90
from flashactor.requests import ChunkedPrefillRequest, Fa3FwdRequest, PagedAttentionRequest, VarlenFwdRequest
from flashactor.requests.pages import BLOCK_SIZES
from flashactor.types import DType, MaskKind, SmArch

# A backward case computes its forward pass: those of the others are enough here, see test_every_kernel.
SPECS = [spec for spec in covering_specs(all_specs()) if not spec.kind.startswith("bwd")]


def requests_of(spec):
    return {case.name: case.request() for case in cases_of(spec)}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.label)
def test_every_case_runs_its_kernel(spec):
    for name, request in requests_of(spec).items():
        assert spec in kernels_of(request, spec.arch, family_of(spec)), name


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.label)
def test_a_case_can_be_named(spec):
    cases = cases_of(spec)
    assert len({case.name for case in cases}) == len(cases) >= 8
    assert any(case.whole_tiles for case in cases)
    assert any(case.every_schedule for case in cases)


def test_a_request_is_made_anew_each_time_with_the_same_values():
    case = cases_of(forward_spec(SmArch.SM80, DType.BF16, 64))[1]
    first, second = case.request().arrays(), case.request().arrays()
    assert all(first[name].pointer != second[name].pointer for name in first)
    for name in ("q", "k", "v"):
        np.testing.assert_array_equal(first[name].to_numpy(), second[name].to_numpy())


@pytest.mark.parametrize("decode", [False, True])
def test_every_feature_is_met_by_some_case(decode):
    dense = requests_of(forward_spec(SmArch.SM80, DType.BF16, 64, decode=decode)).values()
    masks = {(r.mask.window_left >= 0, r.mask.window_right) for r in dense}
    assert {(False, -1), (False, 0), (True, 0), (True, 3)} <= masks
    assert any(r.sink_tokens and r.mask.is_causal for r in dense)
    assert any(r.sink_tokens and not r.mask.is_causal for r in dense)
    assert any("sink_logits" in r.arrays() for r in dense)
    assert any(r.batch_invariant for r in dense)
    assert any(r.head_dim_v != r.head_dim for r in dense)
    packed = [r for r in dense if isinstance(r, VarlenFwdRequest)]
    lengths = [np.diff(r.arrays()["cu_seqlens_k"].to_numpy()) for r in packed]
    assert any((length == 0).any() for length in lengths)
    assert any("seqused_q" in r.arrays() for r in packed)
    assert any(isinstance(r, ChunkedPrefillRequest) for r in dense)


def test_pages_are_of_every_kind():
    paged = [
        r
        for r in requests_of(forward_spec(SmArch.SM80, DType.F16, 64, paged=True)).values()
        if isinstance(r, PagedAttentionRequest)
    ]
    assert {r.cache.block_size for r in paged} == set(PAGE_SIZES) == set(BLOCK_SIZES)
    assert {r.pages.layout.value for r in paged} == {"NHD", "HND"}
    assert {r.guard for r in paged} == {False, True}
    assert {r.varlen for r in paged} == {False, True}


@pytest.mark.parametrize("decode", [False, True])
def test_hopper_cases_meet_what_the_family_is_made_of(decode):
    spec = hopper_spec(DType.BF16, 128, decode=decode)
    requests = requests_of(spec).values()
    ratios = {r.gqa_ratio for r in requests}
    assert {3, 4, 7} <= ratios  # 64 rows are no multiple of three and of seven heads
    assert max(ratios) >= CONSUMER_ROWS
    paged = [r for r in requests if isinstance(r, PagedAttentionRequest)]
    assert {8, 16, 64, 256} <= {r.cache.block_size for r in paged}
    assert {r.pages.layout.value for r in paged} == {"NHD", "HND"}
    assert {r.guard for r in paged} == {r.varlen for r in paged} == {False, True}
    resident = [r for r in requests if isinstance(r, Fa3FwdRequest)]
    assert all(forward_shape(r, spec.arch, SM90).tiles > r.persistent.num_sms for r in resident)
    assert {r.persistent.num_sms for r in resident} == {1, 2}
    shapes = [forward_shape(r, spec.arch, SM90) for r in requests]
    assert any(shape.num_splits > 1 for shape in shapes)
    blocks = [-(-shape.extent.seqlen_k // spec.tile.n) for shape in shapes if shape.num_splits == 1]
    assert max(blocks) > 2 * spec.stages  # phases turn twice


def test_kernels_without_a_mask_have_cases_without_one_and_those_with_one_the_rest():
    full = hopper_spec(DType.F16, 128, full=True)
    assert "full" in full.features
    requests = requests_of(full).values()
    assert all(r.mask == MaskKind.full() and not r.paged for r in requests)
    masked = requests_of(full.for_masks).values()
    assert all(r.mask != MaskKind.full() or r.paged for r in masked)


@pytest.mark.parametrize("name", ["used lengths", "packed"])
def test_what_lies_behind_the_keys_of_a_sequence_is_no_number(name):
    request = requests_of(hopper_spec(DType.BF16, 64))[name]
    arrays = {view: request.arrays()[view].to_numpy() for view in ("q", "k", "v", "cu_seqlens_k")}
    begins, ends = arrays["cu_seqlens_k"][:-1], arrays["cu_seqlens_k"][1:]
    if name == "used lengths":
        begins = begins + request.arrays()["seqused_k"].to_numpy()
    else:
        begins, ends = ends[-1:], [len(arrays["k"])]
    for begin, end in zip(begins, ends, strict=True):
        assert end > begin
        for values in (arrays["k"], arrays["v"]):
            assert np.isnan(values[begin:end].astype(np.float32)).all()


def test_fp8_caches_have_both_types_and_every_form_of_scale():
    spec = forward_spec(SmArch.SM80, DType.BF16, 64, fp8_kv=True)
    requests = list(requests_of(spec).values())
    assert {r.kv_dtype for r in requests} == {DType.F8E4M3, DType.F8E5M2}
    for name in ("k_scale", "v_scale"):
        sizes = {getattr(getattr(r, name), "size", 0) for r in requests}
        assert sizes >= {0, 1, 2}


@pytest.mark.parametrize("layout", Layout)
def test_memory_that_no_element_lies_in_is_poison(layout):
    values = np.arange(48, dtype=np.float16).reshape(2, 3, 1, 8)
    array = placed(values, layout)
    np.testing.assert_array_equal(array, values)
    root = array
    while root.base is not None:
        root = root.base
    assert np.isnan(root).sum() == root.size - values.size
    assert (root.size > values.size) is (layout is Layout.PADDED)


def test_a_strided_lse_has_the_heads_of_a_row_beside_each_other():
    assert unwritten_lse((2, 3, 5), strided=True).strides == (60, 4, 12)
    assert unwritten_lse((2, 3, 5), strided=False).strides == (60, 20, 4)


def test_page_tables_hold_each_page_once_and_poison_elsewhere():
    lengths = (20, 0, 8)
    table, pool = page_table(lengths, 8, np.random.default_rng(0))
    used = table[table != NO_PAGE]
    assert (table == NO_PAGE).sum(1).tolist() == [1, 4, 3]
    assert len(set(used)) == used.size == 4
    assert used.max() < pool
    values = np.zeros((pool, 8, 1, 8), np.float16)
    poison_unused(values, table, lengths)
    assert np.isnan(values).sum() == (pool * 8 - sum(lengths)) * 8
    wrong = out_of_the_pool(table, lengths, 8, pool)
    assert wrong[0].tolist() == [BEFORE_POOL, table[0, 1], pool, NO_PAGE]
    assert (wrong[1:] == table[1:]).all()
