"""How the cuda executor's completion thread learns that a kernel has ended: three ways, one interface."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from flashactor.executors.cuda_driver import CudaDriver
from flashactor.types import Completion

SPIN_SECONDS = 50e-6
FIRST_SLEEP_SECONDS = 20e-6
LONGEST_SLEEP_SECONDS = 1e-3
LOOK_SECONDS = 0.1
"""Longest time that a callback which never comes can delay an answer."""


class Waiter(Protocol):
    """Waits for events of one stream, in the order in which they were recorded."""

    def arm(self, stream: Any) -> Any:
        """Called right after an event was recorded; the result goes to ``wait`` with that event."""

    def wait(self, event: Any, armed: Any) -> None:
        """Block the completion thread until the event is reached; raises the error of a kernel before it."""


class EventWaiter:
    """Sleeps in the driver until the event is reached. It costs no processor time, and one wake-up."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver

    def arm(self, stream: Any) -> None:
        """Nothing to do: the event was recorded so that a thread can sleep on it."""

    def wait(self, event: Any, armed: Any) -> None:
        """Sleep, without the GIL, until the event is reached."""
        self._driver.wait(event)


class PollingWaiter:
    """Asks whether the event is reached: without a pause for 50 us, then after sleeps of 20 us, twice as
    long each time and 1 ms at most. Short kernels are noticed soonest; a processor core is busy meanwhile."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver

    def arm(self, stream: Any) -> None:
        """Nothing to do: any event can be asked."""

    def wait(self, event: Any, armed: Any) -> None:
        """Ask until the event is reached."""
        spin_until = time.perf_counter() + SPIN_SECONDS
        pause = FIRST_SLEEP_SECONDS
        while not self._driver.query(event):
            if time.perf_counter() < spin_until:
                time.sleep(0)  # lets a thread that waits for the GIL have it
            else:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_SLEEP_SECONDS)


class CallbackWaiter:
    """Is called by the driver, which wakes the completion thread; the next kernel of the stream waits for
    that call, and with it for the GIL. After a sticky error no callback comes, so the event is looked at
    every 100 ms too."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver

    def arm(self, stream: Any) -> threading.Event:
        """Enqueue the callback, behind the event. It does no more than to signal, and calls no CUDA."""
        called = threading.Event()
        self._driver.call_back(stream, called.set)
        return called

    def wait(self, event: Any, armed: threading.Event) -> None:
        """Sleep until the callback, or a look at the event, says that it is reached."""
        while not armed.wait(LOOK_SECONDS):
            if self._driver.query(event):
                return
        # The callback runs behind the event; this raises the error of a kernel, if there was one.
        self._driver.wait(event)


_WAITERS: dict[Completion, Callable[[CudaDriver], Waiter]] = {
    Completion.EVENT: EventWaiter,
    Completion.POLLING: PollingWaiter,
    Completion.CALLBACK: CallbackWaiter,
}


def make_waiter(completion: Completion, driver: CudaDriver) -> Waiter:
    """The waiter of a strategy."""
    return _WAITERS[completion](driver)
