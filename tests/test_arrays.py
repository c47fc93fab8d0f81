"""Views of arrays of every library: never a copy, and errors that name the argument."""

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
import torch

from flashactor.allocation import allocate
from flashactor.array_checks import check_array, check_vector_access
from flashactor.arrays import HOST, ArrayView, Device
from flashactor.errors import OperandError

NUMPY_TYPES = [
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    np.float32,
    np.float64,
    np.int32,
    np.int64,
]
TORCH_TYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
]


class CudaArray:
    """A device array as numba or an old cupy exports it; the pointer is made up."""

    def __init__(self, shape, typestr="<f2", strides=None, pointer=0x7F0000000000, read_only=False):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (pointer, read_only),
            "strides": strides,
            "version": 3,
        }


class DlpackDevice:
    """Exports itself from a device that is neither a CPU nor CUDA (10 is ROCm)."""

    def __dlpack_device__(self):
        return (10, 0)

    def __dlpack__(self, stream=None):
        return torch.zeros(2).__dlpack__()


@pytest.mark.parametrize("dtype", NUMPY_TYPES, ids=lambda t: np.dtype(t).name)
def test_numpy(dtype):
    array = np.zeros((3, 4, 8), dtype)[:, ::2]
    view = ArrayView.of(array, "q")
    assert (view.shape, view.strides) == ((3, 2, 8), (32, 16, 1))
    assert view.dtype == np.dtype(dtype).name
    assert (view.device, view.library) == (HOST, "numpy")
    assert view.pointer == array.ctypes.data
    assert view.to_numpy() is array


@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=str)
def test_torch(dtype):
    tensor = torch.zeros(3, 4, 8, dtype=dtype).transpose(0, 1)
    view = ArrayView.of(tensor, "q")
    assert (view.shape, view.strides) == (tuple(tensor.shape), tensor.stride())
    assert view.dtype == str(dtype).removeprefix("torch.")
    assert view.pointer == tensor.data_ptr()
    assert (view.device, view.library) == (HOST, "torch")


def test_torch_memory_is_shared_both_ways():
    tensor = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    memory = ArrayView.of(tensor[:, 1:, ::2], "q").to_numpy()
    np.testing.assert_array_equal(memory, tensor[:, 1:, ::2].numpy())
    memory[...] = -1
    assert (tensor[:, 1:, ::2] == -1).all()
    assert tensor[0, 0, 0] == 0


def test_a_tensor_that_requires_grad_is_viewed_without_a_copy():
    tensor = torch.ones(2, 8, requires_grad=True)
    assert ArrayView.of(tensor, "q").pointer == tensor.data_ptr()


def test_the_view_keeps_the_array_alive_and_then_lets_it_go():
    tensor = torch.ones(4, 8)
    gone = weakref.ref(tensor)
    memory = ArrayView.of(tensor, "q").to_numpy()
    del tensor
    gc.collect()
    assert gone() is not None
    assert memory.sum() == 32
    del memory
    gc.collect()
    assert gone() is None


def test_negative_strides():
    array = torch.arange(8, dtype=torch.float32).numpy()[::-1]
    view = ArrayView(
        array.shape, (-1,), "float32", HOST, array.ctypes.data, "none", array=object(), keep_alive=array
    )
    np.testing.assert_array_equal(view.to_numpy(), array)


def test_an_empty_array():
    assert ArrayView.of(torch.empty(0, 8), "q").to_numpy().shape == (0, 8)


def test_cuda_array_interface():
    view = ArrayView.of(CudaArray((2, 8), "<f4", strides=(64, 4)), "lse")
    assert (view.shape, view.strides, view.dtype) == ((2, 8), (16, 1), "float32")
    assert (view.device, view.pointer) == (Device("cuda", 0), 0x7F0000000000)
    assert ArrayView.of(CudaArray((2, 3, 8)), "q").strides == (24, 8, 1)
    assert not ArrayView.of(CudaArray((2, 8), read_only=True), "q").writable
    with pytest.raises(OperandError, match="host memory"):
        view.to_numpy()


@pytest.mark.parametrize(("exported", "handle"), [(None, 0), (1, 0), (2, 2), (0x55, 0x55)])
def test_the_stream_of_the_cuda_array_interface(exported, handle):
    array = CudaArray((2, 8))
    array.__cuda_array_interface__["stream"] = exported
    assert ArrayView.of(array, "q").stream == handle


def test_a_view_of_a_view_is_itself():
    view = ArrayView.of(np.zeros(4), "q")
    assert ArrayView.of(view, "k") is view


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1.0, 2.0], "q: got list"),
        ("q.npy", "q: got str"),
        (None, "q: got NoneType"),
        (np.zeros(4, np.complex64), r"q\.dtype: got complex64"),
        (np.array(["a"]), r"q\.dtype: got str"),
        (np.ma.masked_array([1.0], [True]), "q: got a masked array"),
        (np.array([object()]), r"q\.dtype: got object"),
        (np.zeros(4, ">f4"), "native byte order"),
        (torch.zeros(4, dtype=torch.bool), r"q\.dtype: got DLPack type"),
        (torch.zeros(4, 4).to_sparse(), "refuses DLPack export"),
        (DlpackDevice(), r"q\.device: got DLPack device type 10"),
        (CudaArray((4,), "<c8"), r"q\.dtype: got complex64"),
        (CudaArray((4,), "<f4", strides=(6,)), r"q\.strides: got \(6,\)"),
    ],
)
def test_what_is_no_operand(array, message):
    with pytest.raises(OperandError, match=message) as caught:
        ArrayView.of(array, "q")
    assert caught.value.remedy


def test_checks_name_the_argument():
    view = ArrayView.of(np.zeros((2, 8), np.float16), "k")
    assert check_array("k", view, rank=2, shape=(2, 8), dtypes=("float16",), device=HOST) is view
    for wrong, field in (
        ({"rank": 4}, "k.ndim"),
        ({"rank": (1, 3)}, "k.ndim"),
        ({"shape": (2, 9)}, "k.shape"),
        ({"dtypes": ("float32",)}, "k.dtype"),
        ({"device": Device("cuda", 1)}, "k.device"),
    ):
        with pytest.raises(OperandError) as caught:
            check_array("k", view, **wrong)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("array", "field"),
    [
        (np.zeros((2, 4, 16), np.float16)[..., ::2], "v.strides"),
        (np.zeros((2, 4, 12), np.float16)[..., :8], "v.strides"),
        (np.zeros((2, 4, 16), np.float16)[..., 1:9], "v.pointer"),
    ],
    ids=["last stride 2", "rows of 24 bytes", "address off by 2"],
)
def test_vector_access_needs_aligned_contiguous_rows(array, field):
    with pytest.raises(OperandError) as caught:
        check_vector_access("v", ArrayView.of(array, "v"))
    assert caught.value.field == field


def test_strides_of_single_rows_do_not_matter():
    array = np.lib.stride_tricks.as_strided(np.zeros(64, np.float16), (1, 1, 8), (2, 6, 2))
    check_vector_access("v", ArrayView.of(array, "v"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("array", [np.zeros(2, np.float16), torch.zeros(2)], ids=["numpy", "torch"])
def test_outputs_come_from_the_inputs_library(array, dtype):
    like = ArrayView.of(array, "q")
    made = allocate(like, (2, 3), dtype)
    view = ArrayView.of(made, "out")
    assert type(made) is type(array)
    assert (view.shape, view.dtype, view.device) == ((2, 3), dtype, HOST)


def test_a_library_that_cannot_be_asked():
    with pytest.raises(OperandError, match="pass out="):
        allocate(ArrayView.of(CudaArray((2, 8)), "q"), (2,), "float32")


def test_an_imagined_array_has_a_layout_and_no_memory():
    view = ArrayView.imagined((2**20, 3, 2**20, 64), "bfloat16")
    assert view.strides == (3 * 2**26, 2**26, 64, 1)
    assert (view.itemsize, view.size) == (2, 3 * 2**46)
    assert (view.on_host, view.writable, view.pointer, view.array) == (True, False, 0, None)
