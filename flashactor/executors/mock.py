"""The executor for unit tests: it records what it is given and computes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flashactor.errors import MockModeError, RequestError
from flashactor.executors.base import Done, Executor, Outcome, Outputs, Work
from flashactor.types import SmArch

REMEMBERED = 10_000
"""Number of most recent requests that a mock keeps: more than a test asserts on, and bounded."""


class MockExecutor(Executor):
    """Answers every request with MockModeError, or with what ``script`` returns or raises for it.

    Attributes:
        seen: the work that arrived, oldest first; the last ``REMEMBERED`` of it.
    """

    name = "mock"

    def __init__(self, script: Callable[[Work], Outputs] | None = None, arch: SmArch | None = None) -> None:
        if script is not None and not callable(script):
            raise RequestError(
                field="script",
                got=repr(script),
                expected="a function of the work that returns Outputs, or nothing",
                remedy="write MockExecutor(lambda work: Outputs(out=...))",
            )
        self.arch = arch
        self.seen: deque[Work] = deque(maxlen=REMEMBERED)
        self._script = script

    def submit(self, work: Work, done: Done) -> None:
        """Record the work and answer at once."""
        self.seen.append(work)
        if self._script is None:
            done(Outcome(error=_mock_mode_error(work.kernel_name)))
            return
        try:
            outcome = Outcome(outputs=self._script(work))
        except Exception as error:
            outcome = Outcome(error=error)
        done(outcome)


def _mock_mode_error(kernel_name: str) -> MockModeError:
    return MockModeError(
        field="executor",
        got=f"'mock' for {kernel_name}",
        expected="an executor that computes",
        remedy="assert on actor.seen, script the mock, or start the actor with executor='reference'",
    )
