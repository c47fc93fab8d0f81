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
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from flashactor.arrays import ArrayView
from flashactor.errors import ActorStoppedError, ContextPoisonedError, FlashAttnError, RequestError
from flashactor.executors.base import Done, KernelSource, Outcome, Outputs, PendingKernel, Work
from flashactor.executors.cuda_driver import CudaDriver, device_arch, device_count
from flashactor.executors.cuda_errors import foreign_errors, map_error, poisoned_error
from flashactor.executors.launch_queue import LaunchQueue
from flashactor.executors.operands import (
    check_arch,
    check_device,
    outputs_of,
    producer_streams,
    require_arrays,
    with_outputs,
    workspace_view,
)
from flashactor.kernels.launch import KernelLaunch
from flashactor.kernels.plan import plan, workspace_of
from flashactor.kernels.select import choose_kernels
from flashactor.kernels.spec import KernelSpec
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
    """Work that will be launched: now, or when its kernels are there.

    Attributes:
        kernels: its kernels, each once.
        pending: those that are not loaded.
        ready: whether all of them, or their errors, are there.
        waited_for_kernel: seconds until they were.
    """

    work: Work
    arrays: dict[str, ArrayView]
    done: Done
    kernels: tuple[KernelSpec, ...]
    pending: Mapping[KernelSpec, PendingKernel]
    ready: bool
    waited_for_kernel: float = 0.0


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Launched work. It keeps every array that its kernels touch alive."""

    event: Any
    work: Work
    arrays: Mapping[str, ArrayView]
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
            asked = perf_counter()
            for pending in accepted.pending.values():
                pending.add_done_callback(lambda _: self._on_kernel(accepted, asked))
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
        arrays = require_arrays(request)
        check_arch(request, self.arch)
        check_device(arrays, self._driver.ordinal)
        kernels = choose_kernels(request, self.arch)
        pending = {spec: self._source.ask(spec) for spec in kernels if spec not in self._kernels}
        return _Accepted(work, arrays, done, kernels, pending, ready=not pending)

    def _on_kernel(self, accepted: _Accepted, asked: float) -> None:
        if all(pending.done for pending in accepted.pending.values()):
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
        request = accepted.work.request
        began = perf_counter()
        for spec in accepted.kernels:
            self._load(spec, accepted.pending)
        loaded = perf_counter()
        arrays = with_outputs(request, accepted.arrays)
        workspace = workspace_view(arrays, workspace_of(request, self.arch).size)
        if workspace is not None:
            arrays["workspace"] = workspace
        launches = plan(request, self.arch, arrays, workspace.pointer if workspace else 0).launches
        for producer in producer_streams(arrays.values()):
            self._driver.wait_for(self._stream, producer)
        event = self._launch(launches)
        self._launched.put(
            _InFlight(
                event=event,
                work=accepted.work,
                arrays=arrays,
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

    def _load(self, spec: KernelSpec, pending: Mapping[KernelSpec, PendingKernel]) -> None:
        if spec not in self._kernels:
            cubin = pending[spec].result().cubin  # a kernel that was loaded stays loaded
            self._kernels[spec] = _LoadedKernel(self._driver.load(cubin, spec.entry))

    def _launch(self, launches: tuple[KernelLaunch, ...]) -> Any:
        """Enqueue kernels and the event that marks their end."""
        launched = False
        try:
            for step in launches:
                kernel = self._kernels[step.spec]
                if step.shared_bytes > kernel.shared_limit:
                    self._driver.allow_shared_memory(kernel.handle, step.shared_bytes)
                    kernel.shared_limit = step.shared_bytes
                self._driver.launch(self._stream, kernel.handle, step)
                launched = True
            return self._driver.record(self._stream)
        except Exception:
            if launched:
                self._driver.synchronize(self._stream)  # a kernel may still use the arrays
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
        outputs: Outputs | None = outputs_of(item.work.request, item.arrays)
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
