"""Logging: the package's records on stderr, at the level that was asked for, as text or as JSON."""

import json
import logging

import pytest

from flashactor.errors import RequestError
from flashactor.telemetry.bound_log import bound_log
from flashactor.telemetry.logging import configure


def test_records_show_logger_level_and_message(capsys):
    configure("info")
    logging.getLogger("flashactor.actor").info("took %s", "it")
    logging.getLogger("flashactor.actor").debug("hidden")
    shown = capsys.readouterr().err
    assert "took it" in shown
    assert "flashactor.actor" in shown
    assert "info" in shown
    assert "hidden" not in shown


def test_a_bound_loggers_context_and_values_are_shown(capsys):
    configure("info")
    bound_log("actor", actor="decode").info("actor.restarted", generation=2)
    shown = capsys.readouterr().err
    assert "actor.restarted" in shown
    assert "actor=decode" in shown
    assert "generation=2" in shown


def test_a_plain_configuration_shows_the_values_too(caplog):
    bound_log("actor", actor="decode").warning("actor.failed", error="50%s of it")
    (record,) = caplog.records
    assert record.getMessage() == "actor.failed actor=decode error=50%s of it"
    assert (record.event, record.actor) == ("actor.failed", "decode")


def test_json_is_one_object_a_line(capsys):
    configure("info", json=True)
    log = bound_log("actor", actor="decode")
    log.info("actor.restarted", generation=2, caller=("a", 1))
    try:
        raise RequestError("field", "got", "expected", "remedy")
    except RequestError:
        log.exception("actor.failed")
    restarted, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert restarted.pop("timestamp") < failed.pop("timestamp")
    assert restarted == {
        "event": "actor.restarted",
        "level": "info",
        "logger": "flashactor.actor",
        "actor": "decode",
        "generation": 2,
        "caller": ["a", 1],
    }
    assert "RequestError: field: got got" in failed["exception"]


def test_json_takes_values_that_json_does_not_know(capsys):
    configure("info", json=True)
    bound_log("actor", caller=object).info("asked")
    assert json.loads(capsys.readouterr().err)["caller"] == repr(object)


def test_configuring_again_changes_the_level_and_adds_nothing(capsys):
    configure("error")
    configure("debug")
    logging.getLogger("flashactor").debug("once")
    assert capsys.readouterr().err.count("once") == 1


def test_an_unknown_level():
    with pytest.raises(RequestError, match="one of debug, info"):
        configure("loud")
