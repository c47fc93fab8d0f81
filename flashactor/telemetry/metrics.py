"""Prometheus metrics of this process's actors, compilers and cache.

They are read when somebody asks for them: requests pay nothing for it. docs/observability.md lists them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import accumulate
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from flashactor.actor.census import ACTORS, Counted
from flashactor.actor.pool_stats import total_of
from flashactor.errors import RequestError
from flashactor.telemetry.bound_log import bound_log
from flashactor.telemetry.endpoints import opened, start_once
from flashactor.telemetry.extras import require

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from flashactor.actor.meter import ActorStats, Histogram
    from flashactor.actor.nvrtc_actor import NvrtcActor
    from flashactor.settings import Settings

GAUGES = {
    "pending": "Requests that are not answered yet.",
    "queue_depth": "Requests in the mailbox: not launched yet.",
    "waiting": "Requests outside of a full mailbox.",
    "in_flight": "Requests that are launched and not done.",
    "generation": "Number of the present thread and executor, from 1; the highest of those with one label.",
}
CACHE_COUNTS = {
    "compiled": "Kernels that were compiled.",
    "failed": "Compiles that failed.",
    "waited": "Kernels that another thread or process made meanwhile; each is a hit too.",
    "damaged": "Entries that were not what was stored.",
    "not_stored": "Kernels that are in memory alone.",
    "evicted": "Kernels that went because the folder was full.",
}
CACHE_LAYERS = ("memory", "disk", "bundle")
COMPILER_COUNTS = {
    "asked": "Asks for a kernel.",
    "joined": "Of them, those that another ask's work answered.",
    "delivered": "Kernels that were found or compiled.",
    "failed": "Kernels that were not.",
}


class ActorCollector:
    """What Prometheus asks. Actors with one label are one series: their sums.

    A counter never goes back: those of actors that have stopped stay in it as long as the process lives.
    """

    def __init__(self, actors: Iterable[Counted] | None = None) -> None:
        """Count all actors of the process, or the given ones alone.

        Raises:
            DeviceUnavailableError: the package ``prometheus_client`` is not installed.
        """
        require("prometheus_client", "metrics")
        self._actors = None if actors is None else tuple(actors)

    def describe(self) -> Iterator[Metric]:
        """The metrics without values, so that a registry finds two collectors with the same names."""
        yield from _actor_metrics({}, {})
        yield from _compiler_metrics(())

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        live, gone = ACTORS.take() if self._actors is None else (self._actors, {})
        running: dict[tuple[str, str], int] = {}
        stats = {label: [last] for label, last in gone.items()}
        for actor in live:
            stats.setdefault(actor.props.label, []).append(actor.stats())
            if actor.is_alive:
                named = (actor.props.label, actor.executor_name)
                running[named] = running.get(named, 0) + 1
        yield from _actor_metrics({label: total_of(several) for label, several in stats.items()}, running)
        if self._actors is None:
            from flashactor.service import nvrtc_actors

            yield from _compiler_metrics(nvrtc_actors())


def _actor_metrics(
    by_label: Mapping[str, ActorStats], running: Mapping[tuple[str, str], int]
) -> Iterator[Metric]:
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    actors = GaugeMetricFamily("flashactor_actors", "Running actors.", labels=["actor", "executor"])
    for named, count in running.items():
        actors.add_metric(named, count)
    requests = CounterMetricFamily("flashactor_requests", "Requests that were asked.", labels=["actor"])
    errors = CounterMetricFamily(
        "flashactor_errors", "Requests that failed, by type of error.", labels=["actor", "type"]
    )
    restarts = CounterMetricFamily(
        "flashactor_restarts", "Times that thread and executor were replaced.", labels=["actor"]
    )
    gauges = {
        name: GaugeMetricFamily(f"flashactor_{name}", help_, labels=["actor"])
        for name, help_ in GAUGES.items()
    }
    phases = HistogramMetricFamily(
        "flashactor_phase_seconds", "Durations of completed requests by phase.", labels=["actor", "phase"]
    )
    for label, stats in by_label.items():
        requests.add_metric([label], stats.received)
        for type_, count in stats.errors.items():
            errors.add_metric([label, type_], count)
        restarts.add_metric([label], stats.restarts)
        for name, gauge in gauges.items():
            value = stats.queued - stats.waiting if name == "queue_depth" else getattr(stats, name)
            gauge.add_metric([label], value)
        for phase, histogram in stats.phases.items():
            phases.add_metric([label, phase], _buckets(histogram), histogram.sum)
    yield from (actors, requests, errors, restarts, *gauges.values(), phases)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds as text, each with the number of durations up to it."""
    bounds = (*(f"{bound:g}" for bound in histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _compiler_metrics(compilers: Iterable[NvrtcActor]) -> Iterator[Metric]:
    """The sums of all compile actors and caches of the process: nobody cares which of them it was."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    from flashactor.cache import CubinCache

    asked: dict[str, int] = {}
    cached: dict[str, int] = {}
    for compiler in compilers:
        _add(asked, asdict(compiler.stats()))
        if isinstance(compiler.cache, CubinCache):
            _add(cached, asdict(compiler.cache.counts()))
    hits = CounterMetricFamily(
        "flashactor_cache_hits", "Kernels that were found, by layer.", labels=["layer"]
    )
    for layer in CACHE_LAYERS:
        hits.add_metric([layer], cached.get(f"{layer}_hits", 0))
    yield hits
    for name, help_ in CACHE_COUNTS.items():
        yield CounterMetricFamily(f"flashactor_cache_{name}", help_, value=cached.get(name, 0))
    for name, help_ in COMPILER_COUNTS.items():
        yield CounterMetricFamily(f"flashactor_compiler_{name}", help_, value=asked.get(name, 0))
    pending = "Kernels that are asked for and not there yet."
    yield GaugeMetricFamily("flashactor_compiler_pending", pending, value=asked.get("pending", 0))


def _add(sums: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        sums[name] = sums.get(name, 0) + count


def register(registry: CollectorRegistry | None = None) -> ActorCollector:
    """Add the metrics of all actors to a registry that the application serves itself.

    Args:
        registry: default: ``prometheus_client.REGISTRY``.

    Returns:
        The collector, which ``registry.unregister`` takes.

    Raises:
        DeviceUnavailableError: the package ``prometheus_client`` is not installed.
        ValueError: the registry has them already.
    """
    collector = ActorCollector()
    from prometheus_client import REGISTRY

    (REGISTRY if registry is None else registry).register(cast(Any, collector))
    return collector


class MetricsServer:
    """An HTTP endpoint of this process, on a thread of its own; ``serve`` starts one.

    Attributes:
        host: address that it listens on.
        port: number of its port.
    """

    def __init__(self, server: Any, thread: threading.Thread, host: str) -> None:
        self._server, self._thread = server, thread
        self.host = host
        self.port: int = server.server_port
        opened(self)

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return f"http://{self.host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop serving; twice is once."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """In a forked child: leave the port to the parent, whose thread serves it."""
        self._server.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(port: int, host: str = "127.0.0.1", registry: CollectorRegistry | None = None) -> MetricsServer:
    """Serve metrics over HTTP.

    Args:
        port: 0 takes any that is free.
        host: by default processes of this machine alone can read them. There is no password.
        registry: default: one of its own, with nothing but this package's metrics.

    Raises:
        DeviceUnavailableError: the package ``prometheus_client`` is not installed.
        RequestError: the port cannot be had.
    """
    require("prometheus_client", "metrics")
    from prometheus_client import CollectorRegistry, start_http_server

    if registry is None:
        register(registry := CollectorRegistry())
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise RequestError(
            field="metrics port",
            got=f"{host}:{port}: {error}",
            expected="a port of this machine that nobody else serves",
            remedy="choose another, or 0 for any that is free",
        ) from error
    return MetricsServer(server, thread, host)


def serve_once(settings: Settings) -> None:
    """Serve what FLASHACTOR_METRICS_PORT asks for, the first time that an actor of this process starts.

    A port that another process has costs a warning and nothing else.

    Raises:
        DeviceUnavailableError: the package ``prometheus_client`` is not installed.
    """
    port = settings.metrics_port
    if port is not None:
        start_once("metrics", lambda: _serve_and_tell(port))


def _serve_and_tell(port: int) -> MetricsServer:
    served = serve(port)
    bound_log("telemetry").info("metrics.served", url=served.url)
    return served
