"""RequestLog: an event a step, with the request's fields."""

import logging

import pytest

from flashactor.errors import MailboxFullError
from flashactor.telemetry.request_log import RequestLog

FIELDS = {
    "actor": "decode",
    "request_id": 7,
    "kernel_name": "flashactor::fa3::fwd<bf16, 128, causal>_gqa4",
    "executor": "mock",
    "priority": 2,
    "caller": None,
}


@pytest.fixture
def records(caplog):
    """A function that gives what ``flashactor.requests`` has logged, at level debug."""
    caplog.set_level(logging.DEBUG, logger="flashactor.requests")
    return lambda: caplog.records


def fields_of(record, names):
    return {name: getattr(record, name) for name in names}


def test_a_request_that_is_computed(event, records):
    event.go_through(RequestLog())
    launched, completed = records()
    assert (launched.event, completed.event) == ("request.launched", "request.completed")
    assert fields_of(launched, FIELDS) == fields_of(completed, FIELDS) == FIELDS
    assert launched.key == f"{event.key.stable_hash():016x}"
    timings = fields_of(completed, ("seconds", "compile_seconds", "launch_seconds"))
    assert timings == {"seconds": 4.0, "compile_seconds": 0.25, "launch_seconds": 0.5}
    assert {record.levelno for record in records()} == {logging.DEBUG}


def test_a_request_that_fails_before_it_has_a_key(event, records):
    event.key, event.kernel_name = None, ""
    event.settled_at = event.asked_at + 0.5
    event.error = MailboxFullError("mailbox", 3, "room", "wait")
    RequestLog().settled(event)
    (failed,) = records()
    assert failed.event == "request.failed"
    assert (failed.key, failed.error_type, failed.seconds) == ("", "MailboxFullError", 0.5)
    assert "mailbox: got 3" in failed.error


def test_the_end_is_not_followed_by_the_launch(event, records):
    """An executor that computes at once answers before it returns."""
    event.settled_at = event.asked_at + 1.0
    log = RequestLog()
    log.settled(event)
    log.launched(event)
    assert [record.event for record in records()] == ["request.completed"]


def test_nothing_is_made_that_nobody_hears(event, caplog):
    caplog.set_level(logging.INFO, logger="flashactor.requests")
    event.key = object()  # has no hash to ask for
    event.go_through(RequestLog())
    assert caplog.records == []
