"""Actors that only count, and what Prometheus reads."""

from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from flashactor.actor.meter import BOUNDS, PHASES, ActorStats, Histogram


def durations(*seconds):
    """A histogram of them."""
    counts = [0] * (len(BOUNDS) + 1)
    for each in seconds:
        counts[sum(bound < each for bound in BOUNDS)] += 1
    return Histogram(BOUNDS, tuple(counts), sum(seconds))


def some_stats(**fields):
    """Stats of an actor that has computed two requests, in 1 ms and in 3 s; ``fields`` replace the rest."""
    usual = {
        "received": 7,
        "completed": 2,
        "failed": 1,
        "pending": 4,
        "queued": 3,
        "waiting": 1,
        "in_flight": 1,
        "restarts": 2,
        "generation": 3,
        "errors": {"LaunchError": 1},
        "phases": {phase: durations(0.001, 3.0) for phase in PHASES},
    }
    return ActorStats(**{**usual, **fields})


class FakeActor:
    """What telemetry asks of an actor."""

    def __init__(self, label="decode", executor_name="mock", is_alive=True, **fields):
        self.props = SimpleNamespace(label=label, max_in_flight=8, mailbox_size=1024)
        self.executor_name = executor_name
        self.is_alive = is_alive
        self.now = some_stats(**fields)

    def stats(self):
        return self.now


def parsed(text):
    """Every sample of an endpoint's text, by name and labels; no series is there twice."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in found}
    assert len(values) == len(found)
    return values
