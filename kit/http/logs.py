"""Logs: one JSON line per event on standard error; a stable message, details in fields.

`logger.info("batch delivered", extra=fields(batch=7))`. Never a token, never a body.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` of a log call."""
    return {"fields": values}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class RedactMalformedRequest(logging.Filter):
    """aiohttp logs a malformed request with its bytes, which may contain a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        from aiohttp.http_exceptions import HttpProcessingError  # here, see `sidecar.__main__`

        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = "malformed request", ()
            record.exc_info = record.exc_text = None
            record.fields = {"reason": type(error).__name__, "status": error.code}
        return True


def configure(level: str, stream: TextIO | None = None) -> None:
    """Writes all loggers of the process to `stream` (standard error) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.server").addFilter(RedactMalformedRequest())
    # aiohttp's access log costs more than a cached read; metrics count requests.
    logging.getLogger("aiohttp.access").disabled = True
