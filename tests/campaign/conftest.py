"""Options of the campaign, and what its tests have in common."""

import logging

import pytest

from flashactor.actor import incarnation

STUCK_SECONDS = 0.2
"""Less than an actor in earnest allows, because the campaign waits for it often."""


def pytest_addoption(parser):
    group = parser.getgroup("campaign")
    group.addoption("--campaign-seed", type=int, help="run the schedule of one seed, several times")
    group.addoption("--campaign-schedules", type=int, default=1050, help="how many schedules to run")


@pytest.fixture
def quiet(monkeypatch):
    """Actors that fail log that, and these fail by the thousand; nor do they wait long for stuck threads."""
    monkeypatch.setattr(incarnation, "STUCK_SECONDS", STUCK_SECONDS)
    log = logging.getLogger("flashactor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(level)
