"""Which requests a test means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Protocol

from flashactor.dispatch import DispatchKey
from flashactor.errors import RequestError
from flashactor.requests import AttentionRequest
from flashactor.types import Direction


class Described(Protocol):
    """What conditions look at: an executor's ``Work``, or a recorder's ``Launch``."""

    @property
    def request(self) -> AttentionRequest:
        """The request itself, with its arrays."""

    @property
    def key(self) -> DispatchKey:
        """The cell of the dispatch table."""

    @property
    def kernel_name(self) -> str:
        """The name in logs and traces."""


KEY_FIELDS = frozenset(field.name for field in fields(DispatchKey))
REQUEST_FIELDS = frozenset(field.name for field in fields(AttentionRequest)) - {"operands"}


@dataclass(frozen=True, slots=True)
class Matching:
    """A condition on requests; ``matching`` makes it."""

    request: type[AttentionRequest] | None = None
    kernel: str | None = None
    direction: Direction | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, work: Described) -> bool:
        if self.request is not None and not isinstance(work.request, self.request):
            return False
        if self.direction is not None and work.request.DIRECTION is not self.direction:
            return False
        if self.kernel is not None and not fnmatchcase(work.kernel_name, self.kernel):
            return False
        return all(_value(work, name) == value for name, value in self.values.items())

    def __str__(self) -> str:
        parts = [f"{name}={_spelled(value)}" for name, value in self.values.items()]
        if self.direction is not None:
            parts.insert(0, f"direction={self.direction.name}")
        if self.kernel is not None:
            parts.insert(0, f"kernel={self.kernel!r}")
        if self.request is not None:
            parts.insert(0, self.request.__name__)
        return ", ".join(parts) or "anything"


def matching(
    request: type[AttentionRequest] | None = None,
    *,
    kernel: str | None = None,
    direction: Direction | None = None,
    **values: Any,
) -> Matching:
    """A condition that holds where everything that is given here holds; without arguments it always does.

    Args:
        request: type of the request.
        kernel: its name, with ``*`` for any text: ``"*_sw4096*"``.
        direction: forward or backward.
        values: fields of the dispatch key (head_dim, dtype, causal, paged, ...) or of every request
            (softmax_scale, mask, ...), and their values. What both have is the key's.

    Raises:
        RequestError: there is no such field, or the type is not one of a request.
    """
    if request is not None and not (isinstance(request, type) and issubclass(request, AttentionRequest)):
        raise RequestError(
            field="request",
            got=repr(request),
            expected="a type of request",
            remedy="pass the class, such as Fa2FwdRequest",
        )
    unknown = sorted(values.keys() - KEY_FIELDS - REQUEST_FIELDS)
    if unknown:
        raise RequestError(
            field=unknown[0],
            got="a field that neither dispatch keys nor all requests have",
            expected="one of " + ", ".join(sorted(KEY_FIELDS | REQUEST_FIELDS)),
            remedy="correct the name, or pass a function of your own as condition",
        )
    return Matching(request, kernel, direction, values)


def _value(work: Described, name: str) -> Any:
    return getattr(work.key if name in KEY_FIELDS else work.request, name)


def _spelled(value: object) -> str:
    name = getattr(value, "name", None)  # of an enum's member
    return name if isinstance(name, str) else repr(value)
