"""Telemetry of real actors: what observers and scrapes see while actors work, fail, start and stop."""

import json
import threading
from collections import Counter

import nvtx
import pytest
from fake_actors import parsed
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps, SmArch
from flashactor.actor.restarts import RestartPolicy
from flashactor.errors import ActorFailedError, FlashAttnError
from flashactor.telemetry import metrics
from flashactor.telemetry.nvtx import NvtxObserver
from flashactor.telemetry.process_report import parse_report, process_report
from flashactor.telemetry.tracing import OpenTelemetryObserver
from flashactor.testing import Fault, FaultInjectingExecutor, FaultPlan, ScriptedExecutor

MSG = FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, 64))
SECONDS = 30.0


@pytest.fixture
def scrape():
    """A function that gives all samples of the process, by name and labels."""
    registry = CollectorRegistry()
    metrics.register(registry)
    return lambda: parsed(generate_latest(registry).decode())


@pytest.fixture
def spans():
    """An observer, and a function that gives the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield OpenTelemetryObserver(provider.get_tracer("test")), exporter.get_finished_spans
    provider.shutdown()


def failing(plan):
    """Makes executors that answer every request, but for what is planned."""
    return lambda: FaultInjectingExecutor(answering(), plan=plan, renewable=True)


def answering():
    """An executor that answers every request."""
    return ScriptedExecutor().reply(out="out")


def settled(pending):
    try:
        return pending.result(SECONDS)
    except FlashAttnError as error:
        return type(error)


def test_a_restart_shows(scrape, spans):
    label = "restarts"
    observer, ended = spans
    plan = FaultPlan(Fault.crash(2))
    props = FlashAttnProps(label, restart=RestartPolicy(backoff=0.0), observers=(observer,))
    with FlashAttnActor.start(props, failing(plan)) as actor:
        answers = [settled(actor.ask(MSG)) for _ in range(3)]
        values = scrape()
        report = parse_report(json.dumps(process_report([actor])).encode())
    assert answers[1] is ActorFailedError
    assert values[("flashactor_restarts_total", label)] == 1
    assert values[("flashactor_generation", label)] == 2
    assert values[("flashactor_requests_total", label)] == 3
    assert values[("flashactor_errors_total", label, "ActorFailedError")] == 1
    assert values[("flashactor_phase_seconds_count", label, "total")] == 2
    assert report.actors[0].stats.errors == {"ActorFailedError": 1}
    assert Counter(span.attributes.get("error.type") for span in ended()) == {None: 2, "ActorFailedError": 1}


def test_every_request_is_one_span_and_every_range_is_closed(spans, monkeypatch):
    """Through crashes, lost contexts and cancels."""
    observer, ended = spans
    opened, closed = [], []

    class Domain:
        def get_event_attributes(self, message):
            return message

        def start_range(self, attributes):
            opened.append(attributes)
            return len(opened)

        def end_range(self, number):
            closed.append(number)

    monkeypatch.setattr(nvtx, "get_domain", lambda name: Domain())
    plan = FaultPlan(Fault.crash(5), Fault.poison(20), Fault.fail_launch(25))
    props = FlashAttnProps(
        "spans", max_in_flight=4, restart=RestartPolicy(backoff=0.0), observers=(observer, NvtxObserver())
    )
    with FlashAttnActor.start(props, failing(plan)) as actor:
        asked = [actor.ask(MSG) for _ in range(60)]
        for pending in asked[40:45]:
            pending.cancel()
        answers = [settled(pending) for pending in asked]
    failed = Counter(answer.__name__ for answer in answers if isinstance(answer, type))
    spanned = Counter(span.attributes["error.type"] for span in ended() if "error.type" in span.attributes)
    assert len(ended()) == 60
    assert len({span.attributes["flashactor.request_id"] for span in ended()}) == 60
    assert spanned == failed
    assert len(plan.injected) == 3
    assert sorted(closed) == list(range(1, len(opened) + 1))


def test_counters_never_go_back_while_actors_come_and_go(scrape):
    label, rounds, asks = "comes and goes", 15, 4
    stop = threading.Event()
    seen = []

    def look():
        while not stop.is_set():
            seen.append(scrape().get(("flashactor_requests_total", label), 0.0))

    def come_and_go():
        for _ in range(rounds):
            with FlashAttnActor.start(FlashAttnProps(label), answering) as actor:
                actor.ask_many([MSG] * asks).results(SECONDS)

    looking = threading.Thread(target=look)
    looking.start()
    coming = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in coming:
        thread.start()
    for thread in coming:
        thread.join()
    stop.set()
    looking.join()
    values = scrape()
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert values[("flashactor_requests_total", label)] == 3 * rounds * asks
    assert values[("flashactor_phase_seconds_count", label, "total")] == 3 * rounds * asks
    assert values[("flashactor_pending", label)] == 0
    assert not [name for name in values if name[:2] == ("flashactor_actors", label)]
