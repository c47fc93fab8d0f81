"""Work of the cuda executor that was checked, and whose kernels are there or on their way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from flashactor.arrays import ArrayView
from flashactor.executors.base import PendingKernel, Work
from flashactor.kernels.forward import ForwardFamily
from flashactor.kernels.spec import KernelSpec


class PreparedWork(Work):
    """Work that can be launched once its kernels are there.

    Attributes:
        arrays: the request's arrays, by their arguments' names.
        family: whose forward kernels compute it.
        kernels: its kernels, each once.
        pending: those that were not loaded when it was prepared.
    """

    __slots__ = (
        "_coming",
        "arrays",
        "family",
        "kernels",
        "pending",
    )

    def __init__(
        self,
        work: Work,
        arrays: dict[str, ArrayView],
        family: ForwardFamily,
        kernels: tuple[KernelSpec, ...],
        pending: Mapping[KernelSpec, PendingKernel],
    ) -> None:
        super().__init__(work.request, work.key, work.kernel_name, work.stream)
        self.arrays = arrays
        self.family = family
        self.kernels = kernels
        self.pending = pending
        self._coming = _Coming(tuple(pending.values()))

    @property
    def ready(self) -> bool:
        """Whether all of its kernels, or the errors in their place, are there."""
        return self._coming.ready

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Have a function called once it is ready: by the thread that brings the last kernel, or here."""
        self._coming.when_ready(callback)


class _Coming:
    """Kernels on their way. They know this, and not the work: a compile must not keep arrays alive."""

    __slots__ = ("_callbacks", "_kernels", "_lock", "ready")

    def __init__(self, kernels: tuple[PendingKernel, ...]) -> None:
        self._kernels = kernels
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.ready = not kernels
        for kernel in kernels:
            kernel.add_done_callback(self._on_kernel)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """As of the work."""
        with self._lock:
            if not self.ready:
                self._callbacks.append(callback)
                return
        callback()

    def _on_kernel(self, _: object) -> None:
        if not all(kernel.done for kernel in self._kernels):
            return
        with self._lock:
            if self.ready:  # two kernels came at once, and both threads found all of them there
                return
            self.ready = True
        for callback in self._callbacks:
            callback()
        self._callbacks.clear()
