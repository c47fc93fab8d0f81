"""Structured events: structlog's bound loggers, which end in the standard library's ``flashactor`` loggers.

An application that configures nothing sees what ``logging`` shows by default, warnings and worse;
``telemetry.logging.configure`` renders them. structlog's global configuration is neither used nor changed.
"""

from __future__ import annotations

import logging
from typing import Any


def bound_log(name: str, **context: Any) -> Any:
    """A structlog logger below ``flashactor.`` whose every event carries the context.

    The context and an event's own values are attributes of the ``logging.LogRecord``.
    """
    import structlog  # 25 ms, and importing flashactor must not take it

    return structlog.wrap_logger(
        logging.getLogger(f"flashactor.{name}"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind(**context)
