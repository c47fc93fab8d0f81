"""The executor that launches kernels on a device: one stream, a bounded number in flight, one waiting thread.

``submit`` enqueues and returns; the completion thread waits for the kernels' events in order and answers.
Arrays, outputs too, stay alive until the event of the kernel that touches them, so no allocator can hand
their memory to anyone else while the kernel runs. (PyTorch's ``record_stream`` is no alternative: it makes
the allocator use this stream when a tensor dies, which may be after ``close`` has destroyed it.)
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flashactor.errors import ActorStoppedError, ContextPoisonedError, FlashAttnError, RequestError
from flashactor.executors.base import Done, Outcome, Outputs, Work
from flashactor.executors.cuda_driver import CudaDriver, device_arch, device_count
from flashactor.executors.cuda_errors import foreign_errors, map_error, poisoned_error
from flashactor.executors.operands import (
    check_arch,
    check_device,
    forward_outputs,
    producer_streams,
)
from flashactor.kernels.launch import LaunchPlan, plan_forward
from flashactor.kernels.select import choose_kernel
from flashactor.kernels.spec import KernelSpec
from flashactor.types import SmArch

if TYPE_CHECKING:
    from flashactor.compiler.cache import CubinCache

__all__ = ["CudaExecutor", "device_arch", "device_count"]

log = logging.getLogger("flashactor.executors.cuda")

DEFAULT_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that any kernel may have; more must be asked for, kernel by kernel."""


@dataclass(slots=True)
class _LoadedKernel:
    """A kernel in the context, with the dynamic shared memory that it may have."""

    handle: Any
    shared_limit: int = DEFAULT_SHARED_BYTES


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A launched kernel. It keeps the arrays of its work alive: the inputs through ``work``."""

    event: Any
    work: Work
    outputs: Outputs
    done: Done
    compile_seconds: float
    launch_seconds: float


class CudaExecutor:
    """Launches kernels on one device, on a stream of its own.

    A launch waits for the work on the stream that was current, in the inputs' library, on the thread that
    made the request. Inputs of yet other streams must be complete, or ordered before that one.

    Attributes:
        arch: the device's architecture.
    """

    name = "cuda"

    def __init__(
        self,
        cache: CubinCache,
        max_in_flight: int = 8,
        device_ordinal: int = 0,
        driver: CudaDriver | None = None,
    ) -> None:
        """Open a device and start the completion thread.

        Args:
            cache: where kernels come from.
            max_in_flight: most kernels launched and not complete; ``submit`` waits for a free place.
            device_ordinal: the device, as CUDA_VISIBLE_DEVICES numbers it.
            driver: how CUDA is called; default: through cuda.core.

        Raises:
            RequestError: max_in_flight is not positive.
            DeviceUnavailableError: no such device, or no cubin of this project runs on it.
        """
        if max_in_flight < 1:
            raise RequestError(
                field="max_in_flight",
                got=max_in_flight,
                expected="an integer of at least 1",
                remedy="allow at least one kernel in flight",
            )
        with foreign_errors(f"opening device {device_ordinal}"):
            self._driver = CudaDriver(device_ordinal) if driver is None else driver
            self._driver.activate()
            self._stream = self._driver.create_stream()
        self.arch: SmArch = self._driver.arch
        self._cache = cache
        self._kernels: dict[KernelSpec, _LoadedKernel] = {}
        self._slots = threading.BoundedSemaphore(max_in_flight)
        self._submitting = threading.Lock()
        self._closed = False
        self._poisoned_by: object = None
        self._launched: queue.SimpleQueue[_InFlight | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._complete_all, name=f"flashactor-cuda-{device_ordinal}", daemon=True
        )
        self._thread.start()

    def submit(self, work: Work, done: Done) -> None:
        """Enqueue the work; ``done`` is called from the completion thread, or here if it cannot start."""
        try:
            with self._submitting:
                self._start(work, done)
        except Exception as error:
            done(Outcome(error=self._mapped(error, f"launching {work.kernel_name}")))

    def close(self) -> None:
        """Wait for the kernels in flight, answer them, and release the device. A second call does nothing."""
        with self._submitting:
            first, self._closed = not self._closed, True
        if first:
            self._launched.put(None)
        self._thread.join()
        if first:
            self._kernels.clear()
            self._driver.close_stream(self._stream)

    def _start(self, work: Work, done: Done) -> None:
        self._require_usable()
        request = work.request
        operands = request.require_operands()
        check_arch(request, self.arch)
        check_device(operands, self._driver.ordinal)
        self._driver.activate()
        began = perf_counter()
        spec = choose_kernel(request, self.arch)
        kernel = self._load(spec)
        compile_seconds = perf_counter() - began
        self._slots.acquire()
        try:
            began = perf_counter()
            out, lse = forward_outputs(operands)
            plan = plan_forward(spec, operands.q, operands.k, operands.v, out, lse, request.scale)
            for producer in producer_streams(operands, out, lse):
                self._driver.wait_for(self._stream, producer)
            event = self._launch(kernel, plan)
            launch_seconds = perf_counter() - began
        except BaseException:
            self._slots.release()
            raise
        outputs = Outputs(out=out.array, lse=lse.array)
        self._launched.put(_InFlight(event, work, outputs, done, compile_seconds, launch_seconds))

    def _require_usable(self) -> None:
        if self._closed:
            raise ActorStoppedError(
                field="executor",
                got="a closed executor",
                expected="an open one",
                remedy="start another actor and send the request again: it was not computed",
            )
        if self._poisoned_by is not None:
            raise poisoned_error(f"{self._poisoned_by} earlier")

    def _load(self, spec: KernelSpec) -> _LoadedKernel:
        kernel = self._kernels.get(spec)
        if kernel is None:
            cubin = self._cache.get_or_compile(spec).cubin
            kernel = self._kernels[spec] = _LoadedKernel(self._driver.load(cubin, spec.entry))
        return kernel

    def _launch(self, kernel: _LoadedKernel, plan: LaunchPlan) -> Any:
        """Enqueue a kernel and the event that marks its end."""
        if plan.shared_bytes > kernel.shared_limit:
            self._driver.allow_shared_memory(kernel.handle, plan.shared_bytes)
            kernel.shared_limit = plan.shared_bytes
        self._driver.launch(self._stream, kernel.handle, plan)
        try:
            return self._driver.record(self._stream)
        except Exception:
            self._driver.synchronize(self._stream)  # the kernel may still use the arrays
            raise

    def _complete_all(self) -> None:
        while self._complete_next():
            pass

    def _complete_next(self) -> bool:
        """Answer the oldest kernel in flight; False at the end. What it kept alive dies when this returns."""
        item = self._launched.get()
        if item is None:
            return False
        outcome = self._outcome(item)
        self._slots.release()
        try:
            item.done(outcome)
        except BaseException:
            log.exception("the receiver of an outcome failed")
        return True

    def _outcome(self, item: _InFlight) -> Outcome:
        outputs: Outputs | None = item.outputs
        failure: FlashAttnError | None = None
        try:
            self._driver.activate()
            self._driver.wait(item.event)
        except BaseException as error:
            outputs, failure = None, self._mapped(error, f"running {item.work.kernel_name}")
        return Outcome(
            outputs=outputs,
            error=failure,
            compile_seconds=item.compile_seconds,
            launch_seconds=item.launch_seconds,
        )

    def _mapped(self, error: BaseException, doing: str) -> FlashAttnError:
        """The error to answer with; a sticky one is remembered for the requests to come."""
        mapped = map_error(error, doing)
        if isinstance(mapped, ContextPoisonedError) and self._poisoned_by is None:
            self._poisoned_by = mapped.got
        return mapped
