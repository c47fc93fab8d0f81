"""How executors answer from threads of their own: nothing that goes wrong there may be lost, or stop them."""

from __future__ import annotations

from flashactor.errors import ActorFailedError, ActorStoppedError
from flashactor.executors.base import Done, Outcome
from flashactor.telemetry.bound_log import LastingLogger

log = LastingLogger("flashactor.executors")


def answer(done: Done, outcome: Outcome) -> None:
    """Hand an outcome to its receiver; what that raises is logged and stops nobody."""
    try:
        done(outcome)
    except BaseException:
        log.exception("the receiver of an outcome failed")


def unexpected_error(error: BaseException, doing: str) -> ActorFailedError:
    """The answer where something was raised that is no error of this package."""
    failure = ActorFailedError(
        field="executor",
        got=f"{type(error).__name__}: {error} while {doing}",
        expected="no error outside the FlashAttnError tree",
        remedy="report this as a bug of flashactor; the executor goes on",
    )
    failure.__cause__ = error
    return failure


def closed_error() -> ActorStoppedError:
    """The answer of an executor that was closed or abandoned before."""
    error = ActorStoppedError(
        field="executor",
        got="a closed executor",
        expected="an open one",
        remedy="start another actor and send the request again: it was not computed",
    )
    error.retry_safe = True
    return error
