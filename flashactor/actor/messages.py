"""What one sends to an actor, and how one configures it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from flashactor.dispatch import DispatchKey
from flashactor.errors import RequestError
from flashactor.requests import AttentionRequest
from flashactor.types import Direction, SmArch, is_count


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


@dataclass(frozen=True, slots=True)
class FlashAttnProps:
    """How to start an actor.

    Attributes:
        label: name in logs.
        max_in_flight: most kernels launched and not complete.
        executor: name of the executor that ``FlashAttnActor.start`` picks when it is not told another.

    Raises:
        RequestError: max_in_flight is not positive.
    """

    label: str = "flashattn"
    max_in_flight: int = 8
    executor: str = "auto"

    def __post_init__(self) -> None:
        if not is_count(self.max_in_flight, 1):
            raise RequestError(
                field="max_in_flight",
                got=self.max_in_flight,
                expected="an integer of at least 1",
                remedy="allow at least one kernel in flight",
            )
