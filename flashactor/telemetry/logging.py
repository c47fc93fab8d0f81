"""Log output: the standard library's loggers below ``flashactor``, rendered by structlog on stderr."""

from __future__ import annotations

import logging
import sys

import structlog

from flashactor.errors import RequestError

LEVELS = ("debug", "info", "warning", "error", "critical")


def configure(level: str = "warning") -> None:
    """Show the package's log records from ``level`` on; calling it again changes the level.

    Raises:
        RequestError: no such level.
    """
    if level.lower() not in LEVELS:
        raise RequestError(
            field="log level", got=repr(level), expected="one of " + ", ".join(LEVELS), remedy="choose one"
        )
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
        )
    )
    logger = logging.getLogger("flashactor")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
