"""A device that records what it is told, and finishes or fails kernels when the test says so."""

import threading
from types import SimpleNamespace

from flashactor import Fa2FwdRequest, MaskKind, SmArch
from flashactor.actor.reply import PendingReply
from flashactor.executors.base import Work

PATIENCE = 10.0
"""Seconds after which a test that waits for another thread has failed."""

OUT, LSE = 16 << 28, 17 << 28
"""Addresses of the outputs that requests bring along."""

ILLEGAL_ADDRESS = "CUDA_ERROR_ILLEGAL_ADDRESS: while executing a kernel"


class DeviceArray:
    """An f16 (or other) array at a device address that nobody reads."""

    def __init__(self, *shape, typestr="<f2", ordinal=0, address=1 << 20):
        self.device = SimpleNamespace(id=ordinal)
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (address, False),
            "version": 3,
        }


class CudaError(Exception):
    """Stands for cuda.core's CUDAError: the result's name, a colon, an explanation."""


class FakeEvent:
    """An event that is reached, or fails, when the test says so."""

    def __init__(self):
        self._reached = threading.Event()
        self._error = None

    def complete(self):
        self._reached.set()

    def fail(self, error):
        self._error = error
        self._reached.set()

    def wait(self):
        assert self._reached.wait(PATIENCE), "the test never completed this event"
        if self._error is not None:
            raise self._error


class FakeDriver:
    """The interface of CudaDriver.

    Attributes:
        calls: (function, arguments...) in order, without ``activate``.
        active_threads: names of the threads that made the device's context current.
        events: the events that were recorded, oldest first.
        failures: function name -> error that its next call raises.
    """

    def __init__(self, arch=SmArch.SM90A, ordinal=0):
        self.arch = arch
        self.ordinal = ordinal
        self.calls = []
        self.active_threads = set()
        self.events = []
        self.failures = {}
        self._recorded = threading.Condition()

    def functions(self):
        return [call[0] for call in self.calls]

    def named(self, function):
        """The arguments of every call of a function."""
        return [call[1:] for call in self.calls if call[0] == function]

    def event(self, index):
        """The event of a launch, once it is there."""
        with self._recorded:
            assert self._recorded.wait_for(lambda: len(self.events) > index, PATIENCE), "no such launch"
            return self.events[index]

    def activate(self):
        self.active_threads.add(threading.current_thread().name)

    def create_stream(self):
        self._call("create_stream")
        return "own stream"

    def load(self, cubin, entry):
        self._call("load", cubin, entry)
        return f"kernel {entry}"

    def allow_shared_memory(self, kernel, size):
        self._call("allow_shared_memory", kernel, size)

    def wait_for(self, stream, producer):
        self._call("wait_for", stream, producer)

    def launch(self, stream, kernel, step):
        self._call("launch", stream, kernel, step)

    def record(self, stream):
        self._call("record", stream)
        with self._recorded:
            self.events.append(FakeEvent())
            self._recorded.notify_all()
            return self.events[-1]

    def wait(self, event):
        self._call("wait", event)
        event.wait()

    def synchronize(self, stream):
        self._call("synchronize", stream)

    def close_stream(self, stream):
        self._call("close_stream", stream)

    def _call(self, function, *arguments):
        self.calls.append((function, *arguments))
        error = self.failures.pop(function, None)
        if error is not None:
            raise error


class FakeKernels:
    """A source of kernels that counts what it is asked for; they are there at once, or when the test says.

    Attributes:
        asked: (specification, pending kernel) in order.
    """

    def __init__(self, *, at_once=True):
        self.asked = []
        self._at_once = at_once

    def ask(self, spec):
        pending = PendingReply()
        self.asked.append((spec, pending))
        if self._at_once:
            self.deliver(-1)
        return pending

    def deliver(self, index):
        spec, pending = self.asked[index]
        pending.settle(SimpleNamespace(cubin=b"cubin of " + spec.entry.encode()))

    def fail(self, index, error):
        self.asked[index][1].settle(None, error)


class Answer:
    """The ``done`` of one request."""

    def __init__(self):
        self._there = threading.Event()
        self._outcome = None
        self.count = 0
        self.thread = None

    def __call__(self, outcome):
        self._outcome = outcome
        self.count += 1
        self.thread = threading.current_thread().name
        self._there.set()

    @property
    def given(self):
        return self._there.is_set()

    @property
    def outcome(self):
        assert self._there.wait(PATIENCE), "no answer"
        return self._outcome


def arrays(array_type=DeviceArray, **options):
    """q, k, v, out and lse of a small causal request with 2 query heads for each key head."""
    q = array_type(2, 100, 4, 128, **options)
    k, v = array_type(2, 130, 2, 128, **options), array_type(2, 130, 2, 128, **options)
    out = array_type(2, 100, 4, 128, address=OUT, **options)
    return q, k, v, out, array_type(2, 4, 100, typestr="<f4", address=LSE, **options)


def request(array_type=DeviceArray, **options):
    q, k, v, out, lse = arrays(array_type)
    return Fa2FwdRequest.from_arrays(q, k, v, out=out, lse=lse, **{"mask": MaskKind.causal(), **options})


def work_of(a_request):
    return Work(a_request, *a_request.resolve(SmArch.SM90A))


def submit(executor, a_request=None):
    answer = Answer()
    executor.submit(work_of(a_request or request()), answer)
    return answer
