"""The executor that launches kernels on a device: one stream of its own, one thread that completes them.

``submit`` enqueues and returns; whoever calls it decides on the order, and on how much is in flight.
Arrays, outputs too, stay alive until the event of the kernel that touches them, so no allocator can hand
their memory to anyone else while the kernel runs. (PyTorch's ``record_stream`` is no alternative: it makes
the allocator use this stream when a tensor dies, which may be after ``close`` has destroyed it.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from flashactor.arrays import ArrayView
from flashactor.errors import ContextPoisonedError, FlashAttnError, OutOfMemoryError
from flashactor.executors.answers import answer, closed_error
from flashactor.executors.base import Done, Executor, KernelSource, Outcome, PendingKernel, Work
from flashactor.executors.completion import make_waiter
from flashactor.executors.cuda_driver import CudaDriver, device_arch, device_count
from flashactor.executors.cuda_errors import foreign_errors, map_error, poisoned_error
from flashactor.executors.device_memory import release_pools, with_sizes
from flashactor.executors.in_flight import InFlight, Launched
from flashactor.executors.operands import (
    allocated_bytes,
    check_arch,
    check_device,
    producer_streams,
    require_arrays,
    with_outputs,
    workspace_view,
)
from flashactor.executors.prepared import PreparedWork
from flashactor.kernels.launch import KernelLaunch
from flashactor.kernels.plan import kernels_of, plan, workspace_of
from flashactor.kernels.select import choose_family
from flashactor.kernels.spec import KernelSpec
from flashactor.types import Completion, SmArch

__all__ = ["CudaExecutor", "DeviceMarker", "device_arch", "device_count"]

DEFAULT_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that any kernel may have; more must be asked for, kernel by kernel."""

MEMORY_WAIT_SECONDS = 5.0
"""Longest wait for the work in flight, whose memory may help a launch that found too little; a kernel that
hangs holds up the caller no longer."""


@dataclass(slots=True)
class _LoadedKernel:
    """A kernel in the context, with the dynamic shared memory that it may have."""

    handle: Any
    shared_limit: int = DEFAULT_SHARED_BYTES


class DeviceMarker:
    """The end of launched work. It keeps the event alive, also when the executor is closed."""

    __slots__ = ("_driver", "_event")

    def __init__(self, driver: CudaDriver, event: Any) -> None:
        self._driver = driver
        self._event = event

    def wait_on(self, stream: int) -> None:
        """Make the stream of an address wait for it. The host goes on.

        Raises:
            LaunchError: there is no such stream. ContextPoisonedError: nothing runs on the device any more.
        """
        with foreign_errors(f"making stream {stream:#x} wait"):
            self._driver.wait_on(stream, self._event)


class CudaExecutor(Executor):
    """Launches kernels on one device, on a stream of its own.

    A launch waits for the work on the stream that was current, in the inputs' library, on the thread that
    made the request; for the caller's stream (``Work.stream``); and for the markers of ``Work.after``. Inputs
    of yet other streams must be complete, or ordered before one of these. The caller's stream waits for the
    kernels in turn.

    Attributes:
        arch: the device's architecture.
        renewable: False where torch, cupy and others share the device's context.
    """

    name = "cuda"
    waits_on_device = True

    def __init__(
        self,
        kernels: KernelSource,
        device_ordinal: int = 0,
        driver: CudaDriver | None = None,
        completion: Completion = Completion.EVENT,
    ) -> None:
        """Open a device and start the completion thread.

        Args:
            kernels: where kernels come from.
            device_ordinal: the device, as CUDA_VISIBLE_DEVICES numbers it.
            driver: how CUDA is called; default: through cuda.core.
            completion: how the completion thread notices the end of a kernel.

        Raises:
            DeviceUnavailableError: no such device, or no cubin of this project runs on it.
        """
        with foreign_errors(f"opening device {device_ordinal}"):
            self._driver = CudaDriver(device_ordinal) if driver is None else driver
            self._driver.activate()
            self._stream = self._driver.create_stream()
            self._address = self._driver.address_of(self._stream)
        self.arch: SmArch = self._driver.arch
        self.renewable = not self._driver.shares_context
        self._source = kernels
        self._kernels: dict[KernelSpec, _LoadedKernel] = {}
        self._ending = threading.Lock()
        self._closed = self._is_launching = False
        self._poisoned_by: object = None
        self._waiter = make_waiter(completion, self._driver)
        name = f"flashactor-cuda-{device_ordinal}"
        self._in_flight = InFlight(name, self._driver, self._waiter, self._mapped, self._release)

    def prepare(self, work: Work) -> PreparedWork:
        """Check the work, and ask for the kernels that are not loaded.

        Raises:
            FlashAttnError: it cannot run here, or nothing can any more.
        """
        if self._closed:
            raise closed_error()
        if self._poisoned_by is not None:
            raise self._poisoned()
        request = work.request
        arrays = require_arrays(request)
        check_arch(request, self.arch)
        check_device(arrays, self._driver.ordinal)
        family = choose_family(request, self.arch)
        kernels = kernels_of(request, self.arch, family)
        pending = {spec: self._source.ask(spec) for spec in kernels if spec not in self._kernels}
        return PreparedWork(work, arrays, family, kernels, pending)

    def submit(self, work: Work, done: Done) -> DeviceMarker | None:
        """Launch prepared work. It waits for nothing but, where memory is short, for the work in flight.

        ``done`` is called from the completion thread, or here if the work does not start.
        """
        if self._poisoned_by is not None:
            answer(done, Outcome(error=self._poisoned(), refused=True))
            return None
        try:
            assert isinstance(work, PreparedWork), "submit takes what prepare returned"
            with self._launching():
                launched = self._start(work, done)
                self._in_flight.add(launched)
            return DeviceMarker(self._driver, launched.event)
        except Exception as error:
            failure = self._mapped(error, f"launching {work.kernel_name}")
            # The frames of the error would keep the arrays alive.
            answer(done, Outcome(error=failure.with_traceback(None)))
            return None

    def close(self) -> None:
        """Finish and answer what was submitted, and release the device. Again, it does nothing."""
        self._end()
        self._in_flight.join()

    def abandon(self) -> None:
        """Answer nothing any more, and do not wait: the completion thread keeps the arrays until the events
        are reached, and releases the device then."""
        self._in_flight.abandon()
        self._end()

    def _end(self) -> None:
        """Let the completion thread end, behind the launch that another thread may be at."""
        with self._ending:
            if self._closed:
                return
            self._closed = True
            if self._is_launching:
                return
        self._in_flight.end()

    @contextmanager
    def _launching(self) -> Iterator[None]:
        """Keep the device open meanwhile. A thread that is stuck in a launch may be given up, and go on then.

        Raises:
            ActorStoppedError: the executor is closed.
        """
        with self._ending:
            if self._closed:
                raise closed_error()
            self._is_launching = True
        try:
            yield
        finally:
            with self._ending:
                self._is_launching = False
                closed = self._closed
            if closed:
                self._in_flight.end()

    def _release(self) -> None:
        """On the completion thread, when nothing is in flight any more."""
        self._kernels.clear()
        self._driver.close_stream(self._stream)

    def _start(self, work: PreparedWork, done: Done) -> Launched:
        """Launch the work; where memory is short, once more when there may be more of it."""
        doing = f"launching {work.kernel_name}"
        try:
            return self._launch(work, done)
        except Exception as error:
            failure = self._mapped(error, doing)
        if not isinstance(failure, OutOfMemoryError):
            raise failure
        failure.with_traceback(None)  # its frames keep what was allocated before memory ran out
        self._in_flight.wait_until_complete(MEMORY_WAIT_SECONDS)
        release_pools()
        try:
            return self._launch(work, done)
        except Exception as error:
            failure = self._mapped(error, doing)
        if isinstance(failure, OutOfMemoryError):
            size = workspace_of(work.request, self.arch, work.family).size
            failure = with_sizes(failure, allocated_bytes(work.request, work.arrays, size), self._driver)
        raise failure

    def _launch(self, work: PreparedWork, done: Done) -> Launched:
        """Load, allocate, plan, wait on the device for what comes before, and enqueue."""
        self._driver.activate()
        request = work.request
        began = perf_counter()
        for spec in work.kernels:
            self._load(spec, work.pending)
        loaded = perf_counter()
        arrays = with_outputs(request, work.arrays)
        workspace = workspace_view(arrays, workspace_of(request, self.arch, work.family).size)
        if workspace is not None:
            arrays["workspace"] = workspace
        scratch = workspace.pointer if workspace else 0
        launches = plan(request, self.arch, work.family, arrays, scratch).launches
        self._wait_for_others(work, arrays)
        event, armed = self._enqueue(launches, work.stream)
        return Launched(event, armed, work, arrays, done, loaded - began, perf_counter() - loaded)

    def _load(self, spec: KernelSpec, pending: Mapping[KernelSpec, PendingKernel]) -> None:
        if spec not in self._kernels:
            cubin = pending[spec].result().cubin  # a kernel that was loaded stays loaded
            self._kernels[spec] = _LoadedKernel(self._driver.load(cubin, spec.entry))

    def _wait_for_others(self, work: Work, arrays: Mapping[str, ArrayView]) -> None:
        streams = producer_streams(arrays.values())
        if work.stream is not None and work.stream not in streams:
            streams += (work.stream,)
        for stream in streams:
            self._driver.wait_for(self._stream, stream)
        for marker in work.after:
            marker.wait_on(self._address)

    def _enqueue(self, launches: tuple[KernelLaunch, ...], caller: int | None) -> tuple[Any, Any]:
        """Enqueue kernels and the event that marks their end; the caller's stream waits for it."""
        launched = False
        try:
            for step in launches:
                kernel = self._kernels[step.spec]
                if step.shared_bytes > kernel.shared_limit:
                    self._driver.allow_shared_memory(kernel.handle, step.shared_bytes)
                    kernel.shared_limit = step.shared_bytes
                self._driver.launch(self._stream, kernel.handle, step)
                launched = True
            event = self._driver.record(self._stream)
            if caller is not None:
                self._driver.wait_on(caller, event)
            return event, self._waiter.arm(self._stream)
        except Exception:
            if launched:
                self._driver.synchronize(self._stream)  # a kernel may still use the arrays
            raise

    def _poisoned(self) -> ContextPoisonedError:
        return poisoned_error(f"{self._poisoned_by} earlier")

    def _mapped(self, error: BaseException, doing: str) -> FlashAttnError:
        """The error to answer with; a sticky one is remembered for the requests to come."""
        mapped = map_error(error, doing)
        if isinstance(mapped, ContextPoisonedError) and self._poisoned_by is None:
            self._poisoned_by = mapped.got
        return mapped
