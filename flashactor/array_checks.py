"""What is asked of an array wherever one is taken: rank, shape, type, device, rows that kernels can load."""

from __future__ import annotations

from collections.abc import Sequence

from flashactor.arrays import ArrayView, Device
from flashactor.errors import OperandError


def check_array(
    name: str,
    view: ArrayView,
    *,
    rank: int | Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    dtypes: Sequence[str] | None = None,
    device: Device | None = None,
) -> ArrayView:
    """Return ``view`` if it has one of the ranks and dtypes, the shape and the device.

    Raises:
        OperandError: the first of them that does not hold; ``field`` is ``name`` and the property.
    """
    if rank is not None:
        ranks = (rank,) if isinstance(rank, int) else tuple(rank)
        if len(view.shape) not in ranks:
            raise OperandError(
                field=f"{name}.ndim",
                got=f"{len(view.shape)} (shape {view.shape})",
                expected=" or ".join(map(str, ranks)),
                remedy=f"reshape {name} to the layout that the request documents",
            )
    if shape is not None and view.shape != tuple(shape):
        raise OperandError(
            field=f"{name}.shape",
            got=view.shape,
            expected=str(tuple(shape)),
            remedy=f"give {name} the shape that follows from the other operands",
        )
    if dtypes is not None and view.dtype not in dtypes:
        raise OperandError(
            field=f"{name}.dtype",
            got=view.dtype,
            expected=" or ".join(dtypes),
            remedy=f"convert {name} before the request; flashactor never converts or copies",
        )
    if device is not None and view.device != device:
        raise OperandError(
            field=f"{name}.device",
            got=view.device,
            expected=str(device),
            remedy="put all operands of a request on one device",
        )
    return view


VECTOR_BYTES = 16
"""Kernels move 16-byte vectors, so rows of q, k, v and out start at multiples of this."""


def check_vector_access(name: str, view: ArrayView) -> ArrayView:
    """Return ``view`` if its last dimension is contiguous and every row starts at 16 bytes.

    Raises:
        OperandError: the stride or the address that is off.
    """
    if view.size == 0:  # nothing is moved, and NumPy's strides of empty arrays mean nothing
        return view
    if view.shape[-1] > 1 and view.strides[-1] != 1:
        raise OperandError(
            field=f"{name}.strides",
            got=f"{view.strides} (in elements)",
            expected="a last stride of 1",
            remedy=f"make head_dim the contiguous dimension of {name}",
        )
    if view.pointer % VECTOR_BYTES:
        raise OperandError(
            field=f"{name}.pointer",
            got=f"address {view.pointer:#x}",
            expected=f"a multiple of {VECTOR_BYTES} bytes",
            remedy=f"start {name} at an aligned element, or copy it",
        )
    for extent, stride in zip(view.shape[:-1], view.strides[:-1], strict=True):
        if extent > 1 and stride * view.itemsize % VECTOR_BYTES:
            raise OperandError(
                field=f"{name}.strides",
                got=f"{view.strides} (in elements)",
                expected=f"strides that are multiples of {VECTOR_BYTES // view.itemsize} elements",
                remedy=f"pad the rows of {name}, or copy it",
            )
    return view


def check_contiguous(name: str, view: ArrayView) -> ArrayView:
    """Return ``view`` if its last dimension is contiguous.

    Raises:
        OperandError: it is strided.
    """
    if view.shape[-1:] != (1,) and view.size and view.strides and view.strides[-1] != 1:
        raise OperandError(
            field=f"{name}.strides",
            got=f"{view.strides} (in elements)",
            expected="a last stride of 1",
            remedy=f"pass a contiguous {name}",
        )
    return view
