"""Requests over fp8 operands with scales: dense forward passes of both generations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, Unpack

from flashactor.arrays import ArrayView
from flashactor.dispatch import DispatchKey
from flashactor.errors import OperandError, RequestError
from flashactor.requests.base import INFERRED, RequestOptions, merge_fields
from flashactor.requests.dense import DenseFwdRequest, dense_operands
from flashactor.requests.fa3 import Fa3FwdRequest
from flashactor.requests.scaled import ScaledKvRequest, view_scale
from flashactor.types import DType, SmArch


@dataclass(frozen=True)
class Fa2FwdFp8Request(ScaledKvRequest, DenseFwdRequest):
    """A forward pass on fp8 operands with descales: ``q * q_scale`` is the real q, and so on.

    Every architecture with fp8 tensor cores runs it: sm_89 and newer.

    Attributes:
        kv_dtype: element type of k; default: that of q.
        v_dtype: element type of v; default: that of k.
        out_dtype: element type of out, bf16 or f16.
        q_scale, k_scale, v_scale: descales; a number, or a float32 array of one element, or of one for each
            head: ``[heads_q]`` of q, ``[heads_kv]`` of k and v. An array's values must be finite and those of
            q and k not negative, which is checked where the host can read them.
    """

    v_dtype: DType = field(default=INFERRED, kw_only=True)
    out_dtype: DType = field(default=DType.BF16, kw_only=True)
    q_scale: float | ArrayView = field(default=1.0, kw_only=True)

    TAKES_FP8: ClassVar[bool] = True
    DEFAULT_ARCH: ClassVar[SmArch] = SmArch.SM89

    def __post_init__(self) -> None:
        self._settle_kv_dtype("v_dtype", self.dtype if self.kv_dtype is None else self.kv_dtype)
        self._settle_scale("q_scale")
        if self.out_dtype not in (DType.BF16, DType.F16):
            raise RequestError(
                field="out_dtype",
                got=self.out_dtype,
                expected="DType.BF16 or DType.F16",
                remedy="take a 16-bit output, and quantise it where that is needed",
            )
        super().__post_init__()

    @property
    def fp8_dtypes(self) -> tuple[DType, DType]:
        """(type of q, type of k)."""
        return self.dtype, self.kv_dtype

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key, name = super()._resolve(arch)
        return key, name if self.v_dtype is self.kv_dtype else f"{name}_v_{self.v_dtype.tag}"

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
        out_dtype: DType | None = None,
        alibi_slopes: Any = None,
        sink_logits: Any = None,
        out: Any = None,
        lse: Any = None,
        workspace: Any = None,
        **options: Unpack[RequestOptions],
    ) -> Self:
        """A request for the attention of fp8 arrays; shapes as for Fa2FwdRequest, out is bf16 or f16.

        Args:
            q, k, v: e4m3 or e5m2, each its own: ``[batch, seqlen_q, heads_q, head_dim]`` and
                ``[batch, seqlen_k, heads_kv, head_dim]``; v's head_dim, which is out's, may be another.
            q_scale, k_scale, v_scale: descales; a number, or a float32 array on q's device: one element, or
                ``[heads_q]`` for q and ``[heads_kv]`` for k and v.
            out_dtype: type of out where it is allocated: bf16 (default) or f16.
            out: bf16 or f16.
            The rest as in Fa2FwdRequest.from_arrays.

        Raises:
            OperandError: which array is off, and how; RequestError, DispatchError: an option.
        """
        views = dense_operands(
            cls,
            q,
            k,
            v,
            alibi_slopes=alibi_slopes,
            sink_logits=sink_logits,
            out=out,
            lse=lse,
            workspace=workspace,
        )
        given = out_dtype if views.out is None else DType.parse(views.out.dtype)
        if out_dtype not in (None, given):
            raise OperandError(
                field="out_dtype",
                got=out_dtype,
                expected=f"{given}, the type of out",
                remedy="drop out_dtype from the call, or pass an out of this type",
            )
        heads_q, heads_kv = views.q.shape[-2], views.k.shape[-2]
        return cls(
            **merge_fields(views, options),
            kv_dtype=DType.parse(views.k.dtype),
            v_dtype=DType.parse(views.v.dtype),
            out_dtype=given or DType.BF16,
            q_scale=view_scale("q_scale", q_scale, heads=heads_q, like=views.q),
            k_scale=view_scale("k_scale", k_scale, heads=heads_kv, like=views.q),
            v_scale=view_scale("v_scale", v_scale, heads=heads_kv, like=views.q),
        )


@dataclass(frozen=True)
class Fa3FwdFp8Request(Fa2FwdFp8Request, Fa3FwdRequest):
    """A forward pass of the FlashAttention-3 generation on fp8 operands; fields as in Fa2FwdFp8Request."""

    DEFAULT_ARCH: ClassVar[SmArch] = Fa3FwdRequest.DEFAULT_ARCH
