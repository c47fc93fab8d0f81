"""An executor that answers what a test has written down for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from flashactor.errors import FlashAttnError, MockModeError, RequestError
from flashactor.executors.base import Done, Executor, Outcome, Outputs, Work
from flashactor.testing.line import Gate, Line
from flashactor.types import SmArch, is_count, is_seconds

Condition = Callable[[Work], bool]
"""Says of a request whether a test means it: what ``matching`` gives, or a function of the test's own."""


@dataclass(slots=True)
class _Rule:
    answer: Callable[[Work], Outcome]
    when: Condition | None
    left: int | None
    delay: float

    @property
    def catches_all(self) -> bool:
        return self.when is None and self.left is None

    def takes(self, work: Work) -> bool:
        return self.left != 0 and (self.when is None or self.when(work))


class ScriptedExecutor(Executor):
    """Computes nothing and answers by rules: each request gets the first one that fits and is not used up::

        executor = ScriptedExecutor()
        executor.fail(OutOfMemoryError, times=2)                      # the first two requests
        executor.reply(out="small", when=matching(head_dim=64))       # then these, always
        executor.reply(out="large", delay=0.05)                       # and all others, after 50 ms

    A request without a rule is answered with MockModeError. Answers leave in the order of the launches, as
    kernels of one stream complete: nothing overtakes what is held or delayed in front of it. An answer that
    nothing holds back is given before ``submit`` returns, so tests without delays need no waiting.

    Rules may be added at any time, from any thread, and survive ``close``: one executor can serve several
    actors, one after the other.
    """

    name = "scripted"

    def __init__(self, arch: SmArch | None = None) -> None:
        self.arch = arch
        self._lock = threading.RLock()  # a condition may add rules
        self._rules: list[_Rule] = []
        self._holds: list[tuple[Condition | None, Gate]] = []
        self._line = Line()

    def reply(
        self, *, when: Condition | None = None, times: int | None = None, delay: float = 0.0, **arrays: Any
    ) -> Self:
        """Answer with arrays: ``out``, ``lse``, ``dq``, ... (the fields of ``Outputs``); any object will do.

        Args:
            when: only such requests; default: all.
            times: so many of them, then never again; default: always.
            delay: seconds from the launch to the answer, at least.

        Raises:
            RequestError: an argument has a value that it cannot have, or a rule before catches everything.
        """
        unknown = sorted(set(arrays) - set(Outputs._fields))
        if unknown:
            raise _rule_error(
                unknown[0],
                "no output of an executor",
                "one of " + ", ".join(Outputs._fields),
                "correct the name",
            )
        outcome = Outcome(outputs=Outputs(**arrays))

        def answer(work: Work) -> Outcome:
            return outcome

        return self._add(answer, when, times, delay)

    def call(
        self,
        function: Callable[[Work], Outputs],
        *,
        when: Condition | None = None,
        times: int | None = None,
        delay: float = 0.0,
    ) -> Self:
        """Answer with what a function returns for the work, or with what it raises.

        It is called at the launch, on the actor's thread. The other arguments are those of ``reply``.
        """
        if not callable(function):
            raise _rule_error("function", repr(function), "a function of the work", "correct function")

        def answer(work: Work) -> Outcome:
            return Outcome(outputs=function(work))

        return self._add(answer, when, times, delay)

    def fail(
        self,
        error: BaseException | type[BaseException],
        *,
        when: Condition | None = None,
        times: int | None = None,
        delay: float = 0.0,
    ) -> Self:
        """Answer with an error, or with a new one of a type. The other arguments are those of ``reply``."""
        if not issubclass(error if isinstance(error, type) else type(error), BaseException):
            raise _rule_error("error", repr(error), "an exception, or a type of one", "correct error")
        if isinstance(error, type):
            _new_error(error, "a request")  # a type that takes other arguments shows here, not in the actor

        def answer(work: Work) -> Outcome:
            return Outcome(error=_new_error(error, work.kernel_name) if isinstance(error, type) else error)

        return self._add(answer, when, times, delay)

    def hold(self, *, when: Condition | None = None) -> Gate:
        """Launch from now on, but answer only after ``release`` of the gate, then as the rules say.

        ``close`` releases it too.
        """
        _check_condition(when)
        gate = Gate(self._line)
        with self._lock:
            self._holds.append((when, gate))
        return gate

    def clear(self) -> None:
        """Forget all rules, and release what is held."""
        with self._lock:
            self._rules.clear()
            holds, self._holds = self._holds, []
        for _, gate in holds:
            gate.release()

    def submit(self, work: Work, done: Done) -> None:
        """Launch: choose the rule now, and answer when it says."""
        delay, gate = 0.0, None
        try:
            rule, gate = self._rule_and_gate(work)
            delay = rule.delay
            outcome = rule.answer(work)
        except Exception as error:  # of the rule's function or condition, which are the test's
            outcome = Outcome(error=error)
        self._line.leave(self._line.enter(gate), partial(done, outcome), delay)

    def close(self) -> None:
        """Release what is held, wait for what is delayed, and answer both."""
        self._line.close()

    def abandon(self) -> None:
        """Answer nothing of what was launched."""
        self._line.abandon()

    def _add(
        self, answer: Callable[[Work], Outcome], when: Condition | None, times: int | None, delay: float
    ) -> Self:
        _check_condition(when)
        if times is not None and not is_count(times, 1):
            raise _rule_error("times", repr(times), "an integer of at least 1, or None", "correct times")
        if not is_seconds(delay):
            raise _rule_error("delay", repr(delay), "seconds that a thread can wait", "correct delay")
        with self._lock:
            if any(rule.catches_all for rule in self._rules):
                raise _rule_error(
                    "rule",
                    "one behind a rule that takes every request",
                    "a rule that can be reached",
                    "add it first, give the other one when= or times=, or call clear() before",
                )
            self._rules.append(_Rule(answer, when, times, float(delay)))
        return self

    def _rule_and_gate(self, work: Work) -> tuple[_Rule, Gate | None]:
        """What answers the work, and what holds it: of several gates, the last that was made."""
        with self._lock:
            self._holds = [(when, gate) for when, gate in self._holds if not gate.is_open]
            gates = (gate for when, gate in reversed(self._holds) if when is None or when(work))
            gate = next(gates, None)
            rule = next((rule for rule in self._rules if rule.takes(work)), None)
            if rule is None:
                rule = _Rule(_answer_without_rule, None, None, 0.0)
            elif rule.left is not None:
                rule.left -= 1
            return rule, gate


def _answer_without_rule(work: Work) -> Outcome:
    return Outcome(
        error=MockModeError(
            field="script",
            got=f"no rule for {work.kernel_name}",
            expected="a rule that takes it",
            remedy="add one: executor.reply(out=...), .call(function) or .fail(error)",
        )
    )


def _check_condition(when: object) -> None:
    if when is not None and not callable(when):
        raise _rule_error("when", repr(when), "matching(...), or a function of the work", "correct when")


def _new_error(error_type: type[BaseException], kernel_name: str) -> BaseException:
    if issubclass(error_type, FlashAttnError):
        return error_type(
            field="script",
            got=f"a failure for {kernel_name}",
            expected="whatever the test is about",
            remedy="none: the test's script says so",
        )
    return error_type(f"a failure for {kernel_name}, as the test's script says")


def _rule_error(field: str, got: str, expected: str, remedy: str) -> RequestError:
    return RequestError(field=field, got=got, expected=expected, remedy=remedy)
