"""A thousand random schedules of failures, cancels, timeouts, restarts and stops, held to the rules."""

import threading

import pytest
from campaign_driver import LIMIT, run
from campaign_schedule import random_schedule

SCHEDULES_IN_A_TEST = 50
TRIES_OF_ONE_SEED = 20
"""Threads interleave differently each time."""


@pytest.fixture
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name != "flashactor-deadlines":  # that of the process
            thread.join(LIMIT)
            assert not thread.is_alive(), f"{thread.name} goes on"


def pytest_generate_tests(metafunc):
    if "seeds" in metafunc.fixturenames:
        one = metafunc.config.getoption("--campaign-seed", None)
        count = metafunc.config.getoption("--campaign-schedules", 1050)
        groups = [range(i, min(i + SCHEDULES_IN_A_TEST, count)) for i in range(0, count, SCHEDULES_IN_A_TEST)]
        if one is not None:
            groups = [[one] * TRIES_OF_ONE_SEED]
        metafunc.parametrize("seeds", groups, ids=[f"{group[0]}-{group[-1]}" for group in groups])


@pytest.mark.usefixtures("quiet", "no_thread_is_left")
def test_nothing_is_against_the_rules(seeds):
    for seed in seeds:
        schedule = random_schedule(seed)
        wrong = run(schedule)
        if wrong:
            again = f"python -m pytest tests/campaign --campaign-seed {seed}"
            pytest.fail("\n".join([*wrong, "", str(schedule), "", f"again: {again}"]), pytrace=False)
