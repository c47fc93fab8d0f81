"""Which launches and compiles of an executor fail, and how: planned by number, or drawn with a seed."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from flashactor.errors import RequestError
from flashactor.types import is_count, is_seconds


class FaultKind(Enum):
    """What can go wrong with a request on a device."""

    FAIL_LAUNCH = "fail_launch"
    POISON = "poison"
    OUT_OF_MEMORY = "out_of_memory"
    HANG = "hang"
    CRASH = "crash"
    SLOW = "slow"
    COMPILE_ERROR = "compile_error"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong; make it with one of the class methods.

    Launches are counted from 1 for each plan, those that fail included.

    Attributes:
        kind: what happens.
        nth: number of the first launch that it happens to; for a compile error, of the first request that
            is prepared.
        times: how many in a row it happens to.
        seconds: how much later a slow kernel completes.

    Raises:
        RequestError: a number is one that it cannot be.
    """

    kind: FaultKind
    nth: int
    times: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("nth", "times"):
            if not is_count(getattr(self, name), 1):
                raise _fault_error(name, getattr(self, name), "an integer of at least 1")
        _check_seconds(self.seconds)

    @classmethod
    def fail_launch(cls, nth: int, times: int = 1) -> Fault:
        """LaunchError: the driver refuses the launch. A retry is safe."""
        return cls(FaultKind.FAIL_LAUNCH, nth, times)

    @classmethod
    def out_of_memory(cls, nth: int, times: int = 1) -> Fault:
        """OutOfMemoryError: no room for an output. A retry is safe."""
        return cls(FaultKind.OUT_OF_MEMORY, nth, times)

    @classmethod
    def poison(cls, nth: int) -> Fault:
        """ContextPoisonedError: a kernel faults, and so does everything after it on this executor."""
        return cls(FaultKind.POISON, nth)

    @classmethod
    def hang(cls, nth: int) -> Fault:
        """No answer at all, for this launch and for those behind it, as on a stream."""
        return cls(FaultKind.HANG, nth)

    @classmethod
    def crash(cls, nth: int) -> Fault:
        """The executor itself breaks: an error that is none of flashactor's comes out of ``submit``."""
        return cls(FaultKind.CRASH, nth)

    @classmethod
    def slow(cls, nth: int, seconds: float) -> Fault:
        """The answer comes so much later, and those behind it not before it."""
        return cls(FaultKind.SLOW, nth, seconds=seconds)

    @classmethod
    def compile_error(cls, nth: int, times: int = 1) -> Fault:
        """CompileError: the kernel of the n-th request that is prepared does not compile.

        A request that waits while its actor is restarted is prepared again, and counts again.
        """
        return cls(FaultKind.COMPILE_ERROR, nth, times)

    @staticmethod
    def randomly(
        rate: float,
        seed: int,
        kinds: Iterable[FaultKind | str] = (FaultKind.FAIL_LAUNCH, FaultKind.OUT_OF_MEMORY),
        seconds: float = 0.01,
    ) -> RandomFaults:
        """Faults of some kinds, equally often, at a share of all launches; the same ones for the same seed.

        Args:
            rate: share of the launches, from 0 to 1; of the requests that are prepared, for compile errors.
            seed: any integer.
            kinds: which; names such as ``"slow"`` will do.
            seconds: how much later slow kernels complete.

        Raises:
            RequestError: the rate, a kind or the seconds are none.
        """
        if not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise _fault_error("rate", rate, "a share from 0 to 1")
        if not is_count(seed, -sys.maxsize):
            raise _fault_error("seed", seed, "an integer")
        _check_seconds(seconds)
        try:
            chosen = tuple(FaultKind(kind) for kind in kinds)
        except (TypeError, ValueError) as error:
            raise _fault_error("kinds", str(error), ", ".join(kind.value for kind in FaultKind)) from None
        if not chosen:
            raise _fault_error("kinds", (), "at least one of " + ", ".join(kind.value for kind in FaultKind))
        return RandomFaults(rate, seed, chosen, seconds)


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Faults that are drawn; ``Fault.randomly`` makes it."""

    rate: float
    seed: int
    kinds: tuple[FaultKind, ...]
    seconds: float


class Injected(NamedTuple):
    """A fault that happened: its kind, and the number of the launch, or of the prepared request."""

    number: int
    kind: FaultKind


class FaultPlan:
    """Faults, and the count of launches so far.

    Executors that share a plan share its count: so a plan goes on where a restarted actor's executor replaces
    another one, and a fault that has happened does not happen again.
    """

    def __init__(self, *faults: Fault | RandomFaults) -> None:
        self._lock = threading.Lock()
        self._launches = _Sequence(faults, compiling=False)
        self._compiles = _Sequence(faults, compiling=True)
        self._injected: list[Injected] = []

    @property
    def injected(self) -> tuple[Injected, ...]:
        """What has happened so far, in order."""
        with self._lock:
            return tuple(self._injected)

    def next_launch(self) -> Fault | None:
        """Count a launch: what happens to it."""
        return self._next(self._launches)

    def next_compile(self) -> Fault | None:
        """Count a request that is prepared: what happens to it."""
        return self._next(self._compiles)

    def _next(self, sequence: _Sequence) -> Fault | None:
        with self._lock:
            fault = sequence.next()
            if fault is not None:
                self._injected.append(Injected(sequence.number, fault.kind))
            return fault


class _Sequence:
    """The faults of one step.

    Launches and compiles draw from sequences of their own: how many requests are prepared ahead is a matter
    of time, and must change nothing about the launches.
    """

    def __init__(self, faults: tuple[Fault | RandomFaults, ...], *, compiling: bool) -> None:
        self.number = 0
        self._planned: list[Fault] = []
        self._drawn: list[tuple[RandomFaults, tuple[FaultKind, ...], random.Random]] = []
        for fault in faults:
            if not isinstance(fault, Fault | RandomFaults):
                raise _fault_error("faults", fault, "what the class methods of Fault make")
            if isinstance(fault, Fault):
                if (fault.kind is FaultKind.COMPILE_ERROR) is compiling:
                    self._planned.append(fault)
                continue
            kinds = tuple(kind for kind in fault.kinds if (kind is FaultKind.COMPILE_ERROR) is compiling)
            if kinds:
                self._drawn.append((fault, kinds, random.Random(fault.seed)))

    def next(self) -> Fault | None:
        self.number += 1
        drawn = [self._draw(*source) for source in self._drawn]  # all of them, whatever was planned
        planned = [fault for fault in self._planned if fault.nth <= self.number < fault.nth + fault.times]
        return next((fault for fault in [*planned, *drawn] if fault is not None), None)

    def _draw(
        self, faults: RandomFaults, kinds: tuple[FaultKind, ...], source: random.Random
    ) -> Fault | None:
        if source.random() >= faults.rate:
            return None
        kind = source.choice(kinds)
        return Fault(kind, self.number, seconds=faults.seconds if kind is FaultKind.SLOW else 0.0)


def _check_seconds(seconds: float) -> None:
    if not is_seconds(seconds):
        raise _fault_error("seconds", seconds, "seconds that a thread can wait")


def _fault_error(name: str, got: object, expected: str) -> RequestError:
    return RequestError(field=name, got=repr(got), expected=expected, remedy=f"correct {name}")
