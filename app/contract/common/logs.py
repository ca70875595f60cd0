"""One way to log, for every process: a JSON line on stderr, or something readable on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str, *, process: str) -> None:
    """Set up structlog, and the standard library's loggers with it. `process` is a field of every line."""

    def name_process(logger: object, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    shared: list[structlog.types.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: structlog.types.Processor = structlog.processors.JSONRenderer(ensure_ascii=True)
    if sys.stderr.isatty():
        shared.pop()
        # structlog's own default shows local variables, prompts included.
        last = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=last))
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
