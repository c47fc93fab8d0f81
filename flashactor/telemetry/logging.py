"""Log output: the standard library's loggers below ``flashactor``, rendered by structlog on stderr.

docs/observability.md lists every event with its level and fields.
"""

from __future__ import annotations

import logging
import sys

import structlog

from flashactor.errors import RequestError

LEVELS = ("debug", "info", "warning", "error", "critical")


def configure(level: str = "warning", json: bool = False) -> None:
    """Show the package's log records from ``level`` on; calling it again changes the level and the form.

    Args:
        level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
        json: one JSON object a line, for programs, in place of text for people.

    Raises:
        RequestError: no such level.
    """
    if level.lower() not in LEVELS:
        raise RequestError(
            field="log level", got=repr(level), expected="one of " + ", ".join(LEVELS), remedy="choose one"
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso"),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(json)],
        )
    )
    logger = logging.getLogger("flashactor")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _renderers(json: bool) -> list[structlog.typing.Processor]:
    if not json:
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
