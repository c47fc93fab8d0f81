"""OpenTelemetry: one span a request, below the span that was current where it was asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from flashactor.telemetry.events import Observer, RequestEvent
from flashactor.telemetry.extras import require

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from flashactor.dispatch import DispatchKey

SPAN_NAME = "flashactor.request"


class _Open(NamedTuple):
    """A request's span, and the time of day, in nanoseconds, at which ``perf_counter`` was 0."""

    span: Span
    epoch: int

    def time_of_day(self, seconds: float) -> int:
        """Nanoseconds since 1970 of a ``perf_counter``."""
        return self.epoch + int(seconds * 1e9)


class OpenTelemetryObserver(Observer):
    """Makes a span of every request, from the ask to its answer.

    docs/observability.md lists its attributes and events.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        """Spans go to ``tracer`` (default: that of the global tracer provider).

        Raises:
            DeviceUnavailableError: the package ``opentelemetry-api`` is not installed.
        """
        require("opentelemetry.trace", "otel")
        from opentelemetry import trace

        self._tracer = tracer or trace.get_tracer("flashactor")

    def asked(self, event: RequestEvent) -> None:
        """Start the span here, where the caller's span is the current one."""
        epoch = time.time_ns() - time.perf_counter_ns()
        start = epoch + int(event.asked_at * 1e9)
        span = self._tracer.start_span(SPAN_NAME, start_time=start, attributes=_asked_attributes(event))
        event.notes[self] = _Open(span, epoch)

    def settled(self, event: RequestEvent) -> None:
        """End the span with all that is known by now; nothing can be added to one that has ended."""
        opened: _Open | None = event.notes.pop(self, None)
        if opened is None:
            return
        if opened.span.is_recording():
            _describe(opened, event)
        opened.span.end(opened.time_of_day(event.settled_at))


def _asked_attributes(event: RequestEvent) -> dict[str, Any]:
    return {
        "flashactor.actor": event.actor,
        "flashactor.request_id": event.request_id,
        "flashactor.priority": event.priority,
        "flashactor.caller": "" if event.caller is None else str(event.caller),
    }


def _describe(opened: _Open, event: RequestEvent) -> None:
    from opentelemetry.trace import Status, StatusCode

    span = opened.span
    span.set_attribute("flashactor.executor", event.executor_name)
    if event.key is not None:
        span.set_attribute("flashactor.kernel", event.kernel_name)
        span.set_attributes(key_attributes(event.key))
    for name, at in (("taken", event.taken_at), ("launched", event.launched_at)):
        if at:
            span.add_event(name, timestamp=opened.time_of_day(at))
    span.set_attribute("flashactor.compile_seconds", event.compile_seconds)
    span.set_attribute("flashactor.launch_seconds", event.launch_seconds)
    if event.error is not None:
        span.set_attribute("error.type", type(event.error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(event.error)))


def key_attributes(key: DispatchKey) -> dict[str, Any]:
    """A key's fields as attributes; those that do not apply are left out."""
    fields = {
        "hash": f"{key.stable_hash():016x}",
        "arch": key.arch.target,
        "dtype": key.dtype.tag,
        "head_dim": key.head_dim,
        "causal": key.causal,
        "varlen": key.varlen,
        "sliding_window": key.sliding_window,
        "alibi": key.alibi,
        "sink": key.sink,
        "paged": key.paged,
        "gqa_ratio": key.gqa_ratio,
    }
    return {f"flashactor.key.{name}": value for name, value in fields.items() if value is not None}
