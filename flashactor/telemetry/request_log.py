"""A log event for each step of a request."""

from __future__ import annotations

import logging
from typing import Any

from flashactor.telemetry.bound_log import bound_log
from flashactor.telemetry.events import Observer, RequestEvent

NAME = "requests"


class RequestLog(Observer):
    """Logs every request's launch and end at level debug, below ``flashactor.requests``.

    The events are ``request.launched``, ``request.completed`` and ``request.failed``;
    docs/observability.md lists their fields.
    """

    def __init__(self) -> None:
        self._log = bound_log(NAME)
        self._logger = logging.getLogger(f"flashactor.{NAME}")

    def launched(self, event: RequestEvent) -> None:
        """``request.launched``; not of a request that has ended meanwhile."""
        if self._wanted() and not event.settled_at:
            self._log.debug("request.launched", **_fields(event))

    def settled(self, event: RequestEvent) -> None:
        """``request.completed`` or ``request.failed``."""
        if not self._wanted():
            return
        fields = {**_fields(event), "seconds": round(event.settled_at - event.asked_at, 6)}
        if event.error is None:
            self._log.debug(
                "request.completed",
                **fields,
                compile_seconds=round(event.compile_seconds, 6),
                launch_seconds=round(event.launch_seconds, 6),
            )
        else:
            self._log.debug(
                "request.failed", **fields, error=str(event.error), error_type=type(event.error).__name__
            )

    def _wanted(self) -> bool:
        """Whether anyone listens: making the fields takes longer than the question."""
        return self._logger.isEnabledFor(logging.DEBUG)


def _fields(event: RequestEvent) -> dict[str, Any]:
    key = event.key
    return {
        "actor": event.actor,
        "request_id": event.request_id,
        "key": "" if key is None else f"{key.stable_hash():016x}",
        "kernel_name": event.kernel_name,
        "executor": event.executor_name,
        "priority": event.priority,
        "caller": event.caller,
    }
