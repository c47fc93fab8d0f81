"""Structured events: structlog's bound loggers, which end in the standard library's ``flashactor`` loggers.

An application that configures nothing sees what ``logging`` shows by default, warnings and worse;
``telemetry.logging.configure`` renders them. structlog's global configuration is neither used nor changed.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

_METHODS = frozenset({"debug", "info", "warning", "error", "critical", "exception"})


class LastingLogger:
    """A logger of the standard library's, for threads that answer messages.

    What the application's handlers and filters raise is printed, as ``logging`` prints what its own raise,
    and reaches nobody: it must not cost a message, or a thread.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._logger, name)
        return partial(_log, found) if name in _METHODS else found


def _log(method: Callable[..., None], *args: Any, **options: Any) -> None:
    options.setdefault("stacklevel", 2)
    try:
        method(*args, **options)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()


def bound_log(name: str, **context: Any) -> Any:
    """A structlog logger below ``flashactor.`` whose every event carries the context.

    The context and an event's own values are attributes of the ``logging.LogRecord``, and so is its name,
    ``event``; the record's message is a line of all of them.
    """
    import structlog  # 25 ms, and importing flashactor must not take it

    return structlog.wrap_logger(
        LastingLogger(f"flashactor.{name}"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _to_record,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind(**context)


def _to_record(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method of ``logging.Logger`` for an event."""
    options = {name: fields.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in fields}
    told = "".join(f" {name}={value}" for name, value in fields.items() if name != "event")
    return {"msg": f"{fields['event']}{told}", "extra": dict(fields), **options}
