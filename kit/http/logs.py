"""Logs: one JSON line per event on standard error; a stable message, details in fields.

`logger.info("batch delivered", extra=fields(batch=7))`. Never a token, never a body.

Lines that a caller can cause are limited by their reason (`limited_fields`): a hostile or broken
caller must not fill a disk or hide the others. What is left out is counted in a line of its own,
with the ids by which somebody would search for it.

The level can be changed while the process runs (ADR 62): SIGUSR1 sets `debug`, which also ends the
limit, and SIGUSR2 the configured level.
"""

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

LINES_PER_PERIOD = 10
PERIOD_S = 10.0
MAX_IDS = 200
"""Of the lines of one reason and period that were left out."""
MAX_REASONS = 200
"""Reasons that are limited each by itself; others share one limit. Central names its own."""


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` of a log call."""
    return {"fields": values}


def limited_fields(reason: str, found_by: str, /, **values: Any) -> dict[str, Any]:
    """The `extra` of a line of which `LINES_PER_PERIOD` are written per reason and `PERIOD_S`.

    `found_by` is the id that is named in any case.
    """
    return {"fields": values, "limited": (reason, found_by)}


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


@dataclass(slots=True)
class _Period:
    """What was logged for one message and reason since `began_at`."""

    began_at: float
    line_count: int = 0
    left_out_count: int = 0
    ids: list[str] = field(default_factory=list)


class LimitingHandler(logging.StreamHandler[TextIO]):
    """Writes lines, those with a reason within their limit.

    The lines left out are reported when their period ends: by a timer of the running loop, with
    the next line of the reason, or when the handler is closed at exit.
    """

    def __init__(self, stream: TextIO, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._monotonic = monotonic
        self._periods: dict[tuple[str, str], _Period] = {}

    def emit(self, record: logging.LogRecord) -> None:
        reason, found_by = getattr(record, "limited", ("", ""))
        is_free = not reason or logging.getLogger().level <= logging.DEBUG
        if is_free or self._is_within_limit(record.getMessage(), reason, found_by):
            super().emit(record)

    def _is_within_limit(self, message: str, reason: str, found_by: str) -> bool:
        key, now = (message, reason), self._monotonic()
        period = self._periods.get(key)
        if period is not None and now - period.began_at >= PERIOD_S:
            self._report(key)
            period = None
        if period is None:
            if len(self._periods) >= MAX_REASONS:
                self._end_old_periods(now)
            if len(self._periods) >= MAX_REASONS:
                key = (message, "other")
            period = self._periods.setdefault(key, _Period(now))
        period.line_count += 1
        if period.line_count <= LINES_PER_PERIOD:
            return True
        if not period.left_out_count:
            self._report_later(key, period)
        period.left_out_count += 1
        if len(period.ids) < MAX_IDS:
            period.ids.append(found_by)
        return False

    def _end_old_periods(self, now: float) -> None:
        for key, period in tuple(self._periods.items()):
            if now - period.began_at >= PERIOD_S:
                self._report(key)

    def _report_later(self, key: tuple[str, str], period: _Period) -> None:
        def report() -> None:
            if self._periods.get(key) is period:  # a later one has its own timer
                self._report(key)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a thread of its own: the next line or the end reports it
        loop.call_later(PERIOD_S, report)

    def _report(self, key: tuple[str, str]) -> None:
        """Ends the period, and names what it left out."""
        with self.lock or nullcontext():
            period = self._periods.pop(key, None)
            if period is None or not period.left_out_count:
                return
            message, reason = key
            record = logging.LogRecord(
                __name__, logging.WARNING, "", 0, "lines left out", None, None
            )
            record.fields = {
                "of": message,
                "reason": reason,
                "count": period.left_out_count,
                "ids": period.ids,
            }
            super().emit(record)

    def close(self) -> None:
        for key in tuple(self._periods):
            self._report(key)
        super().close()


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
    handler = LimitingHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.server").addFilter(RedactMalformedRequest())
    # aiohttp's access log costs more than a cached read; metrics count requests.
    logging.getLogger("aiohttp.access").disabled = True


def change_level_on_signals(level: str) -> None:
    """SIGUSR1 sets `debug`, SIGUSR2 the configured `level`. Called on the running loop."""
    loop = asyncio.get_running_loop()
    for number, wanted in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, level)):
        loop.add_signal_handler(number, _set_level, wanted)


def _set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())
    logging.getLogger(__name__).warning("log level changed", extra=fields(log_level=level))
