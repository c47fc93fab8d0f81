"""From a request's features to a kernel's name: the dispatch key and the table of names.

The key spells every feature of a request; the cubin's own key (``kernels.KernelSpec``) keeps only what
changes the machine code. Everything here is a pure function of small frozen values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from flashactor.errors import (
    Fp8BackwardUnsupportedError,
    Fp8RequiresHopperError,
    InvalidGqaRatioError,
    PagedFlagNotSetError,
    SinkWithoutMaskError,
    UnknownKeyError,
    UnsupportedHeadDimError,
    ZeroWindowError,
)
from flashactor.types import Direction, DType, SmArch, is_count

HEAD_DIMS = frozenset(range(8, 257, 8))
"""Every head_dim that kernels take."""


def check_head_dim(name: str, head_dim: int) -> None:
    """Raises UnsupportedHeadDimError, whose field is ``name``, unless kernels take heads of this size."""
    if not is_count(head_dim, 8) or head_dim not in HEAD_DIMS:
        raise UnsupportedHeadDimError(
            field=name,
            got=head_dim,
            expected="a multiple of 8 from 8 to 256",
            remedy="pad the heads with zeros to the next multiple of 8",
        )


@dataclass(frozen=True, slots=True)
class DispatchKey:
    """One cell of the dispatch table: what distinguishes a request from every other kind of request.

    Attributes:
        arch: architecture that the kernel runs on.
        dtype: element type of q (and of k and v, but for mixed fp8).
        head_dim: elements of one head.
        causal: whether a query sees only what came before it.
        varlen: sequences packed by cu_seqlens.
        sliding_window: keys of the window up to the query's own position, None for unlimited. A right end
            that is neither causal nor symmetric is no part of the key, but of the kernel's name.
        alibi: whether ALiBi slopes bias the scores.
        sink: leading keys that stay visible outside the window.
        paged: whether k and v are gathered through a page table.
        gqa_ratio: query heads for each key/value head.
    """

    arch: SmArch
    dtype: DType
    head_dim: int
    causal: bool = False
    varlen: bool = False
    sliding_window: int | None = None
    alibi: bool = False
    sink: int = 0
    paged: bool = False
    gqa_ratio: int = 1

    def validate_fwd(self) -> None:
        """Check the rules of a forward pass.

        Raises:
            UnsupportedHeadDimError, Fp8RequiresHopperError, SinkWithoutMaskError, InvalidGqaRatioError,
            ZeroWindowError, UnknownKeyError: the first rule that the key breaks.
        """
        if not isinstance(self.arch, SmArch) or not isinstance(self.dtype, DType):
            raise UnknownKeyError(
                field="arch, dtype",
                got=f"{self.arch!r}, {self.dtype!r}",
                expected="a SmArch and a DType",
                remedy="pass members of flashactor.SmArch and flashactor.DType, or use their parse()",
            )
        check_head_dim("head_dim", self.head_dim)
        if self.dtype.is_fp8 and not self.arch.supports_fp8:
            raise Fp8RequiresHopperError(
                field="dtype",
                got=f"{self.dtype.tag} on {self.arch.target}",
                expected="sm_89 or newer for fp8",
                remedy="use f16 or bf16 on this architecture",
            )
        if self.sink and self.sliding_window is None and not self.causal:
            raise SinkWithoutMaskError(
                field="sink_tokens",
                got=self.sink,
                expected="0 under a full mask, where every key is visible anyway",
                remedy="use a causal or sliding mask, or drop sink_tokens",
            )
        if not is_count(self.sink, 0):
            raise SinkWithoutMaskError(
                field="sink_tokens",
                got=self.sink,
                expected="an integer of at least 0",
                remedy="pass the number of leading keys that stay visible",
            )
        if not is_count(self.gqa_ratio, 1):
            raise InvalidGqaRatioError(
                field="gqa_ratio",
                got=self.gqa_ratio,
                expected="an integer of at least 1",
                remedy="pass heads_q // heads_kv",
            )
        if self.sliding_window is not None and not is_count(self.sliding_window, 1):
            raise ZeroWindowError(
                field="sliding_window",
                got=self.sliding_window,
                expected="an integer of at least 1",
                remedy="use an unlimited mask, or a window that holds at least the query itself",
            )

    def validate_bwd(self) -> None:
        """Check the rules of a backward pass: those of a forward pass, and no fp8.

        Raises:
            Fp8BackwardUnsupportedError: the dtype is fp8; else as ``validate_fwd``.
        """
        if self.dtype in (DType.F8E4M3, DType.F8E5M2):
            raise Fp8BackwardUnsupportedError(
                field="dtype",
                got=self.dtype.tag,
                expected="f16 or bf16 for a backward pass",
                remedy="compute gradients in bf16",
            )
        self.validate_fwd()

    def validate_paged(self) -> None:
        """Check the rules of a paged forward pass.

        Raises:
            PagedFlagNotSetError: ``paged`` is false; else as ``validate_fwd``.
        """
        if not self.paged:
            raise PagedFlagNotSetError(
                field="paged",
                got=self.paged,
                expected="True for a paged message",
                remedy="send this request with FlashAttnMsg.forward, or make a PagedAttentionRequest",
            )
        self.validate_fwd()

    def stable_hash(self) -> int:
        """64 bits that are equal for equal keys in every process, Python version and machine."""
        return _stable_hash(self)

    def kernel_name(self, direction: Direction = Direction.FORWARD) -> str:
        """The name in logs, traces and tables: ``flashactor::fa2::fwd<bf16, 128, causal>_gqa8``."""
        generation = "fa3" if self.arch.supports_fa3 else "fa2"
        mask = "causal" if self.causal else "full"
        name = f"flashactor::{generation}::{direction.value}<{self.dtype.value}, {self.head_dim}, {mask}>"
        if self.varlen:
            name += "_varlen"
        if self.sliding_window is not None:
            name += f"_sw{self.sliding_window}"
        if self.alibi:
            name += "_alibi"
        if self.sink:
            name += f"_sink{self.sink}"
        if self.paged:
            name += "_paged"
        if self.gqa_ratio > 1:
            name += f"_gqa{self.gqa_ratio}"
        return name


def _stable_hash(key: DispatchKey) -> int:
    text = "|".join(
        (
            key.arch.value,
            key.dtype.value,
            str(int(key.head_dim)),
            str(int(key.causal)),
            str(int(key.varlen)),
            "-" if key.sliding_window is None else str(int(key.sliding_window)),
            str(int(key.alibi)),
            str(int(key.sink)),
            str(int(key.paged)),
            str(int(key.gqa_ratio)),
        )
    )
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@lru_cache(maxsize=8192)
def _checked_name(key: DispatchKey, direction: Direction) -> str:
    if direction is Direction.BACKWARD:
        key.validate_bwd()
    else:
        key.validate_fwd()
    return key.kernel_name(direction)


class DispatchTable:
    """Names of kernels by key: the common cells by heart, every other valid cell on demand."""

    def __init__(self) -> None:
        self._forward = {key: key.kernel_name() for key in _common_cells()}

    def lookup(self, key: DispatchKey, direction: Direction = Direction.FORWARD) -> str:
        """The kernel's name for a valid key.

        Raises:
            DispatchError: the rule that the key breaks.
        """
        try:
            return _checked_name(key, direction)
        except TypeError:
            key.validate_fwd()  # a field that cannot be hashed breaks a rule, too
            raise

    def strict_lookup(self, key: DispatchKey) -> str:
        """The forward kernel's name of a pre-registered cell.

        Raises:
            UnknownKeyError: the cell was not pre-registered.
        """
        try:
            return self._forward[key]
        except KeyError:
            raise UnknownKeyError(
                field="key",
                got=key,
                expected=f"one of the {len(self)} pre-registered cells",
                remedy="use lookup(), which synthesises the name of any valid cell",
            ) from None

    def __len__(self) -> int:
        return len(self._forward)

    def __iter__(self) -> Iterator[DispatchKey]:
        return iter(self._forward)

    def __contains__(self, key: DispatchKey) -> bool:
        return key in self._forward


def _common_cells() -> Iterator[DispatchKey]:
    """Dense attention, one query head a key/value head, in the head sizes that models use."""
    for arch, dtype, head_dim, causal in product(SmArch, DType, (64, 80, 96, 128, 192, 256), (False, True)):
        if not dtype.is_fp8 or (arch.supports_fp8 and head_dim in (64, 128, 256)):
            yield DispatchKey(arch, dtype, head_dim, causal)


DISPATCH_TABLE = DispatchTable()
"""The process-wide table."""


def lookup(key: DispatchKey, direction: Direction = Direction.FORWARD) -> str:
    """``DISPATCH_TABLE.lookup``: the kernel's name for a valid key.

    Raises:
        DispatchError: the rule that the key breaks.
    """
    return DISPATCH_TABLE.lookup(key, direction)
