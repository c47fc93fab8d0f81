"""What an executor is: it takes resolved work and answers it once, now or later, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flashactor.dispatch import DispatchKey
from flashactor.requests import AttentionRequest
from flashactor.types import SmArch

if TYPE_CHECKING:
    from flashactor.cache.record import CachedKernel
    from flashactor.kernels.spec import KernelSpec


class Work(NamedTuple):
    """A request with the key and kernel name that it resolved to on the executor's architecture."""

    request: AttentionRequest
    key: DispatchKey
    kernel_name: str


class Outputs(NamedTuple):
    """Arrays that a computation wrote, of the inputs' library; None for those that it does not have."""

    out: Any = None
    lse: Any = None
    dq: Any = None
    dk: Any = None
    dv: Any = None
    dsink_logits: Any = None
    dalibi_slopes: Any = None


class Outcome(NamedTuple):
    """How work ended: with outputs or with an error.

    Attributes:
        compile_seconds: time to get the kernel, from the cache or by compiling it.
        launch_seconds: time to plan and enqueue it, or to compute on the host.
    """

    outputs: Outputs | None = None
    error: BaseException | None = None
    compile_seconds: float = 0.0
    launch_seconds: float = 0.0


Done = Callable[[Outcome], None]


class Executor(Protocol):
    """Computes attention somewhere. One actor owns one executor and calls it from one thread.

    Attributes:
        name: ``mock``, ``reference``, ``cuda``, ...
        arch: architecture of the device; None where any request's own will do.
    """

    name: str

    @property
    def arch(self) -> SmArch | None: ...

    def submit(self, work: Work, done: Done) -> None:
        """Start the work; call ``done`` exactly once, also when it fails."""

    def close(self) -> None:
        """Finish what was submitted, call its ``done``, and release everything."""


class PendingKernel(Protocol):
    """A kernel to come."""

    @property
    def done(self) -> bool:
        """Whether the kernel, or the error in its place, is there."""

    def result(self, timeout: float | None = None) -> CachedKernel:
        """The kernel; raises its error, or AskTimeoutError."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have a function called once it is there."""


class KernelSource(Protocol):
    """Where executors get compiled kernels from without waiting for them."""

    def ask(self, spec: KernelSpec) -> PendingKernel:
        """The kernel of a specification."""
