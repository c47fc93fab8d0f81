"""What was launched, in order, and assertions on it that fail with a readable text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from flashactor.dispatch import DispatchKey
from flashactor.executors.base import Done, Executor, Marker, Outcome, Outputs, Work
from flashactor.requests import AttentionRequest
from flashactor.testing.line import too_few
from flashactor.testing.match import Described, matching
from flashactor.testing.wrapper import Wrapper
from flashactor.types import Direction

SHOWN = 20
"""Number of launches that the text of a failed assertion lists, the first ones."""


class Launch:
    """A request that reached an executor. It keeps the request's arrays alive.

    Attributes:
        number: from 1, in the order of the launches.
        request, key, kernel_name: what was asked for, and what it resolved to.
        stream: address of the caller's stream; None without one.
        outcome: how it ended; None as long as it has not.
    """

    __slots__ = ("kernel_name", "key", "number", "outcome", "request", "stream")

    def __init__(self, number: int, work: Work) -> None:
        self.number = number
        self.request: AttentionRequest = work.request
        self.key: DispatchKey = work.key
        self.kernel_name: str = work.kernel_name
        self.stream = work.stream
        self.outcome: Outcome | None = None

    @property
    def outputs(self) -> Outputs | None:
        """What it was answered with; None as long as it is not, and where it failed."""
        return None if self.outcome is None else self.outcome.outputs

    @property
    def error(self) -> BaseException | None:
        """Why it failed; None as long as it has not."""
        return None if self.outcome is None else self.outcome.error

    def __str__(self) -> str:
        if self.outcome is None:
            end = "not answered"
        else:
            end = "answered" if self.error is None else type(self.error).__name__
        return f"{self.number}. {self.kernel_name} ({type(self.request).__name__}): {end}"


class Recorder:
    """Keeps what reaches the executors that it watches::

        recorder = Recorder()
        with FlashAttnActor.start(executor=recorder.watch(ScriptedExecutor().reply())) as actor:
            code_under_test(actor)
        recorder.assert_asked(times=2, head_dim=64)
        recorder.assert_no_more()

    It may watch several executors, also those that a restarted actor gets. What is refused before it is
    launched (an impossible key, a full mailbox, a deadline in the queue) is not among its launches.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._launches: list[Launch] = []
        self._accounted: set[int] = set()

    def watch(self, executor: Executor) -> Executor:
        """An executor that does what another does, and is recorded."""
        return _Watched(executor, self)

    def __iter__(self) -> Iterator[Launch]:
        with self._changed:
            return iter(list(self._launches))

    def __len__(self) -> int:
        return len(self._launches)

    def __getitem__(self, index: int) -> Launch:
        return self._launches[index]

    @property
    def last(self) -> Launch:
        """The last launch.

        Raises:
            AssertionError: there was none.
        """
        launches = list(self)
        if not launches:
            raise AssertionError("expected a launch, but there was none")
        return launches[-1]

    @property
    def only(self) -> Launch:
        """The only launch.

        Raises:
            AssertionError: there was none, or more than one.
        """
        launches = list(self)
        if len(launches) != 1:
            raise AssertionError(f"expected exactly 1 launch, but there were {_listed(launches)}")
        return launches[0]

    def assert_asked(
        self,
        request: type[AttentionRequest] | None = None,
        *,
        times: int | None = None,
        when: Callable[[Described], bool] | None = None,
        kernel: str | None = None,
        direction: Direction | None = None,
        **values: Any,
    ) -> list[Launch]:
        """The launches that fit, which ``assert_no_more`` then takes as expected.

        Args:
            times: how many have to fit; default: at least one.
            when: a condition of the test's own, besides the others.
            request, kernel, direction, values: as for ``matching``.

        Raises:
            AssertionError: too many or too few fit; it lists what was launched.
            RequestError: there is no such field.
        """
        condition = matching(request, kernel=kernel, direction=direction, **values)
        launches = list(self)
        found = [launch for launch in launches if condition(launch) and (when is None or when(launch))]
        if (not found) if times is None else len(found) != times:
            wanted = "at least 1" if times is None else f"exactly {times}"
            own = "" if when is None else f" and {getattr(when, '__name__', when)}"
            raise AssertionError(
                f"expected {wanted} of: {condition}{own}; found {len(found)} among {_listed(launches)}"
            )
        with self._changed:
            self._accounted.update(launch.number for launch in found)
        return found

    def assert_no_more(self) -> None:
        """Every launch was found by an ``assert_asked`` before.

        Raises:
            AssertionError: some was not; it lists them.
        """
        rest = [launch for launch in self if launch.number not in self._accounted]
        if rest:
            raise AssertionError(f"expected no more launches, but there were {_listed(rest)}")

    def wait(self, times: int = 1, timeout: float = 5.0) -> None:
        """Wait until there were as many launches, answered or not: for code that nobody waits for.

        Args:
            timeout: seconds.

        Raises:
            AskTimeoutError: there were fewer in that time.
        """

        def enough() -> bool:
            return len(self._launches) >= times

        with self._changed:
            if not self._changed.wait_for(enough, timeout):
                raise too_few("launches", len(self._launches), times, timeout)

    def clear(self) -> None:
        """Forget all launches, and the arrays with them; numbers begin at 1 again."""
        with self._changed:
            self._launches.clear()
            self._accounted.clear()

    def _record(self, work: Work) -> Launch:
        with self._changed:
            number = self._launches[-1].number + 1 if self._launches else 1
            launch = Launch(number, work)
            self._launches.append(launch)
            self._changed.notify_all()
            return launch

    def _forget(self, launch: Launch) -> None:
        """The executor did not try it; the actor launches it again, on another one."""
        with self._changed:
            self._launches.remove(launch)


class _Watched(Wrapper):
    def __init__(self, inner: Executor, recorder: Recorder) -> None:
        super().__init__(inner)
        self._recorder = recorder

    def submit(self, work: Work, done: Done) -> Marker | None:
        launch = self._recorder._record(work)

        def end(outcome: Outcome) -> None:
            launch.outcome = outcome
            if outcome.refused:
                self._recorder._forget(launch)
            done(outcome)

        return self._inner.submit(work, end)


def _listed(launches: list[Launch]) -> str:
    if not launches:
        return "no launches"
    lines = [f"  {launch}" for launch in launches[:SHOWN]]
    if len(launches) > SHOWN:
        lines.append(f"  and {len(launches) - SHOWN} more")
    count = f"{len(launches)} launch" + ("" if len(launches) == 1 else "es")
    return f"{count}:\n" + "\n".join(lines)
