"""Ranges in NVIDIA's profilers: one around each launch, with the kernel's name."""

from __future__ import annotations

from typing import Any

from flashactor.telemetry.events import Observer, RequestEvent
from flashactor.telemetry.extras import require

DOMAIN = "flashactor"


class NvtxObserver(Observer):
    """Shows on the actor's thread how long the host takes to launch each request.

    The kernels themselves are on the profiler's own rows. Without a profiler a range costs next to nothing.
    """

    def __init__(self) -> None:
        """Find the library.

        Raises:
            DeviceUnavailableError: the package ``nvtx`` is not installed.
        """
        require("nvtx", "nvtx")
        import nvtx

        self._domain: Any = nvtx.get_domain(DOMAIN)

    def launching(self, event: RequestEvent) -> None:
        """Open the range."""
        self._close(event)  # of a launch that was taken back, because the device failed
        attributes = self._domain.get_event_attributes(message=event.kernel_name)
        # Not pushed and popped: after a launch that fails, a pop that is missing would shift all ranges of
        # the thread, and one too many would close somebody else's.
        event.notes[self] = self._domain.start_range(attributes)

    def launched(self, event: RequestEvent) -> None:
        """Close it."""
        self._close(event)

    def settled(self, event: RequestEvent) -> None:
        """Close it if the launch failed."""
        if event.error is not None:
            self._close(event)

    def _close(self, event: RequestEvent) -> None:
        opened = event.notes.pop(self, None)
        if opened is not None:
            self._domain.end_range(opened)
