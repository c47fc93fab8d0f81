"""The closed vocabularies of the project: architectures, element types, masks, biases, scheduling modes.

Pure values without third-party imports: every other module may depend on this one.
"""

from __future__ import annotations

import operator
import threading
from dataclasses import dataclass
from enum import Enum

from flashactor.errors import DeviceUnavailableError, RequestError


def is_count(value: object, least: int) -> bool:
    """Whether a value is an integer (NumPy's too, but no bool) of at least ``least``."""
    if type(value) is int:
        return value >= least
    is_array = getattr(value, "shape", ()) != ()
    if is_array or isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return False
    try:
        return operator.index(value) >= least  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError, RuntimeError):  # the last one is of torch's tensors
        return False


def is_seconds(value: object) -> bool:
    """Whether a value is a number of seconds (no bool), at least 0, and no more than a thread can wait."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= threading.TIMEOUT_MAX


def settle_counts(holder: object, *names: str) -> None:
    """Make Python integers, which never wrap, of fields of a frozen dataclass that are counts."""
    for name in names:
        value = getattr(holder, name)
        if type(value) is not int:
            object.__setattr__(holder, name, operator.index(value))


class SmArch(Enum):
    """A CUDA architecture that kernels are compiled for; the value is its NVRTC target."""

    SM80 = "sm_80"
    SM86 = "sm_86"
    SM89 = "sm_89"
    SM90A = "sm_90a"
    SM100 = "sm_100a"
    SM120 = "sm_120a"

    # Members are singletons compared by identity, so the identity hash is right; Enum's own hashes the
    # name in Python, which would dominate the cost of hashing a DispatchKey.
    __hash__ = object.__hash__

    @property
    def target(self) -> str:
        """The name that NVRTC and ptxas use, for example ``sm_90a``."""
        return self.value

    @property
    def nvrtc_flag(self) -> str:
        """The NVRTC option that selects this architecture."""
        return f"--gpu-architecture={self.value}"

    @property
    def compute_capability(self) -> tuple[int, int]:
        """(major, minor) of the hardware, for example (9, 0)."""
        digits = self.value.removeprefix("sm_").rstrip("a")
        return int(digits[:-1]), int(digits[-1])

    @property
    def supports_fa3(self) -> bool:
        """Whether requests of the FlashAttention-3 generation may name this architecture."""
        return self in (SmArch.SM90A, SmArch.SM100)

    @property
    def supports_fp8(self) -> bool:
        """Whether the tensor cores multiply fp8: Ada (sm_89) and newer."""
        return self.compute_capability >= (8, 9)

    @classmethod
    def from_compute_capability(cls, major: int, minor: int) -> SmArch:
        """The architecture whose cubins run on a device of this compute capability.

        Raises:
            DeviceUnavailableError: no cubin of this project runs on such a device.
        """
        if (major, minor) == (8, 7):  # Orin runs sm_86 cubins: same major, lower minor
            return cls.SM86
        for arch in cls:
            if arch.compute_capability == (major, minor):
                return arch
        raise DeviceUnavailableError(
            field="compute_capability",
            got=f"{major}.{minor}",
            expected="one of " + ", ".join("{}.{}".format(*a.compute_capability) for a in cls),
            remedy="use a device of one of these, or executor='reference' on the host",
        )

    @classmethod
    def parse(cls, name: str) -> SmArch:
        """The architecture of a name as people type it: ``sm_90a``, ``sm90``, ``90a``, ``SM90A``.

        Raises:
            RequestError: the name is none of the known architectures.
        """
        wanted = name.strip().lower().removeprefix("sm").removeprefix("_").rstrip("a")
        for arch in cls:
            if arch.value.removeprefix("sm_").rstrip("a") == wanted:
                return arch
        raise RequestError(
            field="arch",
            got=name,
            expected="one of " + ", ".join(a.value for a in cls),
            remedy="name the architecture that the kernel will run on",
        )


class DType(Enum):
    """An element type of q, k and v; the value is the tag in kernel names."""

    F16 = "f16"
    BF16 = "bf16"
    F8E4M3 = "e4m3"
    F8E5M2 = "e5m2"

    __hash__ = object.__hash__  # as for SmArch

    @property
    def tag(self) -> str:
        """Short name in kernel names: ``f16``, ``bf16``, ``e4m3``, ``e5m2``."""
        return self.value

    @property
    def size_in_bytes(self) -> int:
        """Bytes of one element."""
        return 1 if self.is_fp8 else 2

    @property
    def is_fp8(self) -> bool:
        """Whether this is one of the two 8-bit types."""
        return self in (DType.F8E4M3, DType.F8E5M2)

    @property
    def numpy_name(self) -> str:
        """Name of the NumPy (ml_dtypes) type with the same bits."""
        return _NUMPY_NAMES[self]

    @classmethod
    def parse(cls, name: str) -> DType:
        """The member for a tag or NumPy name as people type it: ``bf16``, ``float16``, ``e4m3``.

        Raises:
            RequestError: the name is none of the known types.
        """
        wanted = name.strip().lower()
        for member in cls:
            if wanted in (member.value, member.numpy_name, f"f8{member.value}"):
                return member
        raise RequestError(
            field="dtype",
            got=name,
            expected="one of " + ", ".join(m.value for m in cls),
            remedy="name the element type of q, k and v",
        )


_NUMPY_NAMES = {
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F8E4M3: "float8_e4m3fn",
    DType.F8E5M2: "float8_e5m2",
}


class Direction(Enum):
    """Which pass a kernel computes; the value is the function part of its name."""

    FORWARD = "fwd"
    BACKWARD = "bwd"

    __hash__ = object.__hash__  # as for SmArch


class PositionBias(Enum):
    """Bias added to the scores by position."""

    NONE = "none"
    ALIBI = "alibi"


@dataclass(frozen=True, slots=True)
class MaskKind:
    """Which keys a query sees; build it with one of the five class methods.

    With ``offset = seqlen_k - seqlen_q`` and ``d = i + offset - j`` for query i and key j (bottom-right
    alignment, as in FlashAttention-2): causal sees d >= 0; ``sliding_causal(w)`` sees 0 <= d < w;
    ``sliding_full(w)`` sees abs(d) < w; ``sliding(left, right)`` sees -right <= d <= left; full sees every
    key.

    Attributes:
        is_causal: nothing to the right of the query is seen.
        sliding_window: keys of the window to the left, the query's own position included; None for unlimited.
        right: ``window_right`` of a window that the other kinds do not express, else None.

    Raises:
        RequestError: a window that is no integer, a ``right`` below -1, or one for a causal mask.
    """

    is_causal: bool = False
    sliding_window: int | None = None
    right: int | None = None

    def __post_init__(self) -> None:
        if self.sliding_window is not None:
            if not is_count(self.sliding_window, -(2**63)):  # requests refuse those below 1
                raise _window_error("sliding_window", self.sliding_window, "an integer of at least 1")
            settle_counts(self, "sliding_window")
        if self.right is None:
            return
        if self.is_causal:
            raise _window_error("right", self.right, "None for a causal mask, which sees nothing there")
        if not is_count(self.right, -1):
            raise _window_error("window_right", self.right, "an integer of at least -1, which is unlimited")
        # One mask, one spelling: equal windows must be equal masks.
        right = operator.index(self.right)
        is_causal = right == 0
        symmetric = right == (-1 if self.sliding_window is None else self.sliding_window - 1)
        object.__setattr__(self, "is_causal", is_causal)
        object.__setattr__(self, "right", None if is_causal or symmetric else right)

    @classmethod
    def full(cls) -> MaskKind:
        """Every query sees every key."""
        return cls()

    @classmethod
    def causal(cls) -> MaskKind:
        """A query sees itself and what came before it."""
        return cls(is_causal=True)

    @classmethod
    def sliding_causal(cls, window: int) -> MaskKind:
        """A query sees the last ``window`` keys, itself included."""
        return cls(is_causal=True, sliding_window=window)

    @classmethod
    def sliding_full(cls, window: int) -> MaskKind:
        """A query sees the keys less than ``window`` positions away on either side."""
        return cls(sliding_window=window)

    @classmethod
    def sliding(cls, window_left: int, window_right: int) -> MaskKind:
        """A query sees ``window_left`` keys to its left, its own position, and ``window_right`` to its right.

        -1 is unlimited on that side. A window that another kind expresses is that kind: ``sliding(-1, -1)``
        is full, ``sliding(-1, 0)`` causal, ``sliding(w - 1, 0)`` sliding_causal(w), ``sliding(w - 1, w - 1)``
        for w > 1 sliding_full(w).

        Raises:
            RequestError: a side is below -1, or no integer.
        """
        if not is_count(window_left, -1):
            raise _window_error("window_left", window_left, "an integer of at least -1, which is unlimited")
        left = operator.index(window_left)
        return cls(sliding_window=None if left == -1 else left + 1, right=window_right)

    @property
    def window_left(self) -> int:
        """Largest visible d (keys to the left of the query), -1 for unlimited."""
        return -1 if self.sliding_window is None else self.sliding_window - 1

    @property
    def window_right(self) -> int:
        """Largest visible -d (keys to the right of the query), -1 for unlimited."""
        if self.is_causal:
            return 0
        if self.right is not None:
            return self.right
        return -1 if self.sliding_window is None else self.sliding_window - 1

    def __str__(self) -> str:
        if self.right is not None:
            return f"sliding({self.window_left}, {self.right})"
        name = "causal" if self.is_causal else "full"
        return name if self.sliding_window is None else f"sliding_{name}({self.sliding_window})"


def _window_error(name: str, got: object, expected: str) -> RequestError:
    return RequestError(
        field=name, got=got, expected=expected, remedy="correct the window of MaskKind.sliding"
    )


@dataclass(frozen=True, slots=True)
class PersistentMode:
    """How the tiles of a FlashAttention-3 request are spread: one block a tile, or persistent blocks."""

    num_sms: int | None = None

    @classmethod
    def grid(cls) -> PersistentMode:
        """One thread block for each (batch, head, query tile)."""
        return cls()

    @classmethod
    def persistent(cls, num_sms: int) -> PersistentMode:
        """``num_sms`` thread blocks that take tiles until none is left.

        Raises:
            RequestError: num_sms is not positive.
        """
        if not is_count(num_sms, 1):
            raise RequestError(
                field="num_sms",
                got=num_sms,
                expected="a positive number of multiprocessors",
                remedy="pass the device's multiprocessor count",
            )
        return cls(operator.index(num_sms))

    @property
    def is_persistent(self) -> bool:
        """Whether blocks stay resident and take tiles."""
        return self.num_sms is not None


class Completion(Enum):
    """How the host notices the end of a kernel: it sleeps, asks again and again, or is called."""

    EVENT = "event"
    POLLING = "polling"
    CALLBACK = "callback"
