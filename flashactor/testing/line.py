"""Answers that leave in the order of their launches, each when it is due: what a stream does to kernels."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from flashactor.errors import AskTimeoutError


class Gate:
    """Holds answers back until the test releases them. As a context manager it releases at the end."""

    def __init__(self, line: Line) -> None:
        self._changed = line.changed
        self._held = 0
        self._open = False

    @property
    def held(self) -> int:
        """How much work has come to this gate, whether it still waits there or not."""
        return self._held

    @property
    def is_open(self) -> bool:
        """Whether it holds nothing back any more."""
        return self._open

    def release(self) -> None:
        """Let go of what is held, and hold nothing from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait(self, held: int = 1, timeout: float = 5.0) -> None:
        """Wait until as much work has come to the gate.

        Args:
            timeout: seconds.

        Raises:
            AskTimeoutError: less has come in that time.
        """
        with self._changed:
            if not self._changed.wait_for(self._enough(held), timeout):
                raise too_few("work at the gate", self._held, held, timeout)

    def _enough(self, held: int) -> Callable[[], bool]:
        def enough() -> bool:
            return self._held >= held

        return enough

    def _enter(self) -> None:
        self._held += 1
        self._changed.notify_all()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


class Place:
    """One launch's place in a line; its answer is None until it is known."""

    __slots__ = ("answer", "due", "gate")

    def __init__(self, gate: Gate | None) -> None:
        self.answer: Callable[[], None] | None = None
        self.due = 0.0
        self.gate = gate


class Line:
    """Places in the order of launches. None is answered before those in front of it.

    What is due at once is answered by the thread that brings it. For the rest there is a thread as long as
    something waits for its time or its gate.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._places: deque[Place] = deque()
        self._delivering = False  # by one thread at a time, or answers would overtake each other
        self._thread: threading.Thread | None = None

    def enter(self, gate: Gate | None = None) -> Place:
        """A place at the end. One that never gets an answer keeps everything behind it from leaving."""
        place = Place(gate)
        with self.changed:
            self._places.append(place)
            if gate is not None:
                gate._enter()
        return place

    def leave(self, place: Place, answer: Callable[[], None], seconds: float = 0.0) -> None:
        """Have a place answered once its turn has come, its gate is open and ``seconds`` have passed."""
        with self.changed:
            place.answer = answer
            place.due = monotonic() + seconds if seconds else 0.0
            if self._delivering:
                return
            self._delivering = True
        self._deliver(may_wait=False)

    def close(self) -> None:
        """Open every gate, and wait until all is answered that is in front of the first without an answer.

        Nothing will answer that one any more: it hangs, and what is behind it with it.
        """
        with self.changed:
            answered: deque[Place] = deque()
            for place in self._places:
                if place.answer is None:
                    break
                answered.append(place)
                if place.gate is not None:
                    place.gate.release()
            self._places = answered
            self.changed.notify_all()
            self.changed.wait_for(self._idle)
            thread = self._thread
        if thread is not None:
            thread.join()

    def abandon(self) -> None:
        """Forget every place. An answer that is just being given may still arrive."""
        with self.changed:
            self._places.clear()
            self.changed.notify_all()

    def _idle(self) -> bool:
        return not self._delivering

    def _deliver(self, *, may_wait: bool) -> None:
        while (place := self._next(may_wait=may_wait)) is not None:
            try:
                if place.answer is not None:
                    place.answer()
            except BaseException:
                self._drop(place, delivering=False)
                raise
            self._drop(place, delivering=True)

    def _next(self, *, may_wait: bool) -> Place | None:
        """The first place, once it can leave; None where that is for another call, or another thread."""
        with self.changed:
            while self._places and self._places[0].answer is not None:
                first = self._places[0]
                shut = first.gate is not None and not first.gate.is_open
                left = first.due - monotonic() if first.due else 0.0
                if not shut and left <= 0.0:
                    return first
                if not may_wait:
                    self._thread = threading.Thread(
                        target=self._deliver, kwargs={"may_wait": True}, name="flashactor-line", daemon=True
                    )
                    self._thread.start()
                    return None
                self.changed.wait(None if shut else left)
            self._delivering = False
            self.changed.notify_all()
            return None

    def _drop(self, place: Place, *, delivering: bool) -> None:
        with self.changed:
            if self._places and self._places[0] is place:  # else the line was abandoned meanwhile
                self._places.popleft()
            self._delivering = delivering
            self.changed.notify_all()


def too_few(what: str, came: int, wanted: int, timeout: float) -> AskTimeoutError:
    """The error of a test that waited for more than came."""
    return AskTimeoutError(
        field=what,
        got=f"{came} after {timeout} s",
        expected=f"at least {wanted}",
        remedy="check that the code under test asks for it, and that nothing in front of it is held",
    )
