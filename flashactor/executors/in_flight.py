"""What is launched and not complete: one thread waits for it in order, answers it, and lets its arrays go."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flashactor.arrays import ArrayView
from flashactor.errors import FlashAttnError
from flashactor.executors.answers import answer
from flashactor.executors.base import Done, Outcome, Outputs, Work
from flashactor.executors.completion import Waiter
from flashactor.executors.cuda_driver import CudaDriver
from flashactor.executors.operands import outputs_of
from flashactor.telemetry.bound_log import LastingLogger

log = LastingLogger("flashactor.executors.cuda")


@dataclass(frozen=True, slots=True)
class Launched:
    """Launched work. It keeps every array that its kernels touch alive.

    Attributes:
        event: the end of its kernels.
        armed: what the waiter made for the event.
    """

    event: Any
    armed: Any
    work: Work
    arrays: Mapping[str, ArrayView]
    done: Done
    compile_seconds: float
    launch_seconds: float


class InFlight:
    """The work in flight on one stream, and the thread that completes it.

    The thread is a daemon, so a kernel that never ends keeps no process from ending.
    """

    def __init__(
        self,
        name: str,
        driver: CudaDriver,
        waiter: Waiter,
        map_error: Callable[[BaseException, str], FlashAttnError],
        release: Callable[[], None],
    ) -> None:
        """Start the thread.

        Args:
            name: of the thread.
            driver: of the device, whose context the thread makes current.
            waiter: how it waits for events.
            map_error: the error to answer with, for what was raised while doing something.
            release: called on the thread, at its end: nothing is in flight any more.
        """
        self._driver = driver
        self._waiter = waiter
        self._map_error = map_error
        self._release = release
        self._abandoned = False
        self._queue: queue.SimpleQueue[Launched | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._complete_all, name=name, daemon=True)
        self._thread.start()

    def add(self, launched: Launched) -> None:
        """Have work completed that was launched behind all that was added before."""
        self._queue.put(launched)

    def wait_until_complete(self, timeout: float) -> None:
        """Wait until all that was added is answered and its arrays are let go, or for some seconds."""
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait(timeout)

    def end(self) -> None:
        """Let the thread end when it has completed what was added. It does not wait; call it once."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread's end; on the thread itself it does not."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self) -> None:
        """Answer nothing any more. The arrays stay until their events are reached all the same."""
        self._abandoned = True

    def _complete_all(self) -> None:
        while self._complete_next():
            pass
        try:
            self._driver.activate()
            self._release()
        except Exception:
            log.exception("the device could not be released")

    def _complete_next(self) -> bool:
        """Complete the oldest; False at the end. What it kept alive dies when this returns."""
        item = self._queue.get()
        if item is None:
            return False
        if isinstance(item, threading.Event):
            item.set()
            return True
        outcome = self._outcome(item)
        if not self._abandoned:
            answer(item.done, outcome)
        return True

    def _outcome(self, item: Launched) -> Outcome:
        outputs: Outputs | None = outputs_of(item.work.request, item.arrays)
        failure: FlashAttnError | None = None
        try:
            self._driver.activate()
            self._waiter.wait(item.event, item.armed)
        except BaseException as error:
            outputs, failure = None, self._map_error(error, f"running {item.work.kernel_name}")
        return Outcome(outputs, failure, item.compile_seconds, item.launch_seconds)
