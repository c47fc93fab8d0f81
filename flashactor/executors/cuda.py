"""The executor that launches kernels on a device: one stream, a bounded number in flight, one waiting thread.

``submit`` enqueues and returns; the completion thread waits for the kernels' events in order and answers.
Work waits in a queue while its kernel is compiled or all places in flight are taken, and what came after it
waits too, for launches keep the order of the messages.
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
from typing import Any

from flashactor.errors import ActorStoppedError, ContextPoisonedError, FlashAttnError, RequestError
from flashactor.executors.base import Done, KernelSource, Outcome, Outputs, PendingKernel, Work
from flashactor.executors.cuda_driver import CudaDriver, device_arch, device_count
from flashactor.executors.cuda_errors import foreign_errors, map_error, poisoned_error
from flashactor.executors.launch_queue import LaunchQueue
from flashactor.executors.operands import (
    check_arch,
    check_device,
    forward_outputs,
    producer_streams,
)
from flashactor.kernels.launch import LaunchPlan, plan_forward
from flashactor.kernels.select import choose_kernel
from flashactor.kernels.spec import KernelSpec
from flashactor.requests.operands import Operands
from flashactor.types import SmArch

__all__ = ["CudaExecutor", "device_arch", "device_count"]

log = logging.getLogger("flashactor.executors.cuda")

DEFAULT_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that any kernel may have; more must be asked for, kernel by kernel."""


@dataclass(slots=True)
class _LoadedKernel:
    """A kernel in the context, with the dynamic shared memory that it may have."""

    handle: Any
    shared_limit: int = DEFAULT_SHARED_BYTES


@dataclass(slots=True)
class _Accepted:
    """Work that will be launched: now, or when its kernel is there.

    Attributes:
        pending: its kernel; None if that is loaded.
        ready: whether the kernel, or its error, is there.
        waited_for_kernel: seconds until it was.
    """

    work: Work
    operands: Operands
    done: Done
    spec: KernelSpec
    pending: PendingKernel | None
    ready: bool
    waited_for_kernel: float = 0.0


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
        kernels: KernelSource,
        max_in_flight: int = 8,
        device_ordinal: int = 0,
        driver: CudaDriver | None = None,
    ) -> None:
        """Open a device and start the completion thread.

        Args:
            kernels: where kernels come from.
            max_in_flight: most kernels launched and not complete.
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
        self._source = kernels
        self._kernels: dict[KernelSpec, _LoadedKernel] = {}
        self._closing = threading.Lock()
        self._closed = False
        self._poisoned_by: object = None
        self._launched: queue.SimpleQueue[_InFlight | None] = queue.SimpleQueue()
        name = f"flashactor-cuda-{device_ordinal}"
        self._launches = LaunchQueue(max_in_flight, self._launch_accepted, f"{name}-launch")
        self._thread = threading.Thread(target=self._complete_all, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work, done: Done) -> None:
        """Take the work, and launch it if nothing is in its way. It waits for no kernel, place or other work.

        ``done`` is called from another thread, or here if the work cannot start.
        """
        try:
            accepted = self._accept(work, done)
            if accepted.pending is not None:
                asked = perf_counter()
                accepted.pending.add_done_callback(lambda _: self._on_kernel(accepted, asked))
            if not self._launches.put(accepted):
                raise _closed_error()
        except Exception as error:
            _answer(done, self._refusal(error, work))

    def close(self) -> None:
        """Launch, finish and answer what was submitted, and release the device. Again, it does nothing."""
        with self._closing:
            first, self._closed = not self._closed, True
        self._launches.close()
        if first:
            self._launched.put(None)
        self._thread.join()
        if first:
            self._kernels.clear()
            self._driver.close_stream(self._stream)

    def _accept(self, work: Work, done: Done) -> _Accepted:
        self._require_usable()
        request = work.request
        operands = request.require_operands()
        check_arch(request, self.arch)
        check_device(operands, self._driver.ordinal)
        spec = choose_kernel(request, self.arch)
        pending = None if spec in self._kernels else self._source.ask(spec)
        return _Accepted(work, operands, done, spec, pending, ready=pending is None)

    def _on_kernel(self, accepted: _Accepted, asked: float) -> None:
        accepted.waited_for_kernel = perf_counter() - asked
        accepted.ready = True
        self._launches.wake()

    def _launch_accepted(self, accepted: _Accepted) -> bool:
        """Launch work whose kernel is there; False if it could not, and was answered so."""
        try:
            self._start(accepted)
        except Exception as error:
            _answer(accepted.done, self._refusal(error, accepted.work))
            return False
        return True

    def _start(self, accepted: _Accepted) -> None:
        self._require_sound()
        self._driver.activate()
        operands, spec = accepted.operands, accepted.spec
        began = perf_counter()
        kernel = self._loaded(accepted)
        loaded = perf_counter()
        out, lse = forward_outputs(operands)
        scale = accepted.work.request.scale
        plan = plan_forward(spec, operands.q, operands.k, operands.v, out, lse, scale)
        for producer in producer_streams(operands, out, lse):
            self._driver.wait_for(self._stream, producer)
        event = self._launch(kernel, plan)
        self._launched.put(
            _InFlight(
                event=event,
                work=accepted.work,
                outputs=Outputs(out=out.array, lse=lse.array),
                done=accepted.done,
                compile_seconds=accepted.waited_for_kernel + loaded - began,
                launch_seconds=perf_counter() - loaded,
            )
        )

    def _refusal(self, error: Exception, work: Work) -> Outcome:
        """The outcome of work that did not start. The error's frames would keep its arrays alive."""
        return Outcome(error=self._mapped(error, f"launching {work.kernel_name}").with_traceback(None))

    def _require_usable(self) -> None:
        if self._closed:
            raise _closed_error()
        self._require_sound()

    def _require_sound(self) -> None:
        if self._poisoned_by is not None:
            raise poisoned_error(f"{self._poisoned_by} earlier")

    def _loaded(self, accepted: _Accepted) -> _LoadedKernel:
        kernel = self._kernels.get(accepted.spec)
        if kernel is None:
            assert accepted.pending is not None  # a kernel that was loaded stays loaded
            cubin, entry = accepted.pending.result().cubin, accepted.spec.entry
            kernel = self._kernels[accepted.spec] = _LoadedKernel(self._driver.load(cubin, entry))
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
        self._launches.free_place()
        _answer(item.done, outcome)
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


def _answer(done: Done, outcome: Outcome) -> None:
    try:
        done(outcome)
    except BaseException:
        log.exception("the receiver of an outcome failed")


def _closed_error() -> ActorStoppedError:
    return ActorStoppedError(
        field="executor",
        got="a closed executor",
        expected="an open one",
        remedy="start another actor and send the request again: it was not computed",
    )
