"""Deadlines against a sorted list."""

import queue
from time import perf_counter

import pytest
from campaign_machine import SETTINGS
from hypothesis import given, settings
from hypothesis import strategies as st

from flashactor.actor import deadlines as module
from flashactor.actor.deadlines import Deadlines

PATIENCE = 10.0
BEGIN = 0.005
"""Seconds until the first deadline: all are added before."""

PLANS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)
"""Milliseconds after BEGIN, and whether it ends by itself as soon as it is added."""

deadlines = Deadlines()  # one for all examples: its thread never ends


class Timed:
    """Notes when it expires."""

    def __init__(self, when, number, settled, expired):
        self.when, self.number, self.settled = when, number, settled
        self._expired = expired

    def expire(self):
        self._expired.put((self, perf_counter()))
        if self.number % 7 == 3:
            raise OSError("must not end the thread")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("least_sweep", [4, 1024])
def test_each_expires_once_and_in_time_and_in_order(monkeypatch, least_sweep):
    monkeypatch.setattr(module, "LEAST_SWEEP", least_sweep)
    monkeypatch.setattr(deadlines, "_sweep_at", least_sweep)

    @settings(SETTINGS, max_examples=60)
    @given(plan=PLANS)
    def run(plan):
        begin, expired = perf_counter() + BEGIN, queue.SimpleQueue()
        entries = [
            Timed(begin + milliseconds / 1e3, number, settled, expired)
            for number, (milliseconds, settled) in enumerate(plan)
        ]
        last = Timed(begin + 0.006, len(plan), False, expired)
        for timed in (*entries, last):
            deadlines.add(timed.when, timed)
        in_time = perf_counter() < begin
        found = []
        while not found or found[-1][0] is not last:
            found.append(expired.get(timeout=PATIENCE))
        numbers = [timed.number for timed, _ in found]
        assert len(set(numbers)) == len(numbers)
        assert {timed.number for timed in entries if not timed.settled} <= set(numbers)
        assert all(at >= timed.when for timed, at in found)
        if in_time:  # else the first ones expired before the others came
            assert found == sorted(found, key=lambda pair: (pair[0].when, pair[0].number))
        assert len(deadlines) == 0

    run()


def test_what_is_settled_does_not_pile_up():
    many = Deadlines()
    for number in range(10 * module.LEAST_SWEEP):
        many.add(perf_counter() + 3600.0, Timed(0.0, number, True, None))
    assert len(many) <= module.LEAST_SWEEP
