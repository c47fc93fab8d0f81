"""What an executor is: it takes resolved work and answers it once, now or later, from any thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flashactor.dispatch import DispatchKey
from flashactor.requests import AttentionRequest
from flashactor.types import SmArch

if TYPE_CHECKING:
    from flashactor.cache.record import CachedKernel
    from flashactor.kernels.spec import KernelSpec


class Work:
    """A request with the key and kernel name that it resolved to on the executor's architecture.

    Executors that have to get something ready derive from it, in ``prepare``.

    Attributes:
        stream: address of the caller's stream: the work waits for what is enqueued there, and what is
            enqueued there after the launch waits for the work; None: no such stream.
        after: what the work has to wait for on the device; set when it is submitted.
    """

    __slots__ = ("after", "kernel_name", "key", "request", "stream")

    def __init__(
        self, request: AttentionRequest, key: DispatchKey, kernel_name: str, stream: int | None = None
    ) -> None:
        self.request = request
        self.key = key
        self.kernel_name = kernel_name
        self.stream = stream
        self.after: tuple[Marker, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it can be submitted: its kernels, or the errors in their place, are there."""
        return True

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Have a function called, by any thread, once it is ready; or here if it is."""
        callback()


class Marker(Protocol):
    """A place in a device's stream that other streams of the device, and the caller's, can wait for."""

    def wait_on(self, stream: int) -> None:
        """Make the stream of an address wait for it. The host goes on."""


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
        compile_seconds: time to get the kernel, in ``submit``: to load it, or to compile it there.
        launch_seconds: time to plan and enqueue it, or to compute on the host.
        refused: the executor did not try, because its context was lost before; said in ``submit`` only.
    """

    outputs: Outputs | None = None
    error: BaseException | None = None
    compile_seconds: float = 0.0
    launch_seconds: float = 0.0
    refused: bool = False


Done = Callable[[Outcome], None]


class Executor(ABC):
    """Computes attention somewhere. One actor owns one executor and calls it from one thread.

    The actor decides what is launched when, and how much at once; an executor holds nothing back.

    Attributes:
        name: ``mock``, ``reference``, ``cuda``, ...
        arch: architecture of the device; None where any request's own will do.
        renewable: whether another executor can go on in this process after a ContextPoisonedError.
        waits_on_device: whether it makes work wait for the markers of ``Work.after`` in its stream; if not,
            the actor holds the work back until what it has to wait for is done.
    """

    name: str
    arch: SmArch | None = None
    renewable: bool = True
    waits_on_device: bool = False

    def prepare(self, work: Work) -> Work:
        """Check work that will be submitted later, and begin to get what it needs, without waiting for it.

        Raises:
            FlashAttnError: the executor cannot do it.
        """
        return work

    @abstractmethod
    def submit(self, work: Work, done: Done) -> Marker | None:
        """Start work that ``prepare`` returned and that is ready.

        ``done`` is called exactly once, from any thread, possibly before this returns, also when the work
        fails. An exception from here means that the executor itself is broken.

        Returns:
            The end of the work in the device's stream; None if there is none, because the work was not
            launched, or there is no device.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to release
        """Finish what was submitted, call its ``done``, and release everything."""

    def abandon(self) -> None:  # noqa: B027  # as above
        """Let go without waiting: call no ``done`` any more, and release what can be released.

        Arrays that a device may still touch stay alive until it has done so. A ``done`` that comes
        nevertheless is not heard.
        """


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
