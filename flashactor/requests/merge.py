"""Two attention states over the same queries become one: for a shared prefix, or keys spread over devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from flashactor.array_checks import check_array, check_vector_access
from flashactor.arrays import ArrayView
from flashactor.dispatch import DispatchKey
from flashactor.errors import MissingOperandsError, RequestError
from flashactor.requests import checks
from flashactor.requests.base import FULL_MASK, AttentionRequest
from flashactor.requests.operands import MergeOperands
from flashactor.types import DType, PositionBias, SmArch

_OF_NO_ATTENTION = {
    "gqa_ratio": 1,
    "mask": FULL_MASK,
    "bias": PositionBias.NONE,
    "sink_tokens": 0,
    "softmax_scale": None,
    "softcap": 0.0,
    "dropout_p": 0.0,
    "operands": None,
}


@dataclass(frozen=True)
class MergeStatesRequest(AttentionRequest):
    """The attention to the keys of two states, from their outputs and lse (FlashInfer, arXiv:2501.01005,
    2.2).

    lse is ``logaddexp(lse_a, lse_b)``, out the sum of each ``out_x * exp(lse_x - lse)``. A state whose lse is
    -inf counts nothing, whatever its out holds; where both are, out is 0 and lse -inf.

    Attributes:
        head_dim: elements of one head of the outputs.
        states: the arrays; None for a bare cell.

    Raises:
        RequestError: an option of attention, such as a mask, is set: it has been applied already.
    """

    states: MergeOperands | None = field(default=None, kw_only=True)

    IN_PLACE: ClassVar[tuple[tuple[str, str], ...]] = (
        *(("out", state) for state in ("out_a", "out_b")),
        *(("lse", state) for state in ("lse_a", "lse_b")),
    )

    def __post_init__(self) -> None:
        for name, default in _OF_NO_ATTENTION.items():
            if getattr(self, name) != default:
                raise RequestError(
                    field=name,
                    got=getattr(self, name),
                    expected=f"{default}: the states come from attention that is computed already",
                    remedy=f"give {name} to the requests that compute the states",
                )
        super().__post_init__()
        if self.head_dim_v != self.head_dim:
            raise RequestError(
                field="head_dim_v",
                got=self.head_dim_v,
                expected=f"{self.head_dim}, as head_dim",
                remedy="pass the outputs' head_dim as head_dim",
            )

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key, _ = super()._resolve(arch)
        return key, f"flashactor::merge<{self.dtype.tag}, {self.head_dim}>"

    def require_states(self) -> MergeOperands:
        """The arrays.

        Raises:
            MissingOperandsError: the request is a bare cell.
        """
        if self.states is None:
            raise MissingOperandsError(
                field="states",
                got=f"a bare {type(self).__name__}",
                expected="arrays, on an executor that computes",
                remedy=f"make it with {type(self).__name__}.from_arrays(...), or plan with explain()",
            )
        return self.states

    @classmethod
    def from_arrays(
        cls,
        out_a: Any,
        lse_a: Any,
        out_b: Any,
        lse_b: Any,
        *,
        out: Any = None,
        lse: Any = None,
        arch: SmArch | None = None,
        implementation: str | None = None,
    ) -> Self:
        """A request to merge two states.

        Args:
            out_a, out_b: f16 or bf16 ``[batch, seqlen, heads, head_dim]``, or packed ``[total, heads,
                head_dim]``.
            lse_a, lse_b: float32 ``[batch, heads, seqlen]``, or packed ``[heads, total]``.
            out, lse: like out_a and lse_a, written in place; allocated when absent. They may be a state's
                own out and lse, exactly, but share no memory with anything else.
            arch: architecture to compile for; None leaves it to the actor's device.
            implementation: name of the implementation that must run.

        Raises:
            OperandError, EmptyBatchError, ZeroSeqlenError: which array is off, and how;
            RequestError, DispatchError: an option.
        """
        first = ArrayView.of(out_a, "out_a")
        check_array("out_a", first, rank=(3, 4), dtypes=checks.SIXTEEN_BIT)
        check_vector_access("out_a", first)
        *batch, seqlen, heads, head_dim = first.shape
        for sequences in batch:
            checks.require_batch(sequences)
        checks.require_length("seqlen" if batch else "total", seqlen)
        checks.check_heads(heads, heads)
        lse_shape = (*batch, heads, seqlen)
        second = ArrayView.of(out_b, "out_b")
        check_array("out_b", second, shape=first.shape, dtypes=(first.dtype,), device=first.device)
        check_vector_access("out_b", second)
        lse_views = {}
        for name, array in (("lse_a", lse_a), ("lse_b", lse_b)):
            view = ArrayView.of(array, name)
            lse_views[name] = check_array(
                name, view, shape=lse_shape, dtypes=("float32",), device=first.device
            )
        out_view = lse_view = None
        if out is not None:
            out_view = checks.writable_view("out", out, like=first, shape=first.shape, dtypes=(first.dtype,))
            check_vector_access("out", out_view)
        if lse is not None:
            lse_view = checks.writable_view("lse", lse, like=first, shape=lse_shape, dtypes=("float32",))
        return cls(
            arch=arch,
            dtype=DType.parse(first.dtype),
            head_dim=head_dim,
            implementation=implementation,
            states=MergeOperands(out_a=first, out_b=second, out=out_view, lse=lse_view, **lse_views),
        )
