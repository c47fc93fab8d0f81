"""Which of several actors gets a message."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum
from hashlib import blake2b
from numbers import Integral
from typing import Protocol, TypeVar

from flashactor.actor.messages import FlashAttnProps
from flashactor.errors import RequestError

RouteKey = str | bytes | int
"""What a sticky route tells sessions apart by. Text, bytes and numbers never equal each other."""


class Member(Protocol):
    """An actor as routes see it."""

    @property
    def props(self) -> FlashAttnProps:
        """How it was started; no two members of a pool have the same label."""

    @property
    def unanswered(self) -> int:
        """Number of messages that it has taken and not answered."""


M = TypeVar("M", bound=Member)


class Route(Protocol):
    """Chooses an actor for each message. A pool has a route of its own, which any thread may call."""

    def choose(self, members: Sequence[M], key: RouteKey | None) -> M:
        """One of the members, of which there is at least one, all able to take the message.

        Raises:
            FlashAttnError: the key is none that the route can use; the message is answered with it.
        """


class _Turns:
    """Remembers when each member was last chosen.

    A counter would not do: the members to choose from differ from message to message, by device and by who is
    up, and a counter then gives some of them more than their share.
    """

    __slots__ = ("_last", "_lock", "_now")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self._last: dict[str, int] = {}

    def longest_idle(self, members: Sequence[M]) -> M:
        """The member whose turn is longest ago; it has its turn now."""
        with self._lock:
            chosen = min(members, key=self._turn)
            self._now += 1
            self._last[chosen.props.label] = self._now
            return chosen

    def _turn(self, member: Member) -> int:
        return self._last.get(member.props.label, 0)


class RoundRobin:
    """The members take turns."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns = _Turns()

    def choose(self, members: Sequence[M], key: RouteKey | None) -> M:
        """The member whose turn is longest ago; keys mean nothing."""
        return self._turns.longest_idle(members)


class LeastLoaded:
    """The member with the fewest unanswered messages; those with equally many take turns."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns = _Turns()

    def choose(self, members: Sequence[M], key: RouteKey | None) -> M:
        """As the class says; keys mean nothing. Each member's load is read once."""
        loads = [member.unanswered for member in members]
        least = min(loads)
        return self._turns.longest_idle(
            [member for member, load in zip(members, loads, strict=True) if load == least]
        )


class Sticky:
    """A key always goes to the same member, by rendezvous hashing over the members' labels.

    The choice is the same in every process, and when a member goes down, only its own keys move.
    """

    __slots__ = ()

    def choose(self, members: Sequence[M], key: RouteKey | None) -> M:
        """The member that wins the key.

        Raises:
            RequestError: there is no key, or it is neither a text, bytes nor an integer.
        """
        digest = blake2b(_key_bytes(key), digest_size=16)

        def weight(member: Member) -> bytes:
            drawn = digest.copy()
            drawn.update(member.props.label.encode("utf-8", "surrogatepass"))
            return drawn.digest()

        return max(members, key=weight)


class RouteKind(Enum):
    """The routes that have a name."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    STICKY = "sticky"


_ROUTES: dict[RouteKind, type[RoundRobin] | type[LeastLoaded] | type[Sticky]] = {
    RouteKind.ROUND_ROBIN: RoundRobin,
    RouteKind.LEAST_LOADED: LeastLoaded,
    RouteKind.STICKY: Sticky,
}


def make_route(route: RouteKind | str | Route) -> Route:
    """The route of a name, or the caller's own.

    Raises:
        RequestError: it is neither.
    """
    if isinstance(route, RouteKind | str):
        try:
            return _ROUTES[RouteKind(route)]()
        except ValueError:
            pass
    elif callable(getattr(route, "choose", None)):
        return route
    raise RequestError(
        field="route",
        got=repr(route),
        expected=", ".join(repr(kind.value) for kind in RouteKind)
        + ", or an object with the method of Route",
        remedy="choose one",
    )


def _key_bytes(key: RouteKey | None) -> bytes:
    """The key with its type, and an end that no label can be mistaken for."""
    if isinstance(key, str):
        tag, data = b"s", key.encode("utf-8", "surrogatepass")
    elif isinstance(key, bytes):
        tag, data = b"b", key
    elif isinstance(key, Integral) and not isinstance(key, bool):  # NumPy's, too
        tag, data = b"i", hex(int(key)).encode()
    else:
        raise RequestError(
            field="key",
            got="none" if key is None else repr(key)[:80],
            expected="a text, bytes or an integer, for the sticky route",
            remedy="pass key=, the name of a session for example, or choose another route",
        )
    return tag + len(data).to_bytes(8, "little") + data
