"""Actors whose kernels end when the test says so."""

import sys
import threading
from subprocess import PIPE, Popen

from flashactor import DType, Fa2FwdRequest, FlashAttnMsg, SmArch
from flashactor.executors.base import Executor, Outcome, Outputs, Work

PATIENCE = 10.0
"""Seconds after which a test that waits for another thread has failed."""


def message(number=0):
    """A message that ``number_of`` tells from others."""
    request = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, softmax_scale=float(number + 1))
    return FlashAttnMsg.forward(request)


def number_of(work):
    return int(work.request.softmax_scale) - 1


class Kernels(Executor):
    """Launches what it is given; each kernel answers with its number when the test lets it end.

    Attributes:
        prepared, launched: numbers in order.
        works: the work of each launch.
    """

    name = "kernels"

    def __init__(self, *, held=True, not_ready=()):
        """
        Args:
            held: whether kernels run until ``finish``, ``fail`` or ``open``.
            not_ready: numbers of those that are not compiled before ``deliver``.
        """
        self.prepared, self.launched, self.works = [], [], []
        self._held = held
        self._not_ready = {number: [] for number in not_ready}
        self._running = {}
        self._changed = threading.Condition()

    def prepare(self, work):
        number = number_of(work)
        with self._changed:
            self.prepared.append(number)
            self._changed.notify_all()
        return Compiling(work, self._not_ready) if number in self._not_ready else work

    def submit(self, work, done):
        number = number_of(work)
        with self._changed:
            self.launched.append(number)
            self.works.append(work)
            self._running[number] = done
            held = self._held
            self._changed.notify_all()
        if not held:
            self.finish(number)

    def deliver(self, number):
        """The kernel of a number is compiled."""
        for callback in self._not_ready.pop(number):
            callback()

    def finish(self, *numbers):
        for number in numbers:
            self._end(number, Outcome(outputs=Outputs(out=number)))

    def fail(self, number, error):
        self._end(number, Outcome(error=error))

    def open(self):
        """Let all kernels end, also those to come."""
        with self._changed:
            self._held = False
            running = list(self._running)
        self.finish(*running)

    def wait_launched(self, count=1):
        """Wait until as many were launched; their numbers."""
        self._wait(lambda: len(self.launched) >= count, "launches")
        return list(self.launched)

    def wait_prepared(self, *numbers):
        """Wait until the actor has taken messages in."""
        self._wait(lambda: set(numbers) <= set(self.prepared), "prepared work")

    def _wait(self, condition, what):
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), f"no such {what}: {self.launched}"

    def _end(self, number, outcome):
        with self._changed:
            done = self._running.pop(number, None)
        if done is not None:
            done(outcome)


class Compiling(Work):
    """Work whose kernel is not there yet."""

    __slots__ = ("_not_ready", "_number")

    def __init__(self, work, not_ready):
        super().__init__(work.request, work.key, work.kernel_name, work.stream)
        self._number, self._not_ready = number_of(work), not_ready

    @property
    def ready(self):
        return self._number not in self._not_ready

    def when_ready(self, callback):
        self._not_ready[self._number].append(callback)


def busy(start, **props):
    """An actor with one message in flight, and no place for another."""
    actor, kernels = start(max_in_flight=1, **props)
    actor.ask(message(0))
    kernels.wait_launched()
    return actor, kernels


async def reply_to(pending):
    """What a task is made of."""
    return await pending


class InThread:
    """Runs a function in a thread of its own."""

    def __init__(self, function, *arguments):
        self._outcome = None
        self._function, self._arguments = function, arguments
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._outcome = self._function(*self._arguments), None
        except BaseException as error:
            self._outcome = None, error

    @property
    def running(self):
        return self._thread.is_alive()

    def result(self):
        """What it returned, or what it raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the thread still waits"
        value, error = self._outcome
        if error is not None:
            raise error
        return value


def wait_until(condition, what="it"):
    """Wait for what no event tells of."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError(f"{what} never happened")


PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from actor_tools import *
from flashactor import FlashAttnActor, FlashAttnProps
from flashactor.errors import *
from flashactor.executors.mock import MockExecutor
"""


def start_script(code):
    """Another Python process that runs a program; ``message``, ``Kernels`` and the errors are imported."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PREAMBLE + code]
    folder = __file__.rpartition("/")[0]
    return Popen(command, stdout=PIPE, stderr=PIPE, text=True, env={"PYTHONPATH": folder, "PATH": ""})


def run_script(code, timeout=30.0):
    """What a program prints; it ends in time, with exit status 0 and nothing on stderr."""
    with start_script(code) as process:
        try:
            printed, complaints = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert (process.returncode, complaints) == (0, "")
    return printed.split()
