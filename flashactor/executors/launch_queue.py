"""The order of launches: one after the other as they were put, each when it is ready and has a place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Launchable(Protocol):
    """What can be put into the queue."""

    @property
    def ready(self) -> bool:
        """Whether it can be launched; once it is, it stays so."""


T = TypeVar("T", bound=Launchable)


class LaunchQueue(Generic[T]):
    """Launches items in order, at most ``places`` of them at a time.

    An item with nothing in its way is launched by the thread that puts it. One that has to wait is launched
    by a thread of the queue, so neither who puts, nor who brings what an item waits for, ever launches for
    others. No lock is held while an item is launched.
    """

    def __init__(self, places: int, launch: Callable[[T], bool], name: str) -> None:
        """Start the thread.

        Args:
            places: most items that are launched and not finished.
            launch: starts an item, and says whether it runs now. It must not raise.
            name: of the thread.
        """
        self._launch = launch
        self._items: deque[T] = deque()
        self._free = places
        self._launching = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._launch_all, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Launch an item now or later; False if the queue is closed."""
        with self._changed:
            if self._closing:
                return False
            at_once = not self._items and item.ready and self._take_turn()
            if not at_once:
                self._items.append(item)
                self._changed.notify_all()
        if at_once:
            self._run(item)
        return True

    def wake(self) -> None:
        """Say that an item has become ready."""
        with self._changed:
            if self._items:
                self._changed.notify_all()

    def free_place(self) -> None:
        """Say that a launched item has finished."""
        with self._changed:
            self._free += 1
            if self._items:
                self._changed.notify_all()

    def close(self) -> None:
        """Launch what is in the queue, take nothing more, and end the thread. A second call waits too."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _take_turn(self) -> bool:
        """With the lock: begin a launch, if no other is under way and a place is free."""
        if self._launching or not self._free:
            return False
        self._launching = True
        self._free -= 1
        return True

    def _run(self, item: T) -> None:
        runs = False
        try:
            runs = self._launch(item)
        finally:
            with self._changed:
                self._launching = False
                self._free += not runs
                if self._items or self._closing:
                    self._changed.notify_all()

    def _launch_all(self) -> None:
        while self._launch_next():
            pass

    def _launch_next(self) -> bool:
        """Wait for the first item's turn and launch it; False at the end. The item may die after this."""
        with self._changed:
            while not (self._items and self._items[0].ready and self._take_turn()):
                if self._closing and not self._items and not self._launching:
                    return False
                self._changed.wait()
            item = self._items.popleft()
        self._run(item)
        return True
