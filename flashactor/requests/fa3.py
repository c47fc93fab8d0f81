"""FlashAttention-3 requests (Shah et al. 2024, arXiv:2407.08608): Hopper and newer, 16-bit and fp8."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

from flashactor.arrays import ArrayView, check_array
from flashactor.dispatch import DispatchKey
from flashactor.errors import Fa3RequiresHopperError, Fp8MustUseFp8RequestError, RequestError
from flashactor.requests.base import RequestOptions, merge_fields, require_number, require_type
from flashactor.requests.dense import DenseFwdRequest, dense_operands
from flashactor.types import DType, PersistentMode, SmArch

GRID = PersistentMode.grid()


@dataclass(frozen=True)
class Fa3FwdRequest(DenseFwdRequest):
    """A forward pass of the FlashAttention-3 generation, f16 or bf16.

    Attributes:
        persistent: how tiles are spread over the device.
    """

    persistent: PersistentMode = GRID

    DEFAULT_ARCH: ClassVar[SmArch] = SmArch.SM90A

    def __post_init__(self) -> None:
        require_type("persistent", self.persistent, PersistentMode)
        super().__post_init__()

    @property
    def is_persistent(self) -> bool:
        """Whether blocks stay resident and take tiles."""
        return self.persistent.is_persistent

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key, name = super()._resolve(arch)
        if not key.arch.supports_fa3:
            raise Fa3RequiresHopperError(
                field="arch",
                got=key.arch.target,
                expected="sm_90a or sm_100a for a FlashAttention-3 request",
                remedy="use Fa2FwdRequest, which runs on every architecture",
            )
        return key, name


@dataclass(frozen=True)
class Fa3FwdFp8Request(Fa3FwdRequest):
    """A forward pass on fp8 operands with descales: ``q * q_scale`` is the real q, and so on.

    Attributes:
        kv_dtype: element type of k and v; default: that of q.
        q_scale, k_scale, v_scale: descale of a whole tensor, a number or a float32 array of one element.
    """

    kv_dtype: DType | None = field(default=None, kw_only=True)
    q_scale: float | ArrayView = field(default=1.0, kw_only=True)
    k_scale: float | ArrayView = field(default=1.0, kw_only=True)
    v_scale: float | ArrayView = field(default=1.0, kw_only=True)

    TAKES_FP8: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kv_dtype = self.dtype if self.kv_dtype is None else self.kv_dtype
        if not isinstance(kv_dtype, DType) or not kv_dtype.is_fp8:
            raise Fp8MustUseFp8RequestError(
                field="kv_dtype",
                got=kv_dtype,
                expected="DType.F8E4M3 or DType.F8E5M2",
                remedy="use Fa3FwdRequest or Fa2FwdRequest for 16-bit operands",
            )
        object.__setattr__(self, "kv_dtype", kv_dtype)
        for name in ("q_scale", "k_scale", "v_scale"):
            value = getattr(self, name)
            if not isinstance(value, ArrayView):
                object.__setattr__(self, name, require_number(name, value))
        super().__post_init__()

    @property
    def fp8_dtypes(self) -> tuple[DType, DType]:
        """(type of q, type of k and v)."""
        return self.dtype, self.kv_dtype or self.dtype

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key, name = super()._resolve(arch)
        _, kv_dtype = self.fp8_dtypes
        return key, name if kv_dtype is self.dtype else f"{name}_kv_{kv_dtype.tag}"

    @classmethod
    def from_arrays(
        cls,
        q: Any,
        k: Any,
        v: Any,
        *,
        q_scale: Any = 1.0,
        k_scale: Any = 1.0,
        v_scale: Any = 1.0,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request for the attention of fp8 arrays; shapes as for Fa3FwdRequest, out is bf16 or f16.

        Args:
            q: e4m3 or e5m2 ``[batch, seqlen_q, heads_q, head_dim]``.
            k, v: of one fp8 type, ``[batch, seqlen_k, heads_kv, head_dim]``.
            q_scale, k_scale, v_scale: descales; a number, or a float32 array of one element on q's device.
            out: bf16 (the default when absent) or f16, like q in shape.

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        views = dense_operands(cls, q, k, v, alibi_slopes, sink_logits, out, lse)
        if views.k.dtype != views.v.dtype:
            raise RequestError(
                field="v.dtype",
                got=views.v.dtype,
                expected=f"{views.k.dtype}, k's type",
                remedy="quantise k and v to one type",
            )
        return cls(
            **merge_fields(views, options),
            kv_dtype=DType.parse(views.k.dtype),
            q_scale=_descale("q_scale", q_scale, views.q),
            k_scale=_descale("k_scale", k_scale, views.q),
            v_scale=_descale("v_scale", v_scale, views.q),
        )


def _descale(name: str, value: Any, q: ArrayView) -> float | ArrayView:
    if isinstance(value, int | float):
        return float(value)
    view = ArrayView.of(value, name)
    check_array(name, view, rank=(0, 1), dtypes=("float32",), device=q.device)
    return check_array(name, view, shape=view.shape and (1,))
