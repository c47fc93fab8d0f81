"""Executors that fail, and what makes them."""

import threading

from actor_tools import PATIENCE, Kernels, message

from flashactor import FlashAttnActor, FlashAttnProps, RestartPolicy
from flashactor.executors.base import Executor, Outcome
from flashactor.executors.cuda_errors import poisoned_error
from flashactor.testing import FaultInjectingExecutor, FaultPlan

AT_ONCE = RestartPolicy(max_restarts=3, within=60.0, backoff=0.0)


class Factory:
    """Makes executors: an actor's, one after the other.

    Attributes:
        made: what it has made, oldest first.
        failures: errors that the next calls raise, first to last.
    """

    def __init__(self, make=Kernels):
        self.made, self.failures = [], []
        self._make = make
        self._changed = threading.Condition()

    def __call__(self):
        if self.failures:
            raise self.failures.pop(0)
        with self._changed:
            self.made.append(self._make())
            self._changed.notify_all()
            return self.made[-1]

    def wait(self, count):
        """The executor of that number, from 1, once it is made."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.made) >= count, PATIENCE), "it was not restarted"
            return self.made[count - 1]


class FaultyKernels(FaultInjectingExecutor):
    """Kernels, some of which fail as planned."""

    def __init__(self, plan, renewable=True, **options):
        self.kernels = Kernels(**options)
        super().__init__(self.kernels, plan=plan, renewable=renewable)

    @property
    def launched(self):
        """Numbers of the messages whose kernels were launched."""
        return self.kernels.launched


def faulty(*faults, **options):
    """A factory of kernels with faults, counted over all that it makes."""
    plan = FaultPlan(*faults)
    return Factory(lambda: FaultyKernels(plan, **options))


def launched(factory):
    """The numbers of all that was launched, by any of its executors, in order."""
    return [number for executor in factory.made for number in executor.launched]


def start(factory, restart=AT_ONCE, **props):
    return FlashAttnActor.start(FlashAttnProps(restart=restart, **props), factory)


def ask_all(actor, count):
    return [actor.ask(message(number)) for number in range(count)]


def settled(pendings):
    """What messages were answered with: numbers, or errors."""
    for pending in pendings:
        pending.wait(PATIENCE)
    return [pending.error or pending.result().out for pending in pendings]


def kinds(answers):
    """Numbers, and names of errors in place of errors."""
    return [answer if isinstance(answer, int) else type(answer).__name__ for answer in answers]


class Stuck(Kernels):
    """Kernels whose launch, or preparation, of one number does not return before ``release``."""

    def __init__(self, *, submitting=None, preparing=None, refusing=False):
        super().__init__(held=False)
        self.entered, self.release = threading.Event(), threading.Event()
        self.thread = None
        self._submitting, self._preparing, self._refusing = submitting, preparing, refusing

    def prepare(self, work):
        self._block(work, self._preparing)
        return super().prepare(work)

    def submit(self, work, done):
        if self._block(work, self._submitting) and self._refusing:
            done(Outcome(error=poisoned_error("an illegal address"), refused=True))
            return
        super().submit(work, done)

    def _block(self, work, number):
        if number is None or work.request.softmax_scale != number + 1:
            return False
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.release.wait(PATIENCE), "the test never released it"
        return True


class Raising(Executor):
    """Raises something wherever it is told to.

    Attributes:
        errors: name of a function -> what its next call raises.
    """

    name = "raising"

    def __init__(self, **errors):
        self.errors = errors
        self.kernels = Kernels(held=False)

    @property
    def launched(self):
        """Numbers of the messages whose kernels were launched."""
        return self.kernels.launched

    def prepare(self, work):
        self._raise("prepare")
        return self.kernels.prepare(work)

    def submit(self, work, done):
        self._raise("submit")
        self.kernels.submit(work, done)

    def close(self):
        self._raise("close")

    def abandon(self):
        self._raise("abandon")

    def _raise(self, function):
        error = self.errors.pop(function, None)
        if error is not None:
            raise error
