"""Prometheus metrics: the values, one series a label, counters that never go back, the HTTP endpoint."""

import gc
import multiprocessing
import socket
import sys
import weakref
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from fake_actors import FakeActor, durations, parsed
from prometheus_client import CollectorRegistry, generate_latest

from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, FlashAttnProps, SmArch
from flashactor.actor.census import Census
from flashactor.errors import DeviceUnavailableError, MockModeError, RequestError
from flashactor.service import kernel_source, live_actors
from flashactor.settings import Settings
from flashactor.telemetry import endpoints, metrics

MSG = FlashAttnMsg.forward(Fa2FwdRequest(SmArch.SM80, DType.BF16, 64))


def samples(collector):
    """Every sample as Prometheus reads it: by name and labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    return parsed(generate_latest(registry).decode())


def test_an_actors_values():
    values = samples(metrics.ActorCollector([FakeActor()]))
    assert {name: value for name, value in values.items() if "phase" not in name[0]} == {
        ("flashactor_actors", "decode", "mock"): 1,
        ("flashactor_requests_total", "decode"): 7,
        ("flashactor_errors_total", "decode", "LaunchError"): 1,
        ("flashactor_restarts_total", "decode"): 2,
        ("flashactor_pending", "decode"): 4,
        ("flashactor_queue_depth", "decode"): 2,
        ("flashactor_waiting", "decode"): 1,
        ("flashactor_in_flight", "decode"): 1,
        ("flashactor_generation", "decode"): 3,
    }


def test_a_histograms_buckets_hold_what_is_below_them_too():
    values = samples(metrics.ActorCollector([FakeActor(phases={"total": durations(0.001, 3.0, 100.0)})]))
    series = {name[2]: value for name, value in values.items() if name[0].endswith("_bucket")}
    assert (series["0.0005"], series["0.001"], series["2.5"], series["5"]) == (0, 1, 1, 2)
    assert (series["60"], series["+Inf"]) == (2, 3)
    assert values[("flashactor_phase_seconds_count", "decode", "total")] == 3
    assert values[("flashactor_phase_seconds_sum", "decode", "total")] == pytest.approx(103.001)


def test_actors_with_one_label_are_one_series():
    twins = [FakeActor(), FakeActor(executor_name="cuda", generation=9), FakeActor("prefill", received=100)]
    values = samples(metrics.ActorCollector(twins))
    assert values[("flashactor_requests_total", "decode")] == 14
    assert values[("flashactor_requests_total", "prefill")] == 100
    assert values[("flashactor_generation", "decode")] == 9
    assert values[("flashactor_phase_seconds_count", "decode", "queue")] == 4
    assert values[("flashactor_actors", "decode", "cuda")] == 1


def test_labels_may_hold_anything():
    label = 'a"b\\c\nd é'
    assert samples(metrics.ActorCollector([FakeActor(label)]))[("flashactor_requests_total", label)] == 7


def test_an_actor_that_has_stopped_leaves_its_counts_and_nothing_else():
    census = Census()
    first, second = FakeActor(received=7), FakeActor(received=5)
    census.enter(first)
    census.enter(second)
    first.now = FakeActor(received=8, pending=0, queued=0, waiting=0, in_flight=0).now
    census.leave(first)
    census.leave(first)
    live, gone = census.take()
    assert live == census.live() == [second]
    assert gone["decode"].received == 8
    second.now = FakeActor(received=6, pending=0, queued=0, waiting=0, in_flight=0).now
    census.leave(second)
    live, gone = census.take()
    assert live == []
    assert (gone["decode"].received, gone["decode"].pending) == (14, 0)


def test_counters_of_stopped_actors_stay_in_the_process():
    label = "stops"
    collector = metrics.ActorCollector()
    for round_ in (1, 2):
        with FlashAttnActor.start(FlashAttnProps(label), executor="mock") as actor:
            with pytest.raises(MockModeError):
                actor.ask(MSG).result(10.0)
            values = samples(collector)
            assert values[("flashactor_requests_total", label)] == round_
            assert values[("flashactor_actors", label, "mock")] == 1
        values = samples(collector)
        assert values[("flashactor_requests_total", label)] == round_
        assert values[("flashactor_errors_total", label, "MockModeError")] == round_
        assert ("flashactor_actors", label, "mock") not in values


def test_a_stopped_actor_is_not_kept():
    actor = FlashAttnActor.start(executor="mock")
    kept = weakref.ref(actor)
    actor.stop()
    samples(metrics.ActorCollector())
    del actor
    gc.collect()
    assert kept() is None


def test_caches_and_compilers_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path))
    from flashactor.kernels.catalog import all_specs

    before = samples(metrics.ActorCollector())
    spec = next(spec for spec in all_specs(SmArch.SM80) if "combine" in spec.label)
    for _ in range(3):
        kernel_source().ask(spec).result(60.0)
    after = samples(metrics.ActorCollector())
    grown = {name: after[name] - before[name] for name in after if name[0].startswith("flashactor_c")}
    assert {name: count for name, count in grown.items() if count} == {
        ("flashactor_cache_hits_total", "memory"): 2,
        ("flashactor_cache_compiled_total",): 1,
        ("flashactor_compiler_asked_total",): 3,
        ("flashactor_compiler_delivered_total",): 3,
    }


def test_registering_twice_is_an_error():
    registry = CollectorRegistry()
    collector = metrics.register(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.register(registry)
    registry.unregister(collector)
    metrics.register(registry)


def test_the_endpoint_serves_this_machine_alone_and_stops():
    with metrics.serve(0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        with urlopen(server.url, timeout=10) as answer:
            assert ("flashactor_compiler_pending",) in parsed(answer.read().decode())
    server.close()
    with pytest.raises(URLError):
        urlopen(server.url, timeout=10)


def test_the_endpoint_of_a_registry():
    registry = CollectorRegistry()
    registry.register(metrics.ActorCollector([FakeActor("mine")]))
    with metrics.serve(0, registry=registry) as server, urlopen(server.url, timeout=10) as answer:
        assert ("flashactor_requests_total", "mine") in parsed(answer.read().decode())


@pytest.mark.parametrize("port", [70000, None])
def test_a_port_that_cannot_be_had(port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RequestError, match=r"metrics port: got 127\.0\.0\.1:"):
            metrics.serve(port or taken.getsockname()[1])


@pytest.fixture
def started():
    """Whatever the settings start is closed at the end."""
    endpoints.stop_started()
    yield
    endpoints.stop_started()


def test_the_settings_serve_once(started, tmp_path, caplog):
    caplog.set_level("INFO", logger="flashactor.telemetry")
    for _ in range(2):
        metrics.serve_once(Settings(tmp_path, metrics_port=0))
    (record,) = caplog.records
    assert (record.event, record.levelname) == ("metrics.served", "INFO")
    with urlopen(record.url, timeout=10) as answer:
        assert answer.status == 200


def test_a_port_that_another_process_has_is_a_warning(started, tmp_path, caplog):
    with metrics.serve(0) as other:
        metrics.serve_once(Settings(tmp_path, metrics_port=other.port))
        metrics.serve_once(Settings(tmp_path, metrics_port=other.port))
    (record,) = caplog.records
    assert (record.event, record.levelname, record.endpoint) == (
        "endpoint.refused",
        "WARNING",
        "metrics",
    )
    assert str(other.port) in record.error


def test_the_first_actor_serves_what_the_environment_asks_for(started, monkeypatch, caplog):
    caplog.set_level("INFO", logger="flashactor.telemetry")
    monkeypatch.setenv("FLASHACTOR_METRICS_PORT", "0")
    for label in ("first", "second"):
        with FlashAttnActor.start(FlashAttnProps(label), executor="mock"):
            (record,) = caplog.records
            with urlopen(record.url, timeout=10) as answer:
                values = parsed(answer.read().decode())
            assert values[("flashactor_actors", label, "mock")] == 1


def test_no_actor_starts_where_the_environment_asks_for_what_is_missing(started, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_METRICS_PORT", "0")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    before = live_actors()
    with pytest.raises(DeviceUnavailableError, match="prometheus_client"):
        FlashAttnActor.start(executor="mock")
    assert live_actors() == before


def test_without_the_setting_nothing_is_served(started, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "serve", None)  # to call it would fail
    metrics.serve_once(Settings(tmp_path))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_the_port_to_its_parent():
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    with metrics.serve(0) as server:
        child = context.Process(target=_wait, args=(held, done))
        child.start()
        assert held.wait(60.0)
        with urlopen(server.url, timeout=10) as answer:
            assert answer.status == 200
    with socket.socket() as free:  # the child is alive, and does not have it
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", server.port))
        free.listen()
    done.set()
    child.join(60.0)
    assert child.exitcode == 0


def _wait(held, done):
    held.set()
    done.wait(60.0)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for make in (metrics.ActorCollector, metrics.register, lambda: metrics.serve(0)):
        with pytest.raises(DeviceUnavailableError, match=r"pip install 'flashactor\[metrics\]'"):
            make()
