"""OpenTelemetryObserver: a span a request, below the caller's."""

import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from flashactor.errors import DeviceUnavailableError, LaunchError
from flashactor.telemetry.tracing import OpenTelemetryObserver


@pytest.fixture
def spans():
    """A tracer, and a function that gives the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("test"), exporter.get_finished_spans
    provider.shutdown()


def test_a_requests_span_has_what_it_was_and_when(event, spans):
    tracer, ended = spans
    event.caller = "chat"
    event.go_through(OpenTelemetryObserver(tracer))
    (span,) = ended()
    assert span.name == "flashactor.request"
    assert dict(span.attributes) == {
        "flashactor.actor": "decode",
        "flashactor.request_id": 7,
        "flashactor.priority": 2,
        "flashactor.caller": "chat",
        "flashactor.executor": "mock",
        "flashactor.kernel": "flashactor::fa3::fwd<bf16, 128, causal>_gqa4",
        "flashactor.key.hash": f"{event.key.stable_hash():016x}",
        "flashactor.key.arch": "sm_90a",
        "flashactor.key.dtype": "bf16",
        "flashactor.key.head_dim": 128,
        "flashactor.key.causal": True,
        "flashactor.key.varlen": False,
        "flashactor.key.alibi": False,
        "flashactor.key.sink": 0,
        "flashactor.key.paged": False,
        "flashactor.key.gqa_ratio": 4,
        "flashactor.compile_seconds": 0.25,
        "flashactor.launch_seconds": 0.5,
    }
    assert span.status.status_code is StatusCode.UNSET
    seconds = {each.name: (each.timestamp - span.start_time) / 1e9 for each in span.events}
    assert seconds == {"taken": pytest.approx(1.0, abs=1e-3), "launched": pytest.approx(2.0, abs=1e-3)}
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(4.0, abs=1e-3)


def test_the_callers_span_is_the_parent_though_another_thread_ends_it(event, spans):
    tracer, ended = spans
    observer = OpenTelemetryObserver(tracer)
    with tracer.start_as_current_span("serve") as caller:
        observer.asked(event)
    event.settled_at = event.asked_at + 1.0
    observer.settled(event)
    request = next(span for span in ended() if span.name == "flashactor.request")
    assert request.parent.span_id == caller.get_span_context().span_id
    assert request.context.trace_id == caller.get_span_context().trace_id


def test_an_error_is_the_spans_status(event, spans):
    tracer, ended = spans
    event.go_through(OpenTelemetryObserver(tracer), LaunchError("grid", 0, "at least 1", "ask again"))
    (span,) = ended()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description.startswith("grid: got 0")
    assert span.attributes["error.type"] == "LaunchError"


def test_a_request_that_was_never_taken_has_no_key_and_no_events(event, spans):
    tracer, ended = spans
    observer = OpenTelemetryObserver(tracer)
    event.key, event.kernel_name = None, ""
    observer.asked(event)
    event.settled_at = event.asked_at + 1.0
    observer.settled(event)
    (span,) = ended()
    assert span.events == ()
    assert not any("key" in name or "kernel" in name for name in span.attributes)


def test_a_span_that_is_not_sampled_is_not_described(event):
    provider = TracerProvider(sampler=ALWAYS_OFF)
    event.key = object()  # has no fields to ask for
    event.go_through(OpenTelemetryObserver(provider.get_tracer("test")))
    assert event.notes == {}
    provider.shutdown()


def test_the_global_tracer_is_the_default(event, spans, monkeypatch):
    tracer, ended = spans
    monkeypatch.setattr(trace, "get_tracer", {"flashactor": tracer}.get)
    event.go_through(OpenTelemetryObserver())
    assert [span.name for span in ended()] == ["flashactor.request"]


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(DeviceUnavailableError, match=r"pip install 'flashactor\[otel\]'"):
        OpenTelemetryObserver()
