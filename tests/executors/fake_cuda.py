"""A device that records what it is told, and finishes or fails kernels when the test says so."""

import threading
from collections import defaultdict
from types import SimpleNamespace

from flashactor import Fa2FwdRequest, MaskKind, SmArch
from flashactor.executors.base import Work

PATIENCE = 10.0
"""Seconds after which a test that waits for another thread has failed."""

OUT, LSE = 16 << 28, 17 << 28
"""Addresses of the outputs that requests bring along."""

OWN_STREAM = 0x5000
"""Address of an executor's own stream."""

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
    """An event that is reached, or fails, when the test says so.

    Attributes:
        callbacks: what to call when it is reached; as with the driver, never after a failure.
        waiting: set when somebody waits for it or asks whether it is reached.
    """

    def __init__(self):
        self.callbacks = []
        self.waiting = threading.Event()
        self._reached = threading.Event()
        self._error = None

    def complete(self):
        self._reached.set()
        while self.callbacks:
            self.callbacks.pop()()

    def fail(self, error):
        self._error = error
        self._reached.set()

    def wait(self):
        self.waiting.set()
        assert self._reached.wait(PATIENCE), "the test never completed this event"
        if self._error is not None:
            raise self._error

    def query(self):
        self.waiting.set()
        if self._reached.is_set():
            self.wait()
        return self._reached.is_set()


class FakeDriver:
    """The interface of CudaDriver.

    Attributes:
        calls: (function, arguments...) in order, without ``activate``, ``wait`` and ``query``.
        active_threads: names of the threads that made the device's context current.
        waiting_threads: names of the threads that waited for events, or asked.
        events: the events that were recorded, oldest first.
        failures: function name -> errors that its next calls raise, first to last.
    """

    shares_context = True

    def __init__(self, arch=SmArch.SM90A, ordinal=0, address=OWN_STREAM):
        self.arch = arch
        self.ordinal = ordinal
        self.address = address
        self.calls = []
        self.active_threads = set()
        self.waiting_threads = set()
        self.events = []
        self.failures = defaultdict(list)
        self._changed = threading.Condition()

    def functions(self):
        return [call[0] for call in self.calls]

    def named(self, function):
        """The arguments of every call of a function."""
        return [call[1:] for call in self.calls if call[0] == function]

    def event(self, index):
        """The event of a launch, once it is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) > index, PATIENCE), "no such launch"
            return self.events[index]

    def wait_for_call(self, function):
        """Wait until a function is called."""
        with self._changed:
            assert self._changed.wait_for(lambda: function in self.functions(), PATIENCE), function

    def activate(self):
        self.active_threads.add(threading.current_thread().name)

    def create_stream(self):
        self._call("create_stream")
        return "own stream"

    def address_of(self, stream):
        assert stream == "own stream"
        return self.address

    def load(self, cubin, entry):
        self._call("load", cubin, entry)
        return f"kernel {entry}"

    def allow_shared_memory(self, kernel, size):
        self._call("allow_shared_memory", kernel, size)

    def wait_for(self, stream, producer):
        self._call("wait_for", stream, producer)

    def wait_on(self, address, event):
        self._call("wait_on", address, event)

    def launch(self, stream, kernel, step):
        self._call("launch", stream, kernel, step)

    def record(self, stream):
        self._call("record", stream)
        with self._changed:
            self.events.append(FakeEvent())
            self._changed.notify_all()
            return self.events[-1]

    def call_back(self, stream, function):
        self._call("call_back", stream)
        self.events[-1].callbacks.append(function)

    def wait(self, event):
        self.waiting_threads.add(threading.current_thread().name)
        event.wait()

    def query(self, event):
        self.waiting_threads.add(threading.current_thread().name)
        return event.query()

    def memory_info(self):
        return 1000, 8000

    def synchronize(self, stream):
        self._call("synchronize", stream)

    def close_stream(self, stream):
        self._call("close_stream", stream)

    def _call(self, function, *arguments):
        with self._changed:
            self.calls.append((function, *arguments))
            self._changed.notify_all()
        if self.failures[function]:
            raise self.failures[function].pop(0)


class FakeKernels:
    """A source of kernels that counts what it is asked for; they are there at once, or when the test says.

    Attributes:
        asked: (specification, pending kernel) in order.
    """

    def __init__(self, *, at_once=True):
        self.asked = []
        self._at_once = at_once

    def ask(self, spec):
        pending = FakePendingKernel()
        self.asked.append((spec, pending))
        if self._at_once:
            self.deliver(-1)
        return pending

    def deliver(self, index):
        spec, pending = self.asked[index]
        pending.settle(SimpleNamespace(cubin=b"cubin of " + spec.entry.encode()))

    def fail(self, index, error):
        self.asked[index][1].settle(error)


class FakePendingKernel:
    """A kernel that is there when the test says so."""

    def __init__(self):
        self.done = False
        self._answer = None
        self._callbacks = []

    def settle(self, answer):
        self._answer, self.done = answer, True
        while self._callbacks:
            self._callbacks.pop()(self)

    def result(self, timeout=None):
        assert self.done, "an executor must not wait for a kernel"
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def add_done_callback(self, callback):
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)


class Answer:
    """The ``done`` of one request.

    Attributes:
        marker: what ``submit`` returned.
    """

    def __init__(self):
        self.marker = None
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


def submit(executor, a_request=None, *, stream=None, after=()):
    """Prepare a request and submit it, as an actor does with one whose kernels are there."""
    work = work_of(a_request or request())
    work.stream = stream
    prepared = executor.prepare(work)
    assert prepared.ready
    prepared.after = after
    return submit_prepared(executor, prepared)


def submit_prepared(executor, prepared):
    answer = Answer()
    answer.marker = executor.submit(prepared, answer)
    return answer
