"""Requests whose keys and values may be fp8 with scales: what fp8 operands and fp8 caches share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from flashactor.array_checks import check_array
from flashactor.arrays import ArrayView
from flashactor.dispatch import DispatchKey
from flashactor.errors import Fp8MustUseFp8RequestError, OperandError, RequestError
from flashactor.requests.base import (
    INFERRED,
    LEAST_FACTOR,
    MOST_FACTOR,
    AttentionRequest,
    number_error,
    require_number,
    require_type,
)
from flashactor.requests.checks import EIGHT_BIT, view_operand
from flashactor.types import DType, SmArch


@dataclass(frozen=True)
class ScaledKvRequest(AttentionRequest):
    """A request whose k and v have a type of their own and descales: ``k * k_scale`` is the real k.

    Attributes:
        kv_dtype: element type of k (and of v, unless the request says otherwise); default: that of q.
        k_scale, v_scale: descales; a number, or a float32 array of one element or ``[heads_kv]``. Values on
            the host are checked: finite, and k's not negative in an array. Those on a device must obey, too.

    Raises:
        Fp8MustUseFp8RequestError, RequestError: k's type is neither q's nor an fp8 type, or a scale is off.
    """

    kv_dtype: DType = field(default=INFERRED, kw_only=True)
    k_scale: float | ArrayView = field(default=1.0, kw_only=True)
    v_scale: float | ArrayView = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        self._settle_kv_dtype("kv_dtype", self.dtype)
        self._settle_scale("k_scale")
        self._settle_scale("v_scale")
        super().__post_init__()

    def _settle_kv_dtype(self, name: str, default: DType) -> None:
        require_type("dtype", self.dtype, DType)
        dtype = getattr(self, name)
        if dtype is None:
            object.__setattr__(self, name, default)
        elif not isinstance(dtype, DType) or not (dtype is self.dtype or dtype.is_fp8):
            error_type = Fp8MustUseFp8RequestError if self.TAKES_FP8 else RequestError
            own = [] if self.dtype.is_fp8 else [self.dtype]
            raise error_type(
                field=name,
                got=dtype,
                expected=" or ".join(f"DType.{t.name}" for t in (*own, DType.F8E4M3, DType.F8E5M2)),
                remedy="quantise k and v to fp8, or use a request for 16-bit operands of one type",
            )

    def _settle_scale(self, name: str) -> None:
        value = getattr(self, name)
        is_array = isinstance(value, ArrayView)
        if not is_array:
            value = require_number(name, value)
            object.__setattr__(self, name, value)
        elif not value.on_host:
            return
        least = self._least_scale(name, is_array=is_array)
        for number in value.to_numpy().ravel().tolist() if is_array else (value,):
            if not least <= number <= MOST_FACTOR:
                raise number_error(name, number, f"a finite number from {least:g} to {MOST_FACTOR:g}")

    def _least_scale(self, name: str, *, is_array: bool) -> float:
        """The least descale; numbers may be negative, for each implementation says which of them it takes."""
        return 0.0 if is_array and name != "v_scale" else -MOST_FACTOR

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key, name = super()._resolve(arch)
        return key, name if self.kv_dtype is self.dtype else f"{name}_kv_{self.kv_dtype.tag}"


@dataclass(frozen=True)
class CachedKvRequest(ScaledKvRequest):
    """A request over a cache, which may be fp8 under a 16-bit q.

    Attributes:
        kv_dtype: element type of the cache; default: that of q.
        k_scale, v_scale: descales of an fp8 cache, from 1e-18 to 1e18, those on a device as well; 1 for a
            cache of 16-bit elements.
        guard: whether the device checks page indices, for tables that the host cannot check: the keys of a
            page outside the pool read as zeros. Without it such a page is undefined behaviour.

    Raises:
        RequestError: a scale that is not positive, or one for a cache that is not fp8.
    """

    guard: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        require_type("guard", self.guard, bool)
        super().__post_init__()
        for name in ("k_scale", "v_scale"):
            scale = getattr(self, name)
            if not self.kv_dtype.is_fp8 and (isinstance(scale, ArrayView) or scale != 1.0):
                raise RequestError(
                    field=name,
                    got="an array" if isinstance(scale, ArrayView) else scale,
                    expected=f"1 for a cache of {self.kv_dtype.tag}: scales are for fp8 caches",
                    remedy=f"drop {name}, or keep the cache in fp8",
                )

    def _least_scale(self, name: str, *, is_array: bool) -> float:
        return LEAST_FACTOR


def view_scale(name: str, value: Any, *, heads: int, like: ArrayView) -> float | ArrayView:
    """A descale for a request: a number, or a float32 view of one element or one for each of ``heads``.

    Raises:
        OperandError: an array of another shape, dtype or device.
    """
    if isinstance(value, Real):
        return require_number(name, value)
    view = ArrayView.of(value, name)
    check_array(name, view, dtypes=("float32",), device=like.device)
    if view.size != 1 and view.shape != (heads,):
        raise OperandError(
            field=f"{name}.shape",
            got=view.shape,
            expected=f"one element, or {(heads,)}",
            remedy=f"pass one {name} for the whole tensor, or one for each head",
        )
    return view


def view_cache(k_cache: Any, v_cache: Any, *, q: ArrayView) -> tuple[ArrayView, ArrayView]:
    """Both halves of a cache: rank 4, of q's type or one fp8 type, and alike but for the last dimension.

    Raises:
        OperandError: which cache is off, and how.
    """
    dtypes: Sequence[str] = (q.dtype, *EIGHT_BIT)
    k = view_operand("k_cache", k_cache, rank=4, dtypes=dtypes, device=q.device)
    v = view_operand("v_cache", v_cache, rank=4, dtypes=(k.dtype,), device=q.device)
    check_array("v_cache", v, shape=(*k.shape[:-1], v.shape[-1]))
    return k, v
