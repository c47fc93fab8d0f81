"""A mock that completes on a thread of its own, in the order of the launches: what a device's stream does."""

from __future__ import annotations

from collections.abc import Callable

from flashactor.executors.base import Outcome, Outputs, Work
from flashactor.executors.host import HostExecutor


class StreamMock(HostExecutor):
    """Answers what is submitted with what a function returns for it, from another thread."""

    name = "stream-mock"

    def __init__(self, script: Callable[[Work], Outputs]) -> None:
        super().__init__()
        self._script = script

    def compute(self, work: Work) -> Outcome:
        """What the function returns."""
        return Outcome(outputs=self._script(work))
