"""Several replies to come, as one thing to wait for."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, overload

from flashactor.actor.reply import AttentionReply, PendingReply, to_seconds


class PendingReplies(Sequence[PendingReply[AttentionReply]]):
    """The replies to ``ask_many``, in the order of the messages.

    ``await`` gives the list of replies once all are there; ``results(timeout)`` does in a thread. The first
    error among them is raised, after all are settled; with ``return_errors`` errors are in the list instead.
    """

    def __init__(
        self, replies: Sequence[PendingReply[AttentionReply]], *, return_errors: bool = False
    ) -> None:
        self._replies = tuple(replies)
        self._return_errors = return_errors

    @overload
    def __getitem__(self, index: int) -> PendingReply[AttentionReply]: ...

    @overload
    def __getitem__(self, index: slice) -> PendingReplies: ...

    def __getitem__(self, index: int | slice) -> PendingReply[AttentionReply] | PendingReplies:
        if isinstance(index, slice):
            return PendingReplies(self._replies[index], return_errors=self._return_errors)
        return self._replies[index]

    def __len__(self) -> int:
        return len(self._replies)

    def __iter__(self) -> Iterator[PendingReply[AttentionReply]]:
        return iter(self._replies)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        outcomes = yield from self._collect()
        try:
            return self._answer(outcomes)
        finally:
            del self, outcomes  # an error has this frame from now on, and would keep all replies

    def _collect(self) -> Generator[Any, None, list[Any]]:
        outcomes: list[Any] = []
        try:
            for reply in self._replies:
                try:
                    outcomes.append((yield from reply.__await__()))
                except Exception as error:
                    outcomes.append(error.with_traceback(None))
        except BaseException:  # the task that awaits was cancelled, or its coroutine closed
            self.cancel()
            raise
        return outcomes

    def results(self, timeout: float | None = None) -> list[Any]:
        """The replies, waiting for at most ``timeout`` seconds for all of them together.

        Raises:
            AskTimeoutError: they are not all there in time; the requests go on.
            FlashAttnError: as ``PendingReply.result``.
        """
        self._wait(timeout)
        try:
            return self._answer([reply.error or reply.result() for reply in self._replies])
        finally:
            del self  # as in ``__await__``

    def cancel(self) -> int:
        """Cancel all that are not answered; how many there were."""
        return sum(reply.cancel() for reply in self._replies)

    def _wait(self, timeout: float | None) -> None:
        end = None if timeout is None else perf_counter() + to_seconds("timeout", timeout)
        for reply in self._replies:
            if not reply.done:
                reply.wait(None if end is None else max(end - perf_counter(), 0.0))

    def _answer(self, outcomes: list[Any]) -> list[Any]:
        error = next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)
        if error is None or self._return_errors:
            return outcomes
        try:
            raise error
        finally:
            del self, outcomes, error


def collected(
    replies: Iterable[PendingReply[AttentionReply]], *, return_errors: bool = False
) -> PendingReplies:
    """The replies to messages that are asked one after the other, as this takes them.

    Whatever is raised meanwhile comes out; what was asked before is cancelled then.
    """
    pending: list[PendingReply[AttentionReply]] = []
    try:
        for reply in replies:
            pending.append(reply)  # what there is at an error is cancelled
    except BaseException:  # of the messages' source, or KeyboardInterrupt: nobody will have the replies
        PendingReplies(pending).cancel()
        raise
    return PendingReplies(pending, return_errors=return_errors)
