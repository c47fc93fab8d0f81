"""What executors that compute on the host share: a worker thread, so that their caller's stays free."""

from __future__ import annotations

import queue
import threading
from abc import abstractmethod
from collections.abc import Callable

from flashactor.errors import FlashAttnError, OutOfMemoryError
from flashactor.executors.answers import answer, closed_error, unexpected_error
from flashactor.executors.base import Done, Executor, Outcome, Work


class HostExecutor(Executor):
    """Computes work on one thread of its own, in the order in which it is submitted.

    The thread starts with the first work, and is a daemon: it keeps no process from ending. An executor that
    was abandoned can be used again: it leaves the thread to what it is at, and starts another.
    """

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._closed = False

    @abstractmethod
    def compute(self, work: Work) -> Outcome:
        """Compute work, on the executor's thread.

        Raises:
            FlashAttnError: it cannot; whatever else is raised is answered with ActorFailedError.
        """

    def prepare(self, work: Work) -> Work:
        """Nothing to get ready.

        Raises:
            ActorStoppedError: the executor is closed.
        """
        if self._closed:
            raise closed_error()
        return work

    def submit(self, work: Work, done: Done) -> None:
        """Queue the work for the executor's thread, which calls ``done``."""
        if self._closed:
            answer(done, Outcome(error=closed_error()))
            return
        worker = self._worker
        if worker is None:
            worker = self._worker = _Worker(f"flashactor-{self.name}", self.compute)
        worker.queue.put((work, done))

    def close(self) -> None:
        """Finish and answer what was submitted, and end the thread. Again, it does nothing."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.queue.put(None)
            worker.join()

    def abandon(self) -> None:
        """Answer nothing of what was submitted, and do not begin what has not begun. It does not wait."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.abandoned = True
            worker.queue.put(None)


class _Worker:
    """A thread that computes and answers what is put into its queue, until it finds None there.

    Attributes:
        abandoned: whether nothing is begun and answered any more.
    """

    def __init__(self, name: str, compute: Callable[[Work], Outcome]) -> None:
        self.queue: queue.SimpleQueue[tuple[Work, Done] | None] = queue.SimpleQueue()
        self.abandoned = False
        self._compute = compute
        self._thread = threading.Thread(target=self._compute_all, name=name, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end; on the thread itself it does not."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _compute_all(self) -> None:
        while self._compute_next():
            pass

    def _compute_next(self) -> bool:
        """Compute and answer the oldest work; False at the end. Its arrays go when this returns."""
        item = self.queue.get()
        if item is None:
            return False
        work, done = item
        if not self.abandoned:
            outcome = self._outcome(work)
            if not self.abandoned:
                answer(done, outcome)
        return True

    def _outcome(self, work: Work) -> Outcome:
        try:
            return self._compute(work)
        except FlashAttnError as error:
            return Outcome(error=error.with_traceback(None))  # its frames would keep the arrays alive
        except MemoryError as error:
            return Outcome(error=_no_host_memory(error, work))
        except BaseException as error:
            return Outcome(error=unexpected_error(error, f"computing {work.kernel_name}"))


def _no_host_memory(error: MemoryError, work: Work) -> OutOfMemoryError:
    return OutOfMemoryError(
        field="host memory",
        got=f"{error or 'MemoryError'} while computing {work.kernel_name}",
        expected="enough free memory",
        remedy="split the batch, or shorten the sequences: the host executors hold whole score matrices",
    )
