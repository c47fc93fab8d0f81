"""What became of each message of a soak, by its number; thread-safe."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from typing import Any

from flashactor.actor.reply import AttentionReply, PendingReply
from flashactor.errors import AskCancelledError, AskTimeoutError
from flashactor.executors.base import Outputs, Work
from flashactor.telemetry.events import Observer, RequestEvent

SHOWN = 20


class Account(Observer):
    """Holds every message to the rules: one answer each, its own result, no launch that an error denies.

    A message's number travels as the softmax scale of its request and comes back as the output. As an
    observer, it holds the actor's own account to the same: each request settles once.

    Attributes:
        wrong: what was against the rules; the first of it.
        outcomes: how many messages ended in a result ("reply") or in which error.
    """

    def __init__(self, messages: int) -> None:
        self.wrong: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self._answers = bytearray(messages)
        self._launches = bytearray(messages)
        self._never_launched = bytearray(messages)
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def compute(self, work: Work) -> Outputs:
        """What the mock computes: the number of the message."""
        number = int(work.request.softmax_scale or 0) - 1
        with self._lock:
            self._launches[number] += 1
        return Outputs(out=number)

    def follow(self, number: int, pending: PendingReply[AttentionReply]) -> None:
        """Count the answer to a message."""
        pending.add_done_callback(partial(self._answered, number))

    def asked(self, event: RequestEvent) -> None:
        """A request comes to the actor."""
        with self._lock:
            self._open.add(event.request_id)

    def settled(self, event: RequestEvent) -> None:
        """A request is answered."""
        with self._lock:
            if event.request_id in self._open:
                self._open.remove(event.request_id)
            else:
                self._report(f"request {event.request_id} was settled twice")

    def _answered(self, number: int, pending: PendingReply[AttentionReply]) -> None:
        error = pending.error
        self.answered(number, pending.result() if error is None else None, error)

    def answered(self, number: int, reply: AttentionReply | None, error: BaseException | None) -> None:
        """Count an answer."""
        with self._lock:
            self.outcomes["reply" if error is None else type(error).__name__] += 1
            self._answers[number] += 1
            if reply is not None and reply.out != number:
                self._report(f"message {number} got the result of {reply.out}")
            if isinstance(error, AskTimeoutError | AskCancelledError) and error.retry_safe:
                self._never_launched[number] = 1

    def close(self, received: int, answered: int) -> None:
        """After the last answer: look at every message, and at what the actor counted itself."""
        messages = len(self._answers)
        for number in range(messages):
            if self._answers[number] != 1:
                self._report(f"message {number} was answered {self._answers[number]} times")
            if self._launches[number] > 1:
                self._report(f"message {number} was computed {self._launches[number]} times")
            if self._never_launched[number] and self._launches[number]:
                self._report(f"message {number} was computed though its error says that it was not")
        if self._open:
            self._report(f"{len(self._open)} requests were never settled")
        if not received == answered == messages:
            self._report(f"the actor counts {received} messages and {answered} answers of {messages}")

    def _report(self, what: str) -> None:
        if len(self.wrong) < SHOWN:
            self.wrong.append(what)


def result_or_error(found: Any) -> tuple[AttentionReply | None, BaseException | None]:
    """An entry of what ``ask_many(..., return_errors=True)`` returns."""
    return (None, found) if isinstance(found, BaseException) else (found, None)
