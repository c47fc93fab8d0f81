"""The tensor maps of a forward pass on Hopper."""

import math
from itertools import product

import pytest
from hopper_plan_tools import main_of, packed, paged
from plan_tools import SCRATCH, dense, ints, planned, view

from flashactor import DType, Fa2FwdFp8Request, SmArch, VarlenFwdRequest
from flashactor.emulator import Swizzle, encode_tiled
from flashactor.kernels.sm90 import DECODE_TILES, FULL_TILES, TILES
from flashactor.kernels.sm90_forward import SM90, tensor_map


def encodable(each):
    """Require a map that the driver takes."""
    swizzle = Swizzle(each.swizzle_bytes)
    encode_tiled(each.dtype, each.address, each.dims, each.strides, each.box, swizzle=swizzle)
    return each


def test_maps_of_dense_arrays():
    step, p = main_of(dense(2, 100, 120, head_dim=128))
    q, k, v, out = map(encodable, step.tensor_maps)
    assert [each.address for each in (q, k, v, out)] == [0x1000, 0x2000, 0x3000, 0x40000]
    assert {each.dtype for each in step.tensor_maps} == {"bfloat16"}
    assert (q.dims, q.strides) == ((128, 8, 100, 2), (256, 2048, 204800))
    assert (k.dims, k.strides) == ((128, 2, 120, 2), (256, 512, 61440))
    assert (p["pack"], q.box, out.box) == (4, (64, 4, 16, 1), (64, 4, 16, 1))
    assert k.box == v.box == (64, 1, step.spec.tile.n, 1)
    assert p["box_rows"] == step.spec.tile.n
    assert (out.dims, out.strides) == (q.dims, q.strides)


def test_maps_of_packed_arrays_have_one_entry():
    step, _ = main_of(packed())
    q, k, *_ = map(encodable, step.tensor_maps)
    assert (q.dims, q.strides[:2]) == ((64, 8, 100, 1), (128, 1024))
    assert (k.dims, k.strides[:2]) == ((64, 2, 120, 1), (128, 256))


@pytest.mark.parametrize("hnd", [False, True], ids=["NHD", "HND"])
def test_maps_of_pages_have_a_page_in_place_of_the_batch(hnd):
    step, _ = main_of(paged(page=32, hnd=hnd))
    k = encodable(step.tensor_maps[1])
    assert k.dims == (64, 2, 32, 9)
    assert k.strides == ((32 * 128, 128, 8192) if hnd else (128, 256, 8192))
    assert k.box == (64, 1, 32, 1)


def test_maps_of_strided_arrays_have_their_strides():
    q = view((2, 100, 8, 64), strides=(3 * 51200, 24, 100 * 512, 1))
    step, _ = main_of(dense(q=q))
    assert encodable(step.tensor_maps[0]).strides == (2 * 51200, 48, 6 * 51200)


def test_a_stride_that_means_nothing_is_one_that_a_map_may_have():
    odd = view((1, 1, 1, 64), strides=(3, 5, 7, 1))
    assert encodable(tensor_map(128, odd, 1, 64)).dims == (64, 1, 1, 1)
    step, _ = main_of(dense(1, 1, 1, 1, 1, q=odd, k=odd, v=odd))
    assert all(map(encodable, step.tensor_maps))


def test_without_a_query_nothing_is_launched():
    """Arrays without elements have no address in some libraries, and a map has to have one."""
    nowhere = view((0, 8, 64), pointer=0)
    request = VarlenFwdRequest.from_arrays(
        nowhere, *[view((120, 2, 64))] * 2, ints(0, 0, 0), ints(0, 50, 120)
    )
    assert planned(request, SmArch.SM90A, SCRATCH, SM90) == ()


def test_eight_bit_operands_have_slabs_of_128_elements():
    q, k = view((1, 300, 2, 96), dtype="float8_e4m3fn"), view((1, 300, 2, 96), 0x2000, "float8_e4m3fn")
    request = Fa2FwdFp8Request.from_arrays(q, k, k, arch=SmArch.SM90A)
    step, _ = main_of(request)
    q_map, k_map, _, out = map(encodable, step.tensor_maps)
    assert (q_map.dtype, k_map.dtype, out.dtype) == ("uint8", "uint8", "bfloat16")
    assert (q_map.box[0], out.box[0]) == (128, 64)
    assert q_map.strides[0] == 96


@pytest.mark.parametrize("table", [FULL_TILES, TILES, DECODE_TILES], ids=["full", "masked", "decode"])
def test_boxes_are_what_the_driver_and_the_swizzle_take(table):
    for row in table:
        assert row.tile.n <= 256
        assert row.tile.n % 16 == 0  # the depth of a product
    for page, hnd in product((8, 16, 32, 64, 128, 256), (False, True)):
        for seqlen_q, head_dim in product((1, 300), (64, 96, 128, 192, 256)):
            step, p = main_of(paged(page=page, hnd=hnd, seqlen_q=seqlen_q, head_dim=head_dim))
            box, tile_n = p["box_rows"], step.spec.tile.n
            assert all(map(encodable, step.tensor_maps))
            assert step.tensor_maps[1].box == (32 if head_dim == 96 else 64, 1, box, 1)
            assert box % 8 == tile_n % box == 0  # whole patterns of the swizzle
            for first_key in range(0, 4 * tile_n, box):  # wherever a block begins
                assert first_key // page == (first_key + box - 1) // page
            assert box == page or box == math.gcd(tile_n, 256) or box == math.gcd(tile_n, page)


def test_parameters_are_maps_and_then_the_struct():
    step, _ = main_of(dense())
    data = step.parameter(lambda each: each.address.to_bytes(128, "little"))
    assert data[:512] == b"".join(a.to_bytes(128, "little") for a in (0x1000, 0x2000, 0x3000, 0x40000))
    assert data[512:] == step.params
    assert len(data) % 64 == 0
    assert step.spec.dtype is DType.BF16
