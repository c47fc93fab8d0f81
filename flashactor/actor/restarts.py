"""When a failed child is started again, and when its supervisor gives up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import TIMEOUT_MAX

from flashactor.errors import RequestError
from flashactor.types import is_count, is_seconds

DOUBLINGS = 64
"""Of a wait before a restart: enough for any limit to be reached, and not too many for a float."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """One for one: the child that failed is started again, its siblings go on.

    Attributes:
        max_restarts: most restarts of one child ``within`` seconds; one failure more, and it stays down.
        within: seconds.
        backoff: seconds before the first restart; each further one ``within`` the window waits twice as long.
        max_backoff: most seconds to wait.

    Raises:
        RequestError: a number is negative, none, or more seconds than a thread can wait.
    """

    max_restarts: int = 3
    within: float = 60.0
    backoff: float = 0.05
    max_backoff: float = 5.0

    def __post_init__(self) -> None:
        if not is_count(self.max_restarts, 0):
            raise _policy_error("max_restarts", self.max_restarts, "an integer of at least 0")
        for name in ("within", "backoff", "max_backoff"):
            if not is_seconds(getattr(self, name)):
                raise _policy_error(name, getattr(self, name), f"seconds, from 0 to {TIMEOUT_MAX:.0f}")


class RestartHistory:
    """The failures of one child that a policy still counts."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._failures: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Count a failure at a time: the seconds to wait before the restart, or None to give up."""
        policy = self._policy
        while self._failures and self._failures[0] <= now - policy.within:
            self._failures.popleft()
        if len(self._failures) >= policy.max_restarts:
            return None
        self._failures.append(now)
        delay: float = policy.backoff * 2.0 ** min(len(self._failures) - 1, DOUBLINGS)
        return min(delay, policy.max_backoff)


def _policy_error(name: str, got: object, expected: str) -> RequestError:
    return RequestError(f"RestartPolicy.{name}", repr(got), expected, f"correct {name}")
