"""Requests on their way, and the package's loggers as they were."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from flashactor import DispatchKey, DType, SmArch

KEY = DispatchKey(SmArch.SM90A, DType.BF16, 128, causal=True, gqa_ratio=4)


@dataclass
class Event:
    """A request between two steps."""

    actor: str = "decode"
    request_id: int = 7
    caller: Any = None
    priority: int = 2
    key: DispatchKey | None = KEY
    kernel_name: str = KEY.kernel_name()
    executor_name: str = "mock"
    asked_at: float = field(default_factory=time.perf_counter)
    taken_at: float = 0.0
    launched_at: float = 0.0
    settled_at: float = 0.0
    compile_seconds: float = 0.25
    launch_seconds: float = 0.5
    error: BaseException | None = None
    notes: dict = field(default_factory=dict)

    def go_through(self, observer, error=None):
        """All steps: taken after 1 s, launched after 2 s, settled after 4 s."""
        observer.asked(self)
        self.taken_at = self.asked_at + 1.0
        observer.launching(self)
        self.launched_at = self.asked_at + 2.0
        observer.launched(self)
        self.settled_at, self.error = self.asked_at + 4.0, error
        observer.settled(self)


@pytest.fixture
def event():
    """A request that was asked just now."""
    return Event()


@pytest.fixture(autouse=True)
def loggers_as_before():
    """Puts the package's logger back."""
    logger = logging.getLogger("flashactor")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before
