"""Who must not wait for whom."""

import threading

import pytest
from actor_tools import PATIENCE, InThread

from flashactor.actor.blocking import Server, serving, waiting_for, would_deadlock
from flashactor.errors import BlockingAskError


class Waiting:
    """A thread that serves an actor and waits for another one, until ``end``."""

    def __init__(self, mine, other):
        self._begun, self._end = threading.Event(), threading.Event()
        self._thread = InThread(self._run, mine, other)
        assert self._begun.wait(PATIENCE)

    def _run(self, mine, other):
        with serving(mine), waiting_for(other):
            self._begun.set()
            assert self._end.wait(PATIENCE)

    def end(self):
        self._end.set()
        self._thread.result()


@pytest.fixture
def servers():
    return [Server() for _ in range(4)]


def test_a_thread_that_serves_nobody_waits_for_anybody(servers):
    assert not would_deadlock(servers[0])
    with waiting_for(servers[0]):
        assert not would_deadlock(servers[0])


def test_nobody_waits_for_an_actor_that_waits_for_it_in_any_number_of_steps(servers):
    first, second, third, fourth = servers
    waiting = [Waiting(first, second), Waiting(second, third)]
    with serving(third):
        assert would_deadlock(third)
        assert would_deadlock(first)
        assert not would_deadlock(fourth)
        with pytest.raises(BlockingAskError), waiting_for(first):
            pass
    with serving(fourth):
        assert not would_deadlock(first)
    for thread in waiting:
        thread.end()
    with serving(third):
        assert not would_deadlock(first)


def test_a_thread_that_serves_several_waits_for_none_of_them(servers):
    first, second, third, _ = servers
    with serving(first), serving(second), serving(None):
        assert would_deadlock(first)
        assert would_deadlock(second)
        assert not would_deadlock(third)
    with serving(second):
        assert not would_deadlock(first)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_threads_of_an_actor_each_forgets_its_own_wait(servers, order):
    mine, first, second, _ = servers
    waiting = [Waiting(mine, first), Waiting(mine, second)]
    waiting[order[0]].end()
    still, no_more = (second, first) if order[0] == 0 else (first, second)
    with serving(still):
        assert would_deadlock(mine)
    with serving(no_more):
        assert not would_deadlock(mine)
    waiting[order[1]].end()
    with serving(still):
        assert not would_deadlock(mine)
