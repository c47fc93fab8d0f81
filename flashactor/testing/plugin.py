"""pytest fixtures. pytest loads this module in every run wherever flashactor is installed.

So nothing is imported here but pytest; the fixtures load what they need when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from flashactor.actor.messages import FlashAttnProps
    from flashactor.executors.base import Executor
    from flashactor.service import FlashAttnActor
    from flashactor.testing.cleanup import ActorsOfATest
    from flashactor.testing.faults import Fault, FaultPlan, RandomFaults
    from flashactor.testing.recorder import Recorder
    from flashactor.testing.script import ScriptedExecutor


class StartFaulty(Protocol):
    """The type of ``flash_faults``."""

    def __call__(
        self,
        *faults: Fault | RandomFaults,
        plan: FaultPlan | None = None,
        inner: Callable[[], Executor] | None = None,
        renewable: bool | None = None,
        props: FlashAttnProps | None = None,
    ) -> FlashAttnActor:
        """Start an actor whose executor fails as planned.

        Args:
            faults, plan, renewable: as for ``FaultInjectingExecutor``.
            inner: makes the executor that computes, anew after each restart; default: ``flash_script``.
            props: how to start it.
        """


@pytest.fixture
def flash_script() -> Iterator[ScriptedExecutor]:
    """What ``flash_actor`` answers: add rules with ``reply``, ``call``, ``fail`` and ``hold``."""
    from flashactor.testing.script import ScriptedExecutor

    script = ScriptedExecutor()
    yield script
    script.close()


@pytest.fixture
def flash_recorder() -> Recorder:
    """What the actors of ``flash_actor`` and ``flash_faults`` launched."""
    from flashactor.testing.recorder import Recorder

    return Recorder()


@pytest.fixture
def flash_actor(
    flash_script: ScriptedExecutor, flash_recorder: Recorder, _flash_actors: ActorsOfATest
) -> FlashAttnActor:
    """A running actor that answers by ``flash_script`` and is watched by ``flash_recorder``.

    It is stopped after the test, which fails if an ask is still unanswered then.
    """
    return _flash_actors.start(None, flash_recorder.watch(flash_script))


@pytest.fixture
def flash_faults(
    flash_script: ScriptedExecutor, flash_recorder: Recorder, _flash_actors: ActorsOfATest
) -> StartFaulty:
    """Starts actors that fail as planned: ``actor = flash_faults(Fault.fail_launch(2))``.

    They are watched by ``flash_recorder`` and stopped after the test, as ``flash_actor`` is.
    """
    from flashactor.testing.fault_injection import FaultInjectingExecutor
    from flashactor.testing.faults import FaultPlan

    def start(
        *faults: Fault | RandomFaults,
        plan: FaultPlan | None = None,
        inner: Callable[[], Executor] | None = None,
        renewable: bool | None = None,
        props: FlashAttnProps | None = None,
    ) -> FlashAttnActor:
        shared = FaultPlan(*faults) if plan is None else plan

        def executor() -> Executor:
            computing = flash_script if inner is None else inner()
            return flash_recorder.watch(FaultInjectingExecutor(computing, plan=shared, renewable=renewable))

        return _flash_actors.start(props, executor)

    return start


@pytest.fixture
def _flash_actors() -> Iterator[ActorsOfATest]:
    from flashactor.testing.cleanup import ActorsOfATest

    actors = ActorsOfATest()
    yield actors
    left = actors.stop()
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
