"""What one sends to an actor, and how one configures it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from threading import TIMEOUT_MAX

from flashactor.actor.restarts import RestartPolicy
from flashactor.dispatch import DispatchKey
from flashactor.errors import RequestError
from flashactor.requests import AttentionRequest
from flashactor.telemetry.events import Observer
from flashactor.types import Completion, Direction, SmArch, is_count, is_seconds, settle_counts


class MsgKind(Enum):
    """The three kinds of message."""

    FORWARD = "forward"
    BACKWARD = "backward"
    PAGED_FORWARD = "paged_forward"


@dataclass(frozen=True, slots=True)
class FlashAttnMsg:
    """A request addressed to an actor; make it with one of the three class methods."""

    kind: MsgKind
    request: AttentionRequest

    @classmethod
    def forward(cls, request: AttentionRequest) -> FlashAttnMsg:
        """A forward pass: any request but those of a backward pass; MergeStatesRequest counts as one.

        Raises:
            RequestError: the request is none of these.
        """
        _check_direction(request, Direction.FORWARD, "forward")
        return cls(MsgKind.FORWARD, request)

    @classmethod
    def backward(cls, request: AttentionRequest) -> FlashAttnMsg:
        """A backward pass: Fa2BwdRequest, VarlenBwdRequest.

        Raises:
            RequestError: the request is none of these.
        """
        _check_direction(request, Direction.BACKWARD, "backward")
        return cls(MsgKind.BACKWARD, request)

    @classmethod
    def paged_forward(cls, request: AttentionRequest) -> FlashAttnMsg:
        """A forward pass over a paged cache: PagedAttentionRequest.

        Raises:
            PagedFlagNotSetError: the request has no paged cache; RequestError: it is no request.
        """
        _check_direction(request, Direction.FORWARD, "paged_forward")
        request.dispatch_key().validate_paged()
        return cls(MsgKind.PAGED_FORWARD, request)

    def dispatch_key(self, arch: SmArch | None = None) -> DispatchKey:
        """The request's key; ``arch`` fills in for a request that names none."""
        return self.request.dispatch_key(arch)


def _check_direction(request: object, direction: Direction, kind: str) -> None:
    if not isinstance(request, AttentionRequest) or request.DIRECTION is not direction:
        raise RequestError(
            field="request",
            got=type(request).__name__,
            expected=f"a {direction.name.lower()} request for a {kind} message",
            remedy="use the message constructor of the request's direction",
        )


DEFAULT_POLICY = RestartPolicy()


class Overflow(Enum):
    """What happens to an ask that finds the mailbox full."""

    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class FlashAttnProps:
    """How to start an actor.

    Attributes:
        label: name in logs and metrics.
        max_in_flight: most kernels launched and not complete.
        executor: name of the executor that ``FlashAttnActor.start`` picks when it is not told another.
        mailbox_size: most messages that wait to be launched.
        overflow: with a full mailbox, an ask waits (``"wait"``: a coroutine in ``await``, a thread in
            ``ask``), or is answered with MailboxFullError at once (``"fail"``).
        device: the device, as CUDA_VISIBLE_DEVICES numbers it.
        completion: how the cuda executor notices the end of a kernel: a thread that sleeps until its event
            (``"event"``), one that asks again and again (``"polling"``), or a callback of the driver
            (``"callback"``).
        hang_seconds: a launched request that takes longer makes its executor count as hung: what it has in
            flight is answered, and the executor replaced; None: never.
        restart: what happens when the actor's thread or its executor fails.
        observers: hear of every request.

    Raises:
        RequestError: a field has a value that it cannot have.
    """

    label: str = "flashattn"
    max_in_flight: int = 8
    executor: str = "auto"
    mailbox_size: int = 1024
    overflow: Overflow | str = Overflow.WAIT
    device: int = 0
    completion: Completion | str = Completion.EVENT
    hang_seconds: float | None = None
    restart: RestartPolicy = DEFAULT_POLICY
    observers: tuple[Observer, ...] = ()

    def __post_init__(self) -> None:
        for name in ("label", "executor"):
            text = getattr(self, name)
            # One label that cannot be encoded would take all metrics of the process with it.
            if not isinstance(text, str) or not text.isprintable():
                raise _props_error(name, text, "a text of printable characters")
        for name, least in (("max_in_flight", 1), ("mailbox_size", 1), ("device", 0)):
            if not is_count(getattr(self, name), least):
                raise _props_error(name, getattr(self, name), f"an integer of at least {least}")
        settle_counts(self, "max_in_flight", "mailbox_size", "device")
        for name, choice in (("overflow", Overflow), ("completion", Completion)):
            try:
                object.__setattr__(self, name, choice(getattr(self, name)))
            except ValueError:
                choices = " or ".join(repr(option.value) for option in choice)
                raise _props_error(name, getattr(self, name), choices) from None
        hang = self.hang_seconds
        if hang is not None and (not is_seconds(hang) or hang == 0):
            expected = f"positive seconds, at most {TIMEOUT_MAX:.0f}, or None"
            raise _props_error("hang_seconds", hang, expected)
        if not isinstance(self.restart, RestartPolicy):
            raise _props_error("restart", self.restart, "a RestartPolicy")
        observers = tuple(self.observers) if isinstance(self.observers, Iterable) else (self.observers,)
        for observer in observers:
            if not isinstance(observer, Observer):
                raise _props_error("observers", observer, "objects of classes that derive from Observer")
        object.__setattr__(self, "observers", observers)


def _props_error(name: str, got: object, expected: str) -> RequestError:
    return RequestError(field=name, got=repr(got), expected=expected, remedy=f"correct {name}")
