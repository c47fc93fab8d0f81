"""What all attention requests share: the cell of the dispatch table and the options of the softmax."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, TypedDict

from flashactor.arrays import ArrayView
from flashactor.dispatch import DispatchKey, check_head_dim, lookup
from flashactor.errors import (
    Fp8MustUseFp8RequestError,
    MissingOperandsError,
    RequestError,
)
from flashactor.overlaps import check_written
from flashactor.requests.operands import Operands, named_arrays
from flashactor.types import (
    Direction,
    DType,
    MaskKind,
    PersistentMode,
    PositionBias,
    SmArch,
    is_count,
    settle_counts,
)

FULL_MASK = MaskKind.full()
INFERRED: Any = None
"""Default of a field that takes its value from others at construction, so that readers never see None."""

# Where subclasses keep their arrays: in dataclasses of arrays, and in fields of their own.
_HOLDERS = ("operands", "gradients", "offsets", "pages", "append", "states")
_ARRAYS = ("cu_seqlens_q", "q_scale", "k_scale", "v_scale")


@dataclass(frozen=True)
class AttentionRequest:
    """One attention computation: a bare cell, or a cell with its arrays.

    Attributes:
        arch: architecture to compile for; None leaves it to the actor's device.
        dtype: element type of q.
        head_dim: elements of one head, a multiple of 8 from 8 to 256.
        gqa_ratio: query heads for each key/value head.
        mask: which keys a query sees.
        bias: ALiBi, or none.
        sink_tokens: leading keys that stay visible outside the window.
        softmax_scale: factor of q.k before the softmax; default ``1 / sqrt(head_dim)``.
        softcap: c > 0 replaces a score s by ``c * tanh(s / c)``; 0 leaves it.
        dropout_p: probability that an element of P is dropped (the rest is scaled by ``1 / (1 - p)``).
        dropout_seed, dropout_offset: state of Philox4x32-10, so that a backward pass repeats the mask.
        implementation: name of the implementation that must run; None lets the table choose.
        head_dim_v: elements of one head of v, out and their gradients, of the same rule; default: head_dim.
        batch_invariant: whether a sequence's result has the same bits whatever else is in the batch.
        operands: the arrays; None for a bare cell.

    Raises:
        RequestError, DispatchError: the first field that breaks a rule, at construction;
        OperandError: an array that is written shares memory with another, or with itself.
    """

    arch: SmArch | None
    dtype: DType
    head_dim: int
    gqa_ratio: int = 1
    mask: MaskKind = FULL_MASK
    bias: PositionBias = PositionBias.NONE
    sink_tokens: int = 0
    softmax_scale: float | None = None
    _: KW_ONLY
    softcap: float = 0.0
    dropout_p: float = 0.0
    dropout_seed: int = 0
    dropout_offset: int = 0
    implementation: str | None = None
    head_dim_v: int = INFERRED
    batch_invariant: bool = False
    operands: Operands | None = None

    DIRECTION: ClassVar[Direction] = Direction.FORWARD
    # Which architecture a request without one is planned for, on an executor without a device.
    DEFAULT_ARCH: ClassVar[SmArch] = SmArch.SM80
    TAKES_FP8: ClassVar[bool] = False
    VARLEN: ClassVar[bool] = False
    # Arrays that are written where the caller passes them, and (written, read) that may be one array.
    WRITES: ClassVar[tuple[str, ...]] = ("out", "lse", "workspace")
    IN_PLACE: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __post_init__(self) -> None:
        require_type("arch", self.arch, SmArch, optional=True)
        require_type("dtype", self.dtype, DType)
        require_type("mask", self.mask, MaskKind)
        require_type("bias", self.bias, PositionBias)
        counts = (self.head_dim, self.gqa_ratio, self.sink_tokens, self.mask.sliding_window or 0)
        if any(type(count) is not int for count in counts):
            # Names are cached by key, and 64.0 == 64: only here can a float still be told from an integer.
            if not is_count(self.sink_tokens, 0):
                raise number_error("sink_tokens", self.sink_tokens, "an integer of at least 0")
            self.dispatch_key().validate_fwd()
            settle_counts(self, "head_dim", "gqa_ratio", "sink_tokens")
        if self.head_dim_v is None:
            object.__setattr__(self, "head_dim_v", self.head_dim)
        elif type(self.head_dim_v) is not int or self.head_dim_v != self.head_dim:
            check_head_dim("head_dim_v", self.head_dim_v)  # where they are equal, the key's rule is enough
            settle_counts(self, "head_dim_v")
        require_type("batch_invariant", self.batch_invariant, bool)
        if self.dtype.is_fp8 is not self.TAKES_FP8:
            raise Fp8MustUseFp8RequestError(
                field="dtype",
                got=f"{self.dtype.tag} in {type(self).__name__}",
                expected="e4m3 or e5m2" if self.TAKES_FP8 else "f16 or bf16",
                remedy="use Fa2FwdFp8Request or Fa3FwdFp8Request for an fp8 q and only for that",
            )
        for name in ("softmax_scale", "softcap", "dropout_p"):
            value = getattr(self, name)
            if value is not None or name != "softmax_scale":
                object.__setattr__(self, name, require_number(name, value))
        if self.softmax_scale is not None:
            require_factor("softmax_scale", self.softmax_scale)
        if self.softcap != 0.0:
            require_factor("softcap", self.softcap, "0 (off), or ")
        if not 0.0 <= self.dropout_p < 1.0:
            raise number_error("dropout_p", self.dropout_p, "a probability of at least 0 and below 1")
        require_type("implementation", self.implementation, str, optional=True)
        for name in ("dropout_seed", "dropout_offset"):
            if not is_count(getattr(self, name), 0):
                raise number_error(name, getattr(self, name), "an integer of at least 0")
            settle_counts(self, name)
        check_written(self.arrays(), self.WRITES, self.IN_PLACE)
        # A frozen request resolves to the same key and name for ever, so the actor need not do it again.
        object.__setattr__(self, "_resolved", self._resolve(None))

    @property
    def scale(self) -> float:
        """``softmax_scale`` as a number, with its default applied."""
        return 1.0 / math.sqrt(self.head_dim) if self.softmax_scale is None else self.softmax_scale

    @property
    def varlen(self) -> bool:
        """Whether the sequences may differ in length: packed by cu_seqlens, or chunks in a cache."""
        return self.VARLEN

    @property
    def paged(self) -> bool:
        """Whether keys and values are gathered through a page table."""
        return False

    def dispatch_key(self, arch: SmArch | None = None) -> DispatchKey:
        """The cell of this request; ``arch`` fills in for a request that names none."""
        return DispatchKey(
            self.arch or arch or self.DEFAULT_ARCH,
            self.dtype,
            self.head_dim,
            self.mask.is_causal,
            self.varlen,
            self.mask.sliding_window,
            self.bias is PositionBias.ALIBI,
            self.sink_tokens,
            self.paged,
            self.gqa_ratio,
        )

    def resolve(self, arch: SmArch | None = None) -> tuple[DispatchKey, str]:
        """The key and the kernel's name on an architecture.

        Raises:
            DispatchError, RequestError: the request is impossible there.
        """
        if arch is None or self.arch is not None:
            resolved: tuple[DispatchKey, str] = self.__dict__["_resolved"]
            return resolved
        return self._resolve(arch)

    def _resolve(self, arch: SmArch | None) -> tuple[DispatchKey, str]:
        key = self.dispatch_key(arch)
        name = lookup(key, self.DIRECTION)
        if self.mask.right is not None:
            name += "_rinf" if self.mask.right == -1 else f"_r{self.mask.right}"
        return key, name if self.head_dim_v == self.head_dim else f"{name}_v{self.head_dim_v}"

    def kernel_name(self, arch: SmArch | None = None) -> str:
        """The kernel's name on an architecture; raises as ``resolve``."""
        return self.resolve(arch)[1]

    @property
    def memo(self) -> dict[Any, Any]:
        """What pure functions of this frozen request keep with it, by a key of theirs; no part of ``==``."""
        found: dict[Any, Any] = self.__dict__.setdefault("_memo", {})
        return found

    def arrays(self) -> dict[str, ArrayView]:
        """Every array of the request by its argument's name, absent ones left out; {} for a bare cell."""
        found: dict[str, ArrayView] = {}
        for name in _HOLDERS:
            found |= named_arrays(getattr(self, name, None))
        for name in _ARRAYS:
            value = getattr(self, name, None)
            if isinstance(value, ArrayView):
                found[name] = value
        return found

    def require_operands(self) -> Operands:
        """The arrays.

        Raises:
            MissingOperandsError: the request is a bare cell.
        """
        if self.operands is None:
            raise MissingOperandsError(
                field="operands",
                got=f"a bare {type(self).__name__}",
                expected="arrays, on an executor that computes",
                remedy=f"make it with {type(self).__name__}.from_arrays(...), or plan with explain()",
            )
        return self.operands


LEAST_FACTOR, MOST_FACTOR = 1e-18, 1e18
"""Limits of what scores are multiplied with: products and quotients of two such numbers are float32."""


def require_factor(name: str, value: float, otherwise: str = "") -> None:
    """Raises RequestError unless a number is positive and kernels can multiply scores with it."""
    if not LEAST_FACTOR <= value <= MOST_FACTOR:
        expected = f"{otherwise}a positive number from {LEAST_FACTOR:g} to {MOST_FACTOR:g}"
        raise number_error(name, value, expected)


def require_type(name: str, value: object, wanted: type, *, optional: bool = False) -> None:
    """Raises RequestError unless ``value`` is of a type (or None, if that is an option)."""
    if not isinstance(value, wanted) and not (optional and value is None):
        raise RequestError(
            field=name,
            got=repr(value),
            expected=f"a {wanted.__name__}",
            remedy=f"pass {name} as a {wanted.__name__}",
        )


def require_number(name: str, value: Any) -> float:
    """``value`` as a finite float.

    Raises:
        RequestError: it is none.
    """
    if getattr(value, "shape", ()) != ():
        raise number_error(name, repr(value), "a number")
    try:
        number = float(value)
    except OverflowError:
        raise number_error(name, "a number beyond float64", "a finite number") from None
    except (TypeError, ValueError, RuntimeError):  # the last one is of torch's tensors
        raise number_error(name, repr(value), "a number") from None
    if not math.isfinite(number):
        raise number_error(name, value, "a finite number")
    return number


def number_error(name: str, got: object, expected: str) -> RequestError:
    return RequestError(field=name, got=got, expected=expected, remedy=f"correct {name}")


class RequestOptions(TypedDict, total=False):
    """The fields of a request that its arrays do not imply."""

    arch: SmArch | None
    mask: MaskKind
    sink_tokens: int
    softmax_scale: float | None
    softcap: float
    dropout_p: float
    dropout_seed: int
    dropout_offset: int
    implementation: str | None
    batch_invariant: bool
    persistent: PersistentMode  # of Fa3 requests


def merge_fields(views: Operands, options: RequestOptions, heads_kv: int | None = None) -> dict[str, Any]:
    """The fields of a request: those that its operands imply, and the caller's options.

    Heads and head_dim are the last two dimensions of q and k; ``heads_kv`` is for caches that keep them
    elsewhere.

    Raises:
        RequestError: an option contradicts what the arrays imply.
    """
    implied: dict[str, Any] = {
        "dtype": DType.parse(views.q.dtype),
        "head_dim": views.q.shape[-1],
        "head_dim_v": views.v.shape[-1],
        "gqa_ratio": views.q.shape[-2] // (heads_kv or views.k.shape[-2]),
        "bias": PositionBias.NONE if views.alibi_slopes is None else PositionBias.ALIBI,
        "operands": views,
    }
    for name in implied.keys() & options.keys():
        raise RequestError(
            field=name,
            got="an option",
            expected="nothing: it follows from the arrays",
            remedy=f"drop {name} from the call",
        )
    return {"arch": None, **options, **implied}
