"""docs/observability.md: its examples run, and its tables are what the code does."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flashactor.cli.top import COLUMNS
from flashactor.telemetry.metrics import ActorCollector
from flashactor.telemetry.process_report import NUMBERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def table(heading):
    """The rows of the table whose first column has a heading, as lists of cells."""
    lines = PAGE[re.search(rf"^\| {re.escape(heading)} \|", PAGE, re.MULTILINE).start() :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.splitlines()[2:]]


def in_code(text):
    return re.findall(r"`([^`]+)`", text)


def run(example, tmp_path):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        env={"PATH": "", "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def example_with(text):
    (found,) = (example for example in EXAMPLES if text in example)
    return found


def test_every_example_is_run():
    assert len(EXAMPLES) == 5


def test_the_metrics_example(tmp_path):
    assert (
        'flashactor_requests_total{actor="decode"} 1.0' in run(example_with("metrics.serve"), tmp_path).stdout
    )


def test_the_monitor_example(tmp_path):
    assert re.fullmatch(r"\[\(\d+, 'flashattn', 0\)\]\n", run(example_with("monitor.serve"), tmp_path).stdout)


def test_the_log_example(tmp_path):
    lines = run(example_with("configure("), tmp_path).stderr.splitlines()
    events = {event["event"]: event for event in map(json.loads, lines)}
    assert events["request.failed"]["error_type"] == "MockModeError"
    assert {"actor.started", "actor.stopped"} <= set(events)


def test_the_span_example(tmp_path):
    spans = run(example_with("OpenTelemetryObserver"), tmp_path).stdout
    by_name = {span["name"]: span for span in json.loads("[" + spans.replace("}\n{", "},{") + "]")}
    request = by_name["flashactor.request"]
    assert request["parent_id"] == by_name["serve"]["context"]["span_id"]
    assert request["attributes"]["error.type"] == "MockModeError"


def test_the_range_example(tmp_path):
    assert "ActorStats(received=0" in run(example_with("NvtxObserver"), tmp_path).stdout


def test_the_metrics_are_those_of_the_collector():
    listed = {(in_code(row[0])[0].removesuffix("_total"), row[1]) for row in table("metric")}
    assert listed == {(metric.name, metric.type) for metric in ActorCollector().describe()}


def test_the_reports_fields_are_listed():
    listed = {name for row in table("field of an actor") for name in in_code(row[0])}
    assert {
        "id",
        "label",
        "executor",
        "max_in_flight",
        "mailbox_size",
        "errors",
        "phases",
        *NUMBERS,
    } == listed


def test_the_columns_of_top_are_listed():
    assert [name for row in table("column") for name in row[0].split(", ")] == list(COLUMNS)


def logged_events():
    """(event, level, its fields in the call) of every call of a logger that names an event."""
    for path in sorted((ROOT / "flashactor").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            name, level = node.args[0], node.func.attr.replace("exception", "error")
            if level not in ("debug", "info", "warning", "error", "critical"):
                continue
            if isinstance(name, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", name.value):
                yield name.value, level, {keyword.arg for keyword in node.keywords if keyword.arg}


def test_every_event_is_listed_with_its_level_and_fields():
    listed = {(in_code(row[0])[0], row[1]): set(row[3].split(", ")) for row in table("event")}
    logged = list(logged_events())
    assert {(name, level) for name, level, _ in logged} == set(listed), "correct docs/observability.md"
    for name, level, fields in logged:
        assert fields <= listed[(name, level)], name


@pytest.mark.parametrize("name", ["flashactor[metrics]", "flashactor[otel]", "flashactor[nvtx]"])
def test_the_extras_exist(name):
    declared = re.search(
        r"\[project\.optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.S
    )
    assert name in PAGE
    assert re.search(rf"^{name[11:-1]} = ", declared[1], re.MULTILINE)
