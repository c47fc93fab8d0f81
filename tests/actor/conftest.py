"""Actors of one test."""

import pytest
from actor_tools import PATIENCE, Kernels

from flashactor import FlashAttnActor, FlashAttnProps
from flashactor.executors.base import Outputs
from flashactor.executors.mock import MockExecutor


@pytest.fixture
def start():
    """Starts actors, by default on held ``Kernels``; afterwards everything they were asked is answered."""
    started = []

    def start(kernels=None, **props):
        kernels = Kernels() if kernels is None else kernels
        actor = FlashAttnActor.start(FlashAttnProps(**props), kernels)
        started.append((actor, kernels))
        return actor, kernels

    yield start
    for _, kernels in started:
        if isinstance(kernels, Kernels):
            kernels.open()
    for actor, _ in started:
        actor.stop(PATIENCE)
        stats = actor.stats()
        assert (stats.pending, stats.queued, stats.in_flight) == (0, 0, 0)
        assert stats.received == stats.completed + stats.failed


@pytest.fixture
def reentrant(start):
    """Starts an actor whose executor calls a function, on the actor's thread, for each launch."""

    def begin(function, **props):
        def script(work):
            return Outputs(out=function(actor, work))

        actor = start(MockExecutor(script=script), **props)[0]
        return actor

    return begin
