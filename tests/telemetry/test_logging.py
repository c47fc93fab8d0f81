"""Logging: the package's records on stderr, at the level that was asked for."""

import logging

import pytest

from flashactor.errors import RequestError
from flashactor.telemetry.logging import configure


@pytest.fixture(autouse=True)
def put_back():
    logger = logging.getLogger("flashactor")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_records_show_logger_level_and_message(capsys):
    configure("info")
    logging.getLogger("flashactor.actor").info("took %s", "it")
    logging.getLogger("flashactor.actor").debug("hidden")
    shown = capsys.readouterr().err
    assert "took it" in shown
    assert "flashactor.actor" in shown
    assert "info" in shown
    assert "hidden" not in shown


def test_configuring_again_changes_the_level_and_adds_nothing(capsys):
    configure("error")
    configure("debug")
    logging.getLogger("flashactor").debug("once")
    assert capsys.readouterr().err.count("once") == 1


def test_an_unknown_level():
    with pytest.raises(RequestError, match="one of debug, info"):
        configure("loud")
