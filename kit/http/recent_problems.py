"""What a process logged lately that an operator should see, grouped and without ids."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

MAX_GROUPS = 50
"""The least recent is forgotten first."""


@dataclass(slots=True)
class _Group:
    level: str
    count: int = 0
    last_at: float = 0.0


class RecentProblems(logging.Handler):
    """Counts warnings, errors and failed calls by message and reason, for `/status` and the page.

    The message is a constant of the code and the reason a problem's slug: neither names anybody.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._groups: OrderedDict[tuple[str, str], _Group] = OrderedDict()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Collects from all loggers of the process, for the block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        reason, _ = getattr(record, "limited", ("", ""))
        if record.levelno < logging.WARNING and not reason:
            return
        # The format, not the text: what is filled in may be anything.
        key = (str(record.msg), str(reason))
        group = self._groups.setdefault(key, _Group(record.levelname.lower()))
        group.count += 1
        group.last_at = self._monotonic()
        self._groups.move_to_end(key)
        if len(self._groups) > MAX_GROUPS:
            self._groups.popitem(last=False)

    def describe(self) -> list[dict[str, Any]]:
        """The most recent first: message, reason, level, count, seconds since the last."""
        with self.lock or threading.Lock():
            groups = list(self._groups.items())
        now = self._monotonic()
        return [
            {
                "message": message,
                "reason": reason or None,
                "level": group.level,
                "count": group.count,
                "last_s_ago": now - group.last_at,
            }
            for (message, reason), group in reversed(groups)
        ]
