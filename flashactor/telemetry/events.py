"""What happens to a request, for whoever wants to know: the interface between actors and telemetry."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashactor.telemetry.bound_log import LastingLogger

if TYPE_CHECKING:
    from flashactor.dispatch import DispatchKey


@dataclass(slots=True, eq=False)
class RequestEvent:
    """A request on its way through an actor, as observers see it.

    Attributes:
        actor: label of the actor.
        request_id: number of the request, unique in the process.
        caller, priority: as it was asked.
        key, kernel_name: what it resolved to; None and "" before the actor has looked at it.
        executor_name: who computes it.
        asked_at, taken_at, launched_at, settled_at: ``time.perf_counter`` of each step; 0 before it.
        compile_seconds, launch_seconds: as in ``Outcome``; 0 before it is settled.
        error: why it failed; None as long as it has not.
        notes: observers' own values, by the observer.
    """

    actor: str
    request_id: int
    caller: Hashable
    priority: int
    asked_at: float
    key: DispatchKey | None = None
    kernel_name: str = ""
    executor_name: str = ""
    taken_at: float = 0.0
    launched_at: float = 0.0
    settled_at: float = 0.0
    compile_seconds: float = 0.0
    launch_seconds: float = 0.0
    error: BaseException | None = None
    notes: dict[Any, Any] = field(default_factory=dict)


class Observer:
    """Hears of every request of the actors that it is given to (``FlashAttnProps.observers``).

    The methods are called on the threads that do the work, so they must be quick. What they raise is logged
    and reaches nobody.
    """

    def asked(self, event: RequestEvent) -> None:
        """On the caller's thread, before the actor gets the request."""

    def launching(self, event: RequestEvent) -> None:
        """On the actor's thread, before the request is submitted to the executor."""

    def launched(self, event: RequestEvent) -> None:
        """On the actor's thread, after it. The request may be settled by now."""

    def settled(self, event: RequestEvent) -> None:
        """On the thread that answers, once for each request, before the answer reaches the caller."""


log = LastingLogger("flashactor.telemetry")


def notify(observers: tuple[Observer, ...], step: str, event: RequestEvent) -> None:
    """Tell every observer of a step: the name of one of its methods."""
    for observer in observers:
        try:
            getattr(observer, step)(event)
        except KeyboardInterrupt:  # meant for the program, which happened to be here
            raise
        except BaseException:
            log.exception("an observer failed", extra={"observer": type(observer).__name__, "step": step})
