"""The actor: it takes messages in order, resolves each, and hands it to its executor.

A thin shell around pure functions. It owns the order, the accounting and the failures; what is computed,
and how, is the executor's.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pykka

from flashactor.actor.reply import AttentionReply, DeferredWakes, PendingReply, Timings
from flashactor.dispatch import DispatchKey
from flashactor.errors import ActorFailedError, ActorStoppedError, AskTimeoutError, FlashAttnError
from flashactor.executors.base import Executor, Outcome, Work
from flashactor.requests import AttentionRequest

log = logging.getLogger("flashactor.actor")


@dataclass(frozen=True, slots=True)
class ActorStats:
    """Counts since the actor started.

    Attributes:
        received: messages that were asked or told.
        completed: requests answered with a result.
        failed: requests answered with an error.
        pending: requests not answered yet.
    """

    received: int
    completed: int
    failed: int
    pending: int


class Ledger:
    """Every message that is not answered yet. Each leaves it exactly once, whatever happens to the actor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Ask] = set()
        self._received = self._completed = self._failed = 0

    def enter(self, ask: Ask) -> None:
        """Count a message as received and not answered."""
        with self._lock:
            self._received += 1
            self._open.add(ask)

    def leave(self, ask: Ask, *, failed: bool) -> bool:
        """Count a message as answered; False if it was already."""
        with self._lock:
            if ask not in self._open:
                return False
            self._open.remove(ask)
            if failed:
                self._failed += 1
            else:
                self._completed += 1
            return True

    def unanswered(self) -> list[Ask]:
        """The messages that are not answered."""
        with self._lock:
            return list(self._open)

    def stats(self) -> ActorStats:
        """The counts of this moment."""
        with self._lock:
            return ActorStats(self._received, self._completed, self._failed, len(self._open))


class Ask:
    """One message on its way through the actor, with the reply that it owes (None for ``tell``).

    It lets go of the request when the actor takes it and of the reply when it is answered: pykka's loop holds
    on to the last message until the next one comes, and that must not keep arrays alive.
    """

    __slots__ = (
        "asked_at",
        "executor_name",
        "kernel_name",
        "key",
        "ledger",
        "pending",
        "request",
        "taken_at",
    )

    def __init__(self, pending: PendingReply[AttentionReply] | None, ledger: Ledger) -> None:
        self.pending = pending
        self.ledger = ledger
        self.asked_at = perf_counter()
        self.taken_at = self.asked_at
        self.request: AttentionRequest | None = None
        self.key: DispatchKey | None = None
        self.kernel_name = self.executor_name = ""

    def take(self, executor: Executor) -> Work:
        """The work that the request comes to on an executor.

        Raises:
            DispatchError, RequestError: the request is impossible there.
        """
        self.taken_at = perf_counter()
        self.executor_name = executor.name
        request, self.request = self.request, None
        if request is None:
            raise _no_request()
        self.key, self.kernel_name = request.resolve(executor.arch)
        return Work(request, self.key, self.kernel_name)

    def finish(self, outcome: Outcome) -> None:
        """Answer with what the executor made of the work."""
        outputs, key = outcome.outputs, self.key
        if outcome.error is not None or outputs is None or key is None:
            self.fail(outcome.error or _no_outcome(self.executor_name))
            return
        if not self.ledger.leave(self, failed=False):
            return
        pending, self.pending = self.pending, None
        if pending is None:
            return
        queued = self.taken_at - self.asked_at
        compiled, launched = outcome.compile_seconds, outcome.launch_seconds
        completed = perf_counter() - self.taken_at - compiled - launched
        pending.settle(
            AttentionReply(
                key,
                self.kernel_name,
                self.executor_name,
                Timings(queued, compiled, launched, completed),
                outputs.out,
                outputs.lse,
                outputs.dq,
                outputs.dk,
                outputs.dv,
                outputs.dsink_logits,
                outputs.dalibi_slopes,
            )
        )

    def fail(self, error: BaseException) -> None:
        """Answer with an error; a told message has no one to answer, so its error is logged."""
        if not self.ledger.leave(self, failed=True):
            return
        pending, self.pending, self.request = self.pending, None, None
        if pending is None:
            log.error("told message failed: %s: %s", type(error).__name__, error)
        else:
            pending.settle(None, error)


class Inbox:
    """An inbox for pykka: a queue in C (pykka's own is written in Python) that flushes wake-ups."""

    def __init__(self) -> None:
        self.wakes = DeferredWakes()
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.put = waiting.put
        self.empty = waiting.empty
        self._get = waiting.get

    def get(self) -> Any:
        """The next message, when there is one."""
        self.wakes.flush()
        return self._get()


class DispatchActor(pykka.ThreadingActor):
    """The receive loop. ``FlashAttnActor`` is what one starts and talks to."""

    actor_inbox: Inbox

    # An interpreter that exits with an actor still running must not hang on its thread.
    use_daemon_thread = True

    def __init__(
        self, executor: Executor, ledger: Ledger, on_work: Callable[[Work], None] | None = None
    ) -> None:
        super().__init__()
        self._executor = executor
        self._ledger = ledger
        self._on_work = on_work

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Inbox()

    def on_start(self) -> None:
        """Let replies leave when this thread is about to wait."""
        self.actor_inbox.wakes.install()

    def on_receive(self, message: Any) -> None:
        """Resolve a message and submit its work; any error becomes the message's answer."""
        ask: Ask = message
        try:
            work = ask.take(self._executor)
            if self._on_work is not None:
                self._on_work(work)
            self._executor.submit(work, ask.finish)
        except FlashAttnError as error:
            ask.fail(error)
        except BaseException as error:
            log.exception("actor failed on a message")
            ask.fail(actor_failed(error))

    def on_stop(self) -> None:
        """Finish what was launched, then answer whoever is still waiting."""
        try:
            self._executor.close()
        finally:
            self.answer_the_rest()
            self.actor_inbox.wakes.flush()

    def on_failure(self, *_exception: Any) -> None:
        """As ``on_stop``, after an error that pykka caught."""
        self.on_stop()

    def answer_the_rest(self) -> None:
        """Answer every message that will not be taken any more."""
        for ask in self._ledger.unanswered():
            ask.fail(stopped_error())


def stopped_error(
    remedy: str = "start another with FlashAttnActor.start() and send it again",
) -> ActorStoppedError:
    """The answer to a message that the actor will not take."""
    return ActorStoppedError(
        field="actor",
        got="a stopped actor",
        expected="a running one",
        remedy=f"{remedy}: it was not computed",
    )


def busy_error(timeout: float | None) -> AskTimeoutError:
    """The error of a ``stop`` that did not end in time."""
    return AskTimeoutError(
        field="timeout",
        got=f"an actor still busy after {timeout} s",
        expected="the end of what was asked before",
        remedy="wait longer; the actor stops when it is done",
    )


def actor_failed(error: BaseException) -> ActorFailedError:
    """The answer to a message on which the actor itself failed."""
    failure = ActorFailedError(
        field="actor",
        got=f"{type(error).__name__}: {error}",
        expected="no error outside the FlashAttnError tree",
        remedy="report this as a bug of flashactor; the actor goes on",
    )
    failure.__cause__ = error
    return failure


def _no_request() -> ActorFailedError:
    return ActorFailedError(
        field="request",
        got="a message that was taken before",
        expected="each message once",
        remedy="report this as a bug of flashactor",
    )


def _no_outcome(executor_name: str) -> ActorFailedError:
    return ActorFailedError(
        field="outcome",
        got="neither outputs nor an error",
        expected="one of them",
        remedy=f"correct the {executor_name} executor",
    )
