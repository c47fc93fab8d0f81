"""The errors with which actors answer, each worded once."""

from __future__ import annotations

from copy import copy
from typing import TypeVar

from flashactor.errors import (
    ActorFailedError,
    ActorStoppedError,
    AskCancelledError,
    AskTimeoutError,
    ContextPoisonedError,
    DependencyFailedError,
    FlashAttnError,
    MailboxFullError,
)

E = TypeVar("E", bound=FlashAttnError)

RUNS_ON = "its kernel still runs, and may write the outputs that the caller passed"
NOT_LAUNCHED = "it was not launched"


def retry(error: E, safe: bool) -> E:
    """The error, which says from now on whether a retry is safe."""
    error.retry_safe = safe
    return error


def own_copy(error: BaseException) -> BaseException:
    """One waiter's own error: whoever raises one adds frames, and those keep alive what they refer to."""
    own = copy(error)
    own.__cause__ = error.__cause__
    return own


def stopped_error(
    remedy: str = "start another with FlashAttnActor.start() and send it again", *, launched: bool = False
) -> ActorStoppedError:
    """The answer to a message that the actor will not finish."""
    state = RUNS_ON if launched else "it was not computed"
    error = ActorStoppedError("actor", "a stopped actor", "a running one", f"{remedy}: {state}")
    return retry(error, not launched)


def forked_error() -> ActorStoppedError:
    """The answer to a message in a forked child, which has none of its parent's threads."""
    return retry(
        ActorStoppedError(
            field="actor",
            got="an actor of the parent process, in a forked child",
            expected="an actor of this process",
            remedy="start one after the fork, or start processes with the 'spawn' method",
        ),
        True,
    )


def full_error(size: int, why: str = "") -> MailboxFullError:
    """The answer to a message for which there is no room."""
    return MailboxFullError(
        field="mailbox_size",
        got=f"a message more than {size}{why}",
        expected=f"at most {size} that wait to be launched",
        remedy="ask again later, raise mailbox_size, or start the actor with overflow='wait'",
    )


def timeout_error(seconds: float, *, launched: bool) -> AskTimeoutError:
    """The answer to a message whose time is over."""
    return retry(
        AskTimeoutError(
            field="timeout",
            got=f"no reply within {seconds:g} s",
            expected="a reply in time",
            remedy=f"allow more time, or ask for less at once: {RUNS_ON if launched else NOT_LAUNCHED}",
        ),
        not launched,
    )


def unkept_error(cause: RuntimeError) -> ActorFailedError:
    """The answer to a message whose deadline no thread can keep."""
    error = ActorFailedError(
        field="timeout",
        got=f"{type(cause).__name__}: {cause}",
        expected="a thread for deadlines",
        remedy=f"end some threads, or ask without a timeout: {NOT_LAUNCHED}",
    )
    error.__cause__ = cause.with_traceback(None)
    return retry(error, True)


def cancelled_error(*, launched: bool) -> AskCancelledError:
    """The answer to a message that was cancelled."""
    return retry(
        AskCancelledError(
            field="ask",
            got="a cancelled request",
            expected="one that somebody waits for",
            remedy=f"ask again: {RUNS_ON if launched else NOT_LAUNCHED}",
        ),
        not launched,
    )


def dependency_error(cause: BaseException) -> DependencyFailedError:
    """The answer to a message whose ``after=`` failed."""
    error = DependencyFailedError(
        field="after",
        got=f"{type(cause).__name__}: {cause}",
        expected="a request that succeeds",
        remedy="ask for both again: this one was not launched",
    )
    error.__cause__ = cause.with_traceback(None)
    return error


def actor_failed(
    error: BaseException, remedy: str = "report this as a bug of flashactor"
) -> ActorFailedError:
    """The answer to a message on which the actor itself failed."""
    failure = ActorFailedError(
        field="actor",
        got=f"{type(error).__name__}: {error}",
        expected="no error outside the FlashAttnError tree",
        remedy=f"{remedy}; the actor goes on",
    )
    failure.__cause__ = error
    return failure


def poisoned_answer(cause: ContextPoisonedError, *, renewable: bool) -> ContextPoisonedError:
    """The answer to a message that was launched in a context that is lost."""
    error = copy(cause)
    if renewable:
        error.remedy = "ask again: it runs in a new context"
    return retry(error, renewable)


def hung_error(seconds: float) -> ActorFailedError:
    """What is wrong with an executor that does not finish what it launched."""
    return ActorFailedError(
        field="hang_seconds",
        got=f"a launched request that is not done after {seconds:g} s",
        expected="its end in time",
        remedy="raise hang_seconds if requests may take so long",
    )


def in_flight_error(cause: BaseException, *, renewable: bool) -> FlashAttnError:
    """The answer to a message that was launched when its actor's thread or executor failed."""
    if isinstance(cause, ContextPoisonedError):
        return poisoned_answer(cause, renewable=renewable)
    error = ActorFailedError(
        field="actor",
        got=f"a failure of its executor: {type(cause).__name__}: {cause}",
        expected="an executor that goes on",
        remedy=f"ask again only with outputs of its own: {RUNS_ON}",
    )
    error.__cause__ = cause
    return error


def not_reached_error(cause: BaseException) -> ActorFailedError:
    """The answer to a message that a thread had taken out to launch it, and that was left as stuck then."""
    error = ActorFailedError(
        field="actor",
        got=f"a thread that did not notice in time: {type(cause).__name__}: {cause}",
        expected="a thread that runs",
        remedy=f"ask again: {NOT_LAUNCHED}",
    )
    error.__cause__ = cause
    return retry(error, True)


def given_up_error(cause: BaseException, failures: int, within: float) -> ActorFailedError:
    """The answer to every message of an actor that its supervisor does not start again."""
    error = ActorFailedError(
        field="restart",
        got=f"failure {failures} within {within:g} s: {type(cause).__name__}: {cause}",
        expected=f"at most {failures - 1}, as the RestartPolicy says",
        remedy="mend the cause, and start another actor: this one was not launched",
    )
    error.__cause__ = cause.with_traceback(None)  # its frames would keep arrays as long as the actor
    return retry(error, True)


def malformed_outcome(executor_name: str, outcome: object) -> ActorFailedError:
    """The answer to a message that an executor answered with something that is no answer."""
    got = type(outcome).__name__
    if isinstance(outcome, tuple):
        got = f"{got}({', '.join(type(part).__name__ for part in outcome)})"
    return ActorFailedError(
        field="outcome",
        got=got,
        expected="Outcome(outputs=Outputs(...)) or Outcome(error=...), with seconds as numbers",
        remedy=f"correct the {executor_name} executor; a mock's script returns Outputs(out=...)",
    )


def busy_error(timeout: float | None) -> AskTimeoutError:
    """The error of a ``stop`` that did not end in time."""
    return AskTimeoutError(
        field="timeout",
        got=f"an actor still busy after {timeout} s",
        expected="the end of what was asked before",
        remedy="wait longer; the actor stops when it is done",
    )
